-- erase: removes whole subtrees of Trash from a room, all but the ids of their nodes (see purge, which makes sure
-- that nothing can need them). The room's digests keep covering them.
-- Arguments: the room's row; the nodes. Returns nothing. Updates the room's row.
-- Locks: see uncount_buckets; the caller holds the room's row. Errors: none. Not idempotent.
create function canopy.erase(p_room canopy.rooms, p_nodes uuid[])
returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_gone  canopy.history[];
  v_state bigint;
begin
  with gone_nodes as (
    delete from canopy.nodes n where n.room_id = p_room.room_id and n.node = any(p_nodes) returning n.*
  ), gone_values as (
    delete from canopy.values v where v.room_id = p_room.room_id and v.node = any(p_nodes) returning v.*
  ), gone_moves as (
    delete from canopy.history h
     where h.room_id = p_room.room_id and h.node = any(p_nodes) and h.kind = 1
    returning h.*
  ), gone as (
    select row(n.room_id, n.ts, n.seq, 1, n.node, n.parent, n.order_key, null, null, n.known,
               n.cause, true)::canopy.history as op,
           canopy.placement_hash(n.node, n.parent, n.order_key) as state
      from gone_nodes n
    union all
    select row(v.room_id, v.ts, v.seq, 2, v.node, null, null, v.key, v.value, v.known,
               null, true)::canopy.history,
           canopy.value_hash(v.node, v.key, v.ts)
      from gone_values v
    union all
    select row(h.room_id, h.ts, h.seq, 1, h.node, h.parent, h.order_key, null, null, h.known,
               h.cause, h.effective)::canopy.history,
           0
      from gone_moves h
  )
  select array_agg(g.op), bit_xor(g.state) into v_gone, v_state from gone g;
  insert into canopy.purged (room_id, node) select p_room.room_id, u.node from unnest(p_nodes) as u(node);

  perform canopy.uncount_buckets(p_room.room_id, v_gone);
  update canopy.rooms r
     set purged = r.purged + cardinality(p_nodes),
         min_seq = greatest(r.min_seq, log.seq),
         folded_ops = r.folded_ops + log.ops,
         folded_log = r.folded_log # log.hash,
         folded_state = r.folded_state # v_state
    from (select max(g.seq) as seq, count(*) as ops,
                 bit_xor(canopy.log_hash(g.kind, g.ts, g.node, g.parent, g.order_key, g.key, g.value::text)) as hash
            from unnest(v_gone) as g) as log
   where r.room_id = p_room.room_id;
end $$;
