-- set_value: logs one set; the last write by timestamp wins, and the other one goes to history.
-- Arguments: room; the set. Returns the change to the state digest.
-- Locks: none; the caller holds the room's row. Errors: none. Not idempotent: the set must be new.
create function canopy.set_value(p_room_id bigint, p_op canopy.history)
returns bigint
language plpgsql volatile
as $$
declare
  v_cur canopy.values;
begin
  select * into v_cur
    from canopy.values
   where room_id = p_room_id
     and node = p_op.node
     and key = p_op.key;
  if v_cur.ts > p_op.ts then
    insert into canopy.history values (p_op.*);
    return 0;
  end if;
  if v_cur.ts is null then
    insert into canopy.values (room_id, node, key, value, ts, seq, known)
    values (p_room_id, p_op.node, p_op.key, p_op.value, p_op.ts, p_op.seq, p_op.known);
  else
    insert into canopy.history (room_id, ts, seq, kind, node, key, value, known, effective)
    values (p_room_id, v_cur.ts, v_cur.seq, 2, v_cur.node, v_cur.key, v_cur.value, v_cur.known, true);
    update canopy.values
       set value = p_op.value,
           ts = p_op.ts,
           seq = p_op.seq,
           known = p_op.known
     where room_id = p_room_id
       and node = p_op.node
       and key = p_op.key;
  end if;
  return canopy.value_hash(p_op.node, p_op.key, v_cur.ts)
       # canopy.value_hash(p_op.node, p_op.key, p_op.ts);
end $$;
