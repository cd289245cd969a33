-- account_op: account (see there) for one operation, whose entry in the version vector is written already
-- (see admit); a correction has none.
-- Arguments: the room's row, the operation with its seq, the change of the state digest.
-- Result: the room's row, not written yet. Locks, errors: none.
create function canopy.account_op(p_room canopy.rooms, p_op canopy.history, p_delta bigint)
returns canopy.rooms
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  p_room.head := p_op.seq;
  p_room.ops := p_room.ops + 1;
  p_room.log_digest := p_room.log_digest # canopy.log_hash(
    p_op.kind, p_op.ts, p_op.node, p_op.parent, p_op.order_key, p_op.key, p_op.value::text);
  p_room.state_digest := p_room.state_digest # p_delta;
  if p_op.kind = 1 and p_op.ts > p_room.newest_move then
    p_room.newest_move := p_op.ts;
  end if;
  if p_op.parent = '00000000-0000-0000-0000-000000000002' then
    p_room.last_delete_seq := p_op.seq;
  end if;
  return p_room;
end $$;
