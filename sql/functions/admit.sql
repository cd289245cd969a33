-- admit: lets one operation in if it is the newest of its replica, and notes it in the version vector: a
-- replica's operations arrive in timestamp order, so the log cannot hold it yet. One statement both asks
-- and notes.
-- Arguments: the room's row, the operation with its seq.
-- Result: whether it is new; if not, nothing was changed, and logged_seqs tells what it is.
-- Locks: none; the caller holds the room's row. Errors: CN422, CN425 (see op_fault). Idempotent: the
-- second time it answers no.
create function canopy.admit(p_room canopy.rooms, p_op canopy.history)
returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_fault text := canopy.op_fault(p_op, canopy.newest_accepted());
begin
  if v_fault is not null then
    perform canopy.refuse(left(v_fault, 5), p_op.ts, substr(v_fault, 7));
  end if;
  if p_op.ts <= p_room.horizon then
    return false;
  end if;
  insert into canopy.replicas as r (room_id, replica, last_ts, last_seq)
  values (p_room.room_id, canopy.replica_of(p_op.ts), p_op.ts, p_op.seq)
  on conflict (room_id, replica) do update
     set last_ts = excluded.last_ts,
         last_seq = excluded.last_seq
   where r.last_ts < excluded.last_ts;
  return found;
end $$;
