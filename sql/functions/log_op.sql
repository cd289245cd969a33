-- log_op: logs one new operation and brings the state up to date, which apply_sets, apply_leaf_moves,
-- mark_named and place do for a batch.
-- Arguments: the room's row, the operation.
-- Result: the change of the state digest; null where it is a move that is not effective.
-- Locks: none; the caller holds the room's row. Errors: CN500 (see is_ancestor). Not idempotent.
create function canopy.log_op(p_room canopy.rooms, p_op canopy.history)
returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_op.kind = 2 then
    return canopy.set_value(p_room.room_id, p_op);
  end if;
  insert into canopy.parents (room_id, node)
  values (p_room.room_id, p_op.parent)
  on conflict (room_id, node) do nothing;
  return canopy.place(p_room.room_id, p_op, p_op.ts > p_room.newest_move);
end $$;
