-- account_correction: account for a single correction, which is not a delete and has no entry in the version
-- vector.
-- Arguments: the correction with its seq; the change to the state digest.
-- Returns the updated room row. Locks: none; the caller holds the room's row. Errors: none. Not idempotent.
create function canopy.account_correction(p_op canopy.history, p_delta bigint)
returns canopy.rooms
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_room canopy.rooms;
begin
  update canopy.rooms r
     set head = p_op.seq,
         ops = r.ops + 1,
         log_digest = r.log_digest # canopy.log_hash(
           p_op.kind, p_op.ts, p_op.node, p_op.parent, p_op.order_key, p_op.key, p_op.value::text),
         state_digest = r.state_digest # p_delta,
         newest_move = greatest(r.newest_move, p_op.ts)
   where r.room_id = p_op.room_id
  returning * into v_room;
  return v_room;
end $$;
