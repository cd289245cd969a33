-- set_placement: flips one move, and updates its node's row if the move is, or now becomes, the node's last
-- effective one. The displaced placement moves between history and nodes, so that every operation stays in
-- exactly one table.
-- Arguments: room; the move; whether it becomes effective; whether it is already logged, with the opposite flag
-- (a move not logged yet can only become effective).
-- Returns the change to the state digest. Locks: none; the caller holds the room's row.
-- Not idempotent: call it only for a real flip.
create function canopy.set_placement(p_room_id bigint, p_op canopy.history, p_effective boolean, p_logged boolean)
returns bigint
language plpgsql volatile
as $$
declare
  v_cur  canopy.nodes;
  v_next canopy.history;
begin
  select * into v_cur
    from canopy.nodes
   where room_id = p_room_id
     and node = p_op.node;

  -- Only the node's last effective move is in its row.
  if (p_effective and v_cur.ts > p_op.ts) or (not p_effective and v_cur.ts <> p_op.ts) then
    if p_logged then
      update canopy.history
         set effective = p_effective
       where room_id = p_room_id
         and seq = p_op.seq;
    else
      p_op.effective := true;
      insert into canopy.history values (p_op.*);
    end if;
    return 0;
  end if;

  if p_effective then
    v_next := p_op;
  else
    select * into v_next
      from canopy.history
     where room_id = p_room_id
       and node = p_op.node
       and kind = 1
       and ts < p_op.ts
       and effective
     order by ts desc
     limit 1;
  end if;
  if p_logged then
    delete from canopy.history
     where room_id = p_room_id
       and seq = v_next.seq;
  end if;
  if v_next.ts is null then
    insert into canopy.history (room_id, ts, seq, kind, node, parent, order_key, known, cause, effective)
    values (p_room_id, v_cur.ts, v_cur.seq, 1, v_cur.node, v_cur.parent, v_cur.order_key,
            v_cur.known, v_cur.cause, p_effective);
    delete from canopy.nodes
     where room_id = p_room_id
       and node = p_op.node;
    return canopy.placement_hash(p_op.node, v_cur.parent, v_cur.order_key);
  end if;
  if v_cur.ts is not null then
    return canopy.displace(p_room_id, v_next, p_effective);
  end if;
  insert into canopy.nodes (room_id, node, parent, order_key, ts, seq, known, cause)
  values (p_room_id, p_op.node, v_next.parent, v_next.order_key, v_next.ts, v_next.seq,
          v_next.known, v_next.cause);
  return canopy.placement_hash(p_op.node, v_next.parent, v_next.order_key);
end $$;
