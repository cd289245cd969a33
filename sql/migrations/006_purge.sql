-- Nodes that were purged from Trash (see COMPACTION.md). Only their ids stay, so that an operation that still
-- names one can be refused: whoever has the node yet would make another tree of it than everybody else.

alter table canopy.rooms
  add column purged       bigint not null default 0,  -- nodes purged
  add column folded_state bigint not null default 0;  -- XOR of the hashes of what was purged of the state

create table canopy.purged (
  room_id bigint not null,
  node    uuid not null,
  constraint purged_pkey primary key (room_id, node)
);
