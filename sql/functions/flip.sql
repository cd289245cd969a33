-- flip: makes a move effective or ineffective and returns the moves that may flip in turn: if the node's parent
-- changes, the flippable moves up to the node's next effective move.
-- Arguments: see set_placement.
-- Returns the change to the state digest and timestamps in order (see flippable).
-- Locks: none; the caller holds the room's row. Errors: none. Not idempotent: call it only for a real flip.
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
