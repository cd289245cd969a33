-- What compaction took out of a room's log (see COMPACTION.md). The room's digest goes on covering it, so
-- that replicas with the whole log and replicas without it have the same one.

alter table canopy.rooms
  add column folded_ops bigint not null default 0,   -- operations taken out of history,
  add column folded_log bigint not null default 0;   --   XOR of their log_hash
