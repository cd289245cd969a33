-- correct: makes the corrections that a batch calls for, so that a delete does not take away what its author
-- could not have known of. It looks at the batch's operations in timestamp order:
-- (a) a new operation that survives below a concurrent delete corrects that delete;
-- (b) a new delete is corrected by the first surviving operation below it that its author did not know of.
-- Either way the walk continues upwards from where the node went back to (see correct_above).
-- Arguments: the seq of the room's last delete before the batch; the room's row after it; the new operations.
-- Returns the room's row, updated for the corrections.
-- Cost: nothing if no delete is concurrent with the batch; otherwise O(depth + operations unknown to the
-- deleters).
-- Locks: none; the caller holds the room's row. Errors: CN500 (see is_ancestor).
-- Idempotent: a delete gets at most one correction.
create function canopy.correct(p_last_delete bigint, p_room canopy.rooms, p_ops canopy.history[])
returns canopy.rooms
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  c_trash  constant uuid := '00000000-0000-0000-0000-000000000002';
  v_room   canopy.rooms := p_room;
  v_op     canopy.history;
  v_cause  canopy.history;
  v_delete bigint := p_last_delete; -- no later delete can be concurrent with these ops
  v_latest bigint[];                -- the last seqs of the two replicas that wrote most recently
  v_writer bigint;                  -- and the more recent of these replicas
begin
  if p_room.restore_on = 'never' then
    return v_room;
  end if;
  -- A replica knows of the deletes in its own batch.
  if (select count(distinct substr(uuid_send(o.ts), 9)) from unnest(p_ops) as o) > 1 then
    v_delete := p_room.last_delete_seq;
  end if;
  if p_room.last_delete_seq > p_last_delete then
    select array_agg(r.last_seq order by r.last_seq desc), (array_agg(r.replica order by r.last_seq desc))[1]
      into v_latest, v_writer
      from (select last_seq, replica
              from canopy.replicas
             where room_id = p_room.room_id
             order by last_seq desc
             limit 2) as r;
  end if;

  for v_op in
    select o.*
      from unnest(p_ops) as o
     where case
             when o.parent = c_trash
               then o.known < coalesce(v_latest[case when canopy.replica_of(o.ts) = v_writer then 2 else 1 end], 0)
             else o.known < v_delete
           end
     order by o.ts
  loop
    v_cause := null;
    if v_op.parent = c_trash then
      v_cause := canopy.first_unseen(v_room, v_op);
    elsif canopy.survives(v_room, v_op) then
      v_cause := v_op;
    end if;
    if v_cause.ts is not null then
      v_room := canopy.correct_above(v_room, v_cause);
    end if;
  end loop;
  return v_room;
end $$;
