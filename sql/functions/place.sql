-- place: logs one move and its consequences. A node that no logged move names as parent cannot be an ancestor, so
-- its move is effective and flips no other, however late it is. Otherwise a walk up from the parent decides, and
-- only a move that is not the newest can flip others.
-- Arguments: room; the move; whether it is newer than every logged move.
-- Returns the change to the state digest; null if the move is ineffective, so that nothing changes.
-- Cost: O(depth) in order, otherwise see settle. (apply_one and apply_leaf_moves handle new leaves themselves.)
-- Locks: none; the caller holds the room's row. Errors: CN500 (see is_ancestor). Not idempotent. Has no SET (see
-- README.md, "Plans").
create function canopy.place(p_room_id bigint, p_op canopy.history, p_in_order boolean)
returns bigint
language plpgsql volatile
as $$
declare
  v_leaf  boolean;
  v_delta bigint;
  v_queue uuid[];
begin
  v_leaf := p_op.node <> p_op.parent
            and not exists (select from canopy.naming_move(p_room_id, p_op.node));
  if not v_leaf and canopy.is_ancestor(p_room_id, p_op.node, p_op.parent, p_op.ts) then
    insert into canopy.history values (p_op.*);
    return null;
  end if;
  if p_in_order then
    return coalesce(canopy.displace(p_room_id, p_op, true), canopy.set_placement(p_room_id, p_op, true, false));
  elsif v_leaf then
    return canopy.set_placement(p_room_id, p_op, true, false);
  end if;
  select f.delta, f.queue into v_delta, v_queue
    from canopy.flip(p_room_id, p_op, true, false) as f;
  return v_delta # canopy.settle(p_room_id, v_queue);
end $$;
