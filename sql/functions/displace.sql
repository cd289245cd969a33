-- displace: replaces a node's current move and sends the old row to history, so that every operation stays in
-- exactly one table.
-- Arguments: room; the move, not in any table; whether the displaced move is effective.
-- Returns the change to the state digest; null, having changed nothing, if the node has no placement.
-- Locks: none; the caller holds the room's row. Errors: none. Not idempotent. Has no SET (see README.md, "Plans").
create function canopy.displace(p_room_id bigint, p_op canopy.history, p_effective boolean)
returns bigint
language plpgsql volatile
as $$
declare
  v_parent    uuid;
  v_order_key text collate "C";
begin
  insert into canopy.history (room_id, ts, seq, kind, node, parent, order_key, known, cause, effective)
  select n.room_id, n.ts, n.seq, 1, n.node, n.parent, n.order_key, n.known, n.cause, p_effective
    from canopy.nodes n
   where n.room_id = p_room_id
     and n.node = p_op.node
  returning parent, order_key into v_parent, v_order_key;
  if not found then
    return null;
  end if;
  update canopy.nodes
     set parent = p_op.parent,
         order_key = p_op.order_key,
         ts = p_op.ts,
         seq = p_op.seq,
         known = p_op.known,
         cause = p_op.cause
   where room_id = p_room_id
     and node = p_op.node;
  return canopy.placement_hash(p_op.node, v_parent, v_order_key)
       # canopy.placement_hash(p_op.node, p_op.parent, p_op.order_key);
end $$;
