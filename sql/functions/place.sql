-- place: logs one move that needs a look at its node's ancestors, and settles what it changes.
-- Arguments: room; the move, not logged yet; whether it is newer than every logged move, when nothing
-- can flip and one walk over the current parents decides.
-- Result: the change of the state digest. Cost: O(depth) in order, otherwise see settle.
-- Locks: none; the caller holds the room's row. Errors: CN500 (see is_ancestor). Not idempotent.
create function canopy.place(p_room_id bigint, p_op canopy.history, p_in_order boolean)
returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_in_order and not canopy.is_ancestor(p_room_id, p_op.node, p_op.parent, p_op.ts) then
    return canopy.set_placement(p_room_id, p_op, true, false);
  end if;
  insert into canopy.history select p_op.*;
  if p_in_order then
    return 0;
  end if;
  return canopy.settle(p_room_id, array[p_op.ts]);
end $$;
