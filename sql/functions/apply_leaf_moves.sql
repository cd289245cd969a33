-- apply_leaf_moves: logs, in one statement, the moves of a batch that need no walk, and returns the rest. A move
-- is effective whatever else is in the log if its node cannot be an ancestor of anything at that time: no logged
-- move names the node as parent, and no move in the batch does, unless it comes later and the move itself is
-- newer than the whole log. Nor can such a move flip any other.
-- Arguments: room; its newest move before the batch; the batch's new operations.
-- Returns the change to the state digest and the remaining moves in timestamp order.
-- Locks: none; the caller holds the room's row. Errors: none. Not idempotent: the operations must be new.
-- Joins within the batch are hashed (the planner cannot know that an array has a thousand elements); table
-- lookups are LATERAL with LIMIT, which leaves only the index.
create function canopy.apply_leaf_moves(
  p_room_id bigint, p_newest uuid, p_ops canopy.history[],
  out delta bigint, out rest canopy.history[])
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set enable_nestloop = off
as $$
begin
  with batch as materialized (
    select o.* from unnest(p_ops) as o where o.kind = 1
  ), naming as (
    select distinct on (parent) parent as node, ts as first_ts from batch order by parent, ts
  ), classified as materialized (
    select b as op,
           cur as cur,
           named.seq is null
             and (naming.node is null or (b.ts > p_newest and b.ts < naming.first_ts)) as leaf
      from batch b
      left join naming on naming.node = b.node
      left join lateral (
        select n.* from canopy.nodes n where n.room_id = p_room_id and n.node = b.node limit 1
      ) as cur on true
      left join lateral canopy.naming_move(p_room_id, b.node) as named on true
  ), winner as materialized (
    select distinct on ((c.op).node) c.op, c.cur
      from classified c
     where c.leaf
     order by (c.op).node, (c.op).ts desc
  ), superseded as (
    insert into canopy.history
           (room_id, ts, seq, kind, node, parent, order_key, known, cause, effective)
    select p_room_id, (c.op).ts, (c.op).seq, 1, (c.op).node, (c.op).parent, (c.op).order_key,
           (c.op).known, null, true
      from classified c
      join winner w on (w.op).node = (c.op).node
     where c.leaf
       and ((c.op).ts < (w.op).ts or (c.op).ts < (w.cur).ts)
    union all
    select p_room_id, (w.cur).ts, (w.cur).seq, 1, (w.cur).node, (w.cur).parent, (w.cur).order_key,
           (w.cur).known, (w.cur).cause, true
      from winner w
     where (w.cur).ts < (w.op).ts
  ), placed as (
    insert into canopy.nodes as n (room_id, node, parent, order_key, ts, seq, known, cause)
    select p_room_id, (w.op).node, (w.op).parent, (w.op).order_key, (w.op).ts, (w.op).seq,
           (w.op).known, null
      from winner w
     where ((w.cur).ts < (w.op).ts) is not false
    on conflict (room_id, node) do update
       set parent = excluded.parent,
           order_key = excluded.order_key,
           ts = excluded.ts,
           seq = excluded.seq,
           known = excluded.known,
           cause = null
  )
  select coalesce((select bit_xor(
             canopy.placement_hash((w.op).node, (w.op).parent, (w.op).order_key)
             # canopy.placement_hash((w.op).node, (w.cur).parent, (w.cur).order_key))
           from winner w
          where ((w.cur).ts < (w.op).ts) is not false), 0),
         array(select c.op from classified c where not c.leaf order by (c.op).ts)
    into delta, rest;
end $$;
