-- apply: applies one batch of operations to one room, atomically.
-- Arguments: the room's name; the operations' columns as parallel arrays (kind 1 move, 2 set; parent
-- and order key of a set, key and value of a move are null).
-- Result: the room's head afterwards; by position, each operation's seq and its status: 1 applied,
-- 2 ineffective (it would have made a cycle), 3 duplicate (already logged, with the seq it has).
-- What it does, in one transaction: takes the room's row lock; refuses or deduplicates; gives new
-- operations the next seqs in the order given; logs them; keeps the tree by sparse replay, the values,
-- the digests and the version vector; makes the corrections that concurrent deletes need, with the
-- seqs right behind the batch.
-- Locks: the room's row, nothing else, and before anything is read: two batches on disjoint nodes can
-- make a cycle together.
-- Errors: CN404 no such room; CN409, CN410, CN416, CN422, CN425 (see check_ops, logged_seqs, check_purged); CN500
-- damaged tree; CN501 not READ COMMITTED, where a statement would not see what the lock waited for.
-- Nothing of a refused batch is kept. Idempotent: repeating a batch changes nothing.
-- The planner settings, and the lateral lookups with a limit in the functions that it calls, pin every
-- plan to index lookups: a room grows from empty to a million nodes between two ANALYZEs, and a cached
-- plan made for the first would be ruin for the second.
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
  v_room  canopy.rooms;
  v_after canopy.rooms;
  v_op    canopy.history;
  v_delta bigint;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'apply needs READ COMMITTED, not %', current_setting('transaction_isolation')
      using errcode = 'CN501';
  end if;
  select * into v_room from canopy.rooms where name = p_room for update;
  if not found then
    raise exception 'there is no room %', p_room using errcode = 'CN404';
  end if;

  if cardinality(p_ts) = 1 then
    v_op := row(v_room.room_id, p_ts[1], v_room.head + 1, p_kind[1], p_node[1], p_parent[1],
                p_order_key[1], p_key[1], p_value[1]::json, least(p_known[1], v_room.head), null,
                p_kind[1] = 2)::canopy.history;
    if canopy.admit(v_op, v_room.horizon) then
      if v_room.purged > 0 then
        perform canopy.check_purged(v_room, array[v_op]);
      end if;
      v_delta := case v_op.kind
        when 1 then canopy.place(v_room.room_id, v_op, v_op.ts > v_room.newest_move)
        else canopy.set_value(v_room.room_id, v_op)
      end;
      v_after := canopy.account_op(v_op, coalesce(v_delta, 0));
      if v_op.known < v_after.last_delete_seq then
        v_after := canopy.correct(v_room, v_after, array[v_op]);
      end if;
      head := v_after.head;
      seqs := array[v_op.seq];
      statuses := array[case when v_delta is null then 2 else 1 end::smallint];
      return;
    end if;
  end if;
  select b.head, b.seqs, b.statuses into head, seqs, statuses
    from canopy.apply_batch(v_room, p_ts, p_kind, p_node, p_parent, p_order_key, p_key, p_value, p_known) as b;
end $$;
