-- place_correction: logs the correction of a delete that holds its node now. After the horizon it is a move like
-- any other (see place). At or before the horizon, where history is folded, it is known to be effective and to
-- change no other flag up to the horizon (see next_horizon), so only moves after the horizon are examined.
-- Arguments: the room's row; the correction. Returns the change to the state digest.
-- Locks: none; the caller holds the room's row. Errors: CN500 (see is_ancestor). Not idempotent.
create function canopy.place_correction(p_room canopy.rooms, p_op canopy.history)
returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_delta bigint;
begin
  if p_op.ts > p_room.horizon then
    return canopy.place(p_room.room_id, p_op, p_op.ts > p_room.newest_move);
  end if;
  v_delta := canopy.set_placement(p_room.room_id, p_op, true, false);
  return v_delta # canopy.settle(p_room.room_id, canopy.flippable(
    p_room.room_id, p_op.parent, '00000000-0000-0000-0000-000000000002',
    p_room.horizon, 'ffffffff-ffff-ffff-ffff-ffffffffffff'));
end $$;
