-- flip: makes a move effective, or not effective any more, and tells which moves may flip in turn: where
-- the node's parent changes by it, the flippable ones until the node's next effective move.
-- Arguments: see set_placement.
-- Result: the change of the state digest; timestamps in order (see flippable).
-- Locks: none; the caller holds the room's row. Errors: none. Not idempotent: call it for a real flip only.
create function canopy.flip(
  p_room_id bigint, p_op canopy.history, p_effective boolean, p_logged boolean,
  out delta bigint, out queue uuid[])
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_from uuid;
  v_end  uuid := canopy.next_effective(p_room_id, p_op.node, p_op.ts);
begin
  select b.parent into v_from
    from canopy.parent_before(p_room_id, p_op.node, p_op.ts) as b;
  delta := canopy.set_placement(p_room_id, p_op, p_effective, p_logged);
  if v_from = p_op.parent then
    queue := '{}';
  else
    queue := canopy.flippable(p_room_id, p_op.parent, v_from, p_op.ts, v_end);
  end if;
end $$;
