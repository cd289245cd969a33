-- admit: lets one operation in if it is the newest of its replica, and notes it in the version vector: a
-- replica's operations arrive in timestamp order, so the log cannot hold it yet. The update both asks and
-- notes (an upsert would lock the row first); of a replica that the room does not know it finds no row.
-- Arguments: the operation with its seq, the room's horizon.
-- Result: whether it is new; if not, nothing was changed, and logged_seqs tells what it is.
-- Locks: none; the caller holds the room's row. Errors: CN422, CN425 (see op_fault). Idempotent: the
-- second time it answers no. It carries no SET (see README.md, "Plans").
create function canopy.admit(p_op canopy.history, p_horizon uuid)
returns boolean
language plpgsql volatile
as $$
declare
  v_fault text := canopy.op_fault(p_op, canopy.newest_accepted());
begin
  if v_fault is not null then
    perform canopy.refuse(left(v_fault, 5), p_op.ts, substr(v_fault, 7));
  end if;
  if p_op.ts <= p_horizon then
    return false;
  end if;
  update canopy.replicas
     set last_ts = p_op.ts,
         last_seq = p_op.seq
   where room_id = p_op.room_id
     and replica = canopy.replica_of(p_op.ts)
     and last_ts < p_op.ts;
  if not found then
    insert into canopy.replicas (room_id, replica, last_ts, last_seq)
    values (p_op.room_id, canopy.replica_of(p_op.ts), p_op.ts, p_op.seq)
    on conflict (room_id, replica) do nothing;
  end if;
  return found;
end $$;
