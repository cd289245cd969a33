-- account_op: account (see there) for one operation, whose entry in the version vector is written already
-- (see admit); a correction has none.
-- Arguments: the operation with its seq, the change of the state digest.
-- Result: the room's row, written. Locks: none; the caller holds the room's row. Errors: none. Not idempotent.
-- It carries no SET (see README.md, "Plans").
create function canopy.account_op(p_op canopy.history, p_delta bigint)
returns canopy.rooms
language plpgsql volatile
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
         newest_move = case
           when p_op.kind = 1 then greatest(r.newest_move, p_op.ts)
           else r.newest_move
         end,
         last_delete_seq = case
           when p_op.parent = '00000000-0000-0000-0000-000000000002' then p_op.seq
           else r.last_delete_seq
         end
   where r.room_id = p_op.room_id
  returning * into v_room;
  return v_room;
end $$;
