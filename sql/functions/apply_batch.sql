-- apply_batch: apply for any number of operations, set by set.
-- Arguments: the room's row; the operations' columns (see apply).
-- Result: see apply.
-- Locks: none; the caller holds the room's row. Errors: CN409, CN410, CN416, CN422, CN425, CN500 (see
-- apply). Idempotent: of operations that are logged already, nothing changes.
create function canopy.apply_batch(
  p_room canopy.rooms, p_ts uuid[], p_kind smallint[], p_node uuid[], p_parent uuid[],
  p_order_key text[], p_key text[], p_value text[], p_known bigint[],
  out head bigint, out seqs bigint[], out statuses smallint[])
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_ops    canopy.history[];
  v_rest   canopy.history[];
  v_op     canopy.history;
  v_delta  bigint;
  v_change bigint;
  v_room   canopy.rooms;
begin
  v_ops := array(
    select row(p_room.room_id, b.ts, b.pos, b.kind, b.node, b.parent, b.order_key, b.key,
               b.value::json, least(b.known, p_room.head), null, b.kind = 2)::canopy.history
      from unnest(p_ts, p_kind, p_node, p_parent, p_order_key, p_key, p_value, p_known)
           with ordinality as b(ts, kind, node, parent, order_key, key, value, known, pos)
     order by b.pos);
  perform canopy.check_ops(v_ops);
  seqs := canopy.logged_seqs(p_room, v_ops);
  statuses := array(select case when s is null then 1 else 3 end from unnest(seqs) as s);
  seqs := array(
    select coalesce(u.s, p_room.head + count(*) filter (where u.s is null) over (order by u.pos))
      from unnest(seqs) with ordinality as u(s, pos)
     order by u.pos);
  v_ops := array(
    select row(o.room_id, o.ts, seqs[o.seq], o.kind, o.node, o.parent, o.order_key, o.key,
               o.value, o.known, null, o.effective)::canopy.history
      from unnest(v_ops) as o
     where statuses[o.seq] = 1
     order by o.seq);
  if cardinality(v_ops) = 0 then
    head := p_room.head;
    return;
  end if;

  if p_room.purged > 0 then
    perform canopy.check_purged(p_room, v_ops);
  end if;

  select l.delta, l.rest into v_delta, v_rest
    from canopy.apply_leaf_moves(p_room.room_id, p_room.newest_move, v_ops) as l;
  v_delta := v_delta # canopy.apply_sets(p_room.room_id, v_ops);
  foreach v_op in array v_rest loop -- in timestamp order: later ones cannot flip it
    v_change := canopy.place(p_room.room_id, v_op, v_op.ts > p_room.newest_move);
    if v_change is null then
      statuses[array_position(seqs, v_op.seq)] := 2;
    end if;
    v_delta := v_delta # coalesce(v_change, 0);
  end loop;
  v_room := canopy.correct(p_room, canopy.account(p_room, v_ops, v_delta), v_ops);
  head := v_room.head;
end $$;
