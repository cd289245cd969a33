-- apply: applies one batch of operations to one room, atomically.
-- Arguments: the room's name; the operations' columns as parallel arrays (kind 1 is a move, 2 a set; a set
-- has null parent and order key, a move null key and value).
-- Returns the room's new head and, by position, each operation's seq and status: 1 applied, 2 ineffective (it
-- would have made a cycle), 3 duplicate (already in the log, under that seq).
-- Steps, in one transaction: lock the room's row; refuse the batch or drop its duplicates; assign the next seqs
-- to new operations in the given order; log them; maintain the tree by sparse replay, the values, the digests
-- and the version vector; make the corrections that concurrent deletes need, with the seqs after the batch's.
-- Locks: the room's row, nothing else, before reading anything: two batches on disjoint nodes can make a cycle
-- together.
-- Errors: CN404 no such room; CN409, CN410, CN416, CN422, CN425 (see check_ops, logged_seqs, check_purged); CN500
-- damaged tree; CN501 not READ COMMITTED, where later statements would not see what the lock waited for.
-- A refused batch leaves no trace. Idempotent: repeating a batch changes nothing.
-- The planner settings, and the LATERAL lookups with LIMIT in the functions it calls, pin every plan to index
-- lookups: a room can grow from empty to a million nodes between two ANALYZEs, and a cached plan made for the
-- empty one would be disastrous.
create function canopy.apply(
  p_room text, p_ts uuid[], p_kind smallint[], p_node uuid[], p_parent uuid[], p_order_key text[],
  p_key text[], p_value text[], p_known bigint[],
  out head bigint, out seqs bigint[], out statuses smallint[])
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
  v_room   canopy.rooms;
  v_ops    canopy.history[];
  v_rest   canopy.history[];
  v_op     canopy.history;
  v_delta  bigint;
  v_change bigint;
  v_after  canopy.rooms;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'apply needs READ COMMITTED, not %', current_setting('transaction_isolation')
      using errcode = 'CN501';
  end if;
  select * into v_room from canopy.rooms where name = p_room for update;
  if not found then
    raise exception 'there is no room %', p_room using errcode = 'CN404';
  end if;

  v_ops := array(
    select row(v_room.room_id, b.ts, b.pos, b.kind, b.node, b.parent, b.order_key, b.key,
               b.value::json, least(b.known, v_room.head), null, b.kind = 2)::canopy.history
      from unnest(p_ts, p_kind, p_node, p_parent, p_order_key, p_key, p_value, p_known)
           with ordinality as b(ts, kind, node, parent, order_key, key, value, known, pos)
     order by b.pos);
  perform canopy.check_ops(v_ops);
  seqs := canopy.logged_seqs(v_room, v_ops);
  statuses := array(select case when s is null then 1 else 3 end from unnest(seqs) as s);
  seqs := array(
    select coalesce(u.s, v_room.head + count(*) filter (where u.s is null) over (order by u.pos))
      from unnest(seqs) with ordinality as u(s, pos)
     order by u.pos);
  v_ops := array(
    select row(o.room_id, o.ts, seqs[o.seq], o.kind, o.node, o.parent, o.order_key, o.key,
               o.value, o.known, null, o.effective)::canopy.history
      from unnest(v_ops) as o
     where statuses[o.seq] = 1
     order by o.seq);
  if cardinality(v_ops) = 0 then
    head := v_room.head;
    return;
  end if;

  if v_room.purged > 0 then
    perform canopy.check_purged(v_room.room_id, v_ops);
  end if;

  select l.delta, l.rest into v_delta, v_rest
    from canopy.apply_leaf_moves(v_room.room_id, v_room.newest_move, v_ops) as l;
  v_delta := v_delta # canopy.apply_sets(v_room.room_id, v_ops);
  foreach v_op in array v_rest loop -- in timestamp order, so that none flips an earlier one
    v_change := canopy.place(v_room.room_id, v_op, v_op.ts > v_room.newest_move);
    if v_change is null then
      statuses[array_position(seqs, v_op.seq)] := 2;
    end if;
    v_delta := v_delta # coalesce(v_change, 0);
  end loop;
  v_after := canopy.correct(v_room.last_delete_seq, canopy.account(v_room, v_ops, v_delta), v_ops);
  head := v_after.head;
end $$;
