-- surviving_ops: the replicas' operations that show in the room's state, as rows of history: current placements
-- outside Trash and, under the policy move+set, the current writes of properties. It leaves out the server's
-- corrections, which cause none themselves.
-- Locks, errors: none. Has no SET, so it can be inlined and conditions on node or seq reach the indexes; its names
-- are schema-qualified.
create function canopy.surviving_ops(p_room_id bigint, p_restore_on text)
returns setof canopy.history
language sql stable
as $$
  select n.room_id, n.ts, n.seq, 1::smallint, n.node, n.parent, n.order_key,
         null::text collate "C", null::json, n.known, n.cause, true
    from canopy.nodes n
   where n.room_id = p_room_id
     and n.parent <> '00000000-0000-0000-0000-000000000002'
     and n.cause is null
  union all
  select v.room_id, v.ts, v.seq, 2::smallint, v.node, null::uuid, null::text collate "C",
         v.key, v.value, v.known, null::uuid, true
    from canopy.values v
   where v.room_id = p_room_id
     and p_restore_on = 'move+set'
$$;
