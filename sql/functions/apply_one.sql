-- apply_one: apply for a single operation, the typical interactive edit. Between two commits it drops out of
-- the CPU caches, and every expression is initialized anew, so its cost is the number of statements and functions
-- it refers to. It therefore uses few and leaves rare cases to other functions.
-- Arguments: the room's name; the operation's columns (see apply).
-- Returns an array of the room's new head, the operation's seq and its status (see apply): describing a row
-- takes longer than filling it.
-- An operation is accepted here if it is its replica's newest: those arrive in timestamp order, so it cannot be
-- in the log yet. One UPDATE of the version vector both checks and records that (an upsert would lock the row
-- first); it finds no row for a replica new to the room. Any other operation goes to apply.
-- Cost: four statements for a new leaf; otherwise see place, set_value, correct.
-- Locks: the room's row, nothing else, before reading anything. Errors, idempotency: see apply.
create function canopy.apply_one(
  p_room text, p_ts uuid, p_kind smallint, p_node uuid, p_parent uuid, p_order_key text,
  p_key text, p_value text, p_known bigint)
returns bigint[]
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
  v_replica     bigint := canopy.replica_of(p_ts);
  v_room_id     bigint;
  v_row         tid;      -- the room's row; it stays there while it is locked
  v_horizon     uuid;
  v_newest_move uuid;
  v_last_delete bigint;
  v_purged      bigint;
  v_known       bigint;
  v_seq         bigint;
  v_fault       text;
  v_delta       bigint;   -- the change to the state digest; null if the operation is ineffective
  v_op          canopy.history;
  v_after       canopy.rooms;
  v_head        bigint;   -- after the corrections
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'apply needs READ COMMITTED, not %', current_setting('transaction_isolation')
      using errcode = 'CN501';
  end if;
  select r.room_id, r.ctid, r.horizon, r.newest_move, r.last_delete_seq, r.purged, r.head + 1, least(p_known, r.head)
    into v_room_id, v_row, v_horizon, v_newest_move, v_last_delete, v_purged, v_seq, v_known
    from canopy.rooms r
   where r.name = p_room
     for update;
  if not found then
    raise exception 'there is no room %', p_room using errcode = 'CN404';
  end if;

  v_fault := canopy.op_fault(p_kind, p_ts, v_replica, p_node, p_parent, p_order_key, p_key,
                             p_value is not null, v_known, canopy.first_too_new());
  if v_fault is not null then
    perform canopy.refuse(left(v_fault, 5), p_ts, substr(v_fault, 7));
  end if;
  update canopy.replicas
     set last_ts = p_ts,
         last_seq = v_seq
   where room_id = v_room_id
     and replica = v_replica
     and last_ts < p_ts
     and p_ts > v_horizon;
  if not found then
    insert into canopy.replicas (room_id, replica, last_ts, last_seq)
    select v_room_id, v_replica, p_ts, v_seq
     where p_ts > v_horizon
    on conflict (room_id, replica) do nothing;
    if not found then
      return (select array[a.head, a.seqs[1], a.statuses[1]]
                from canopy.apply(p_room, array[p_ts], array[p_kind], array[p_node], array[p_parent],
                                  array[p_order_key], array[p_key], array[p_value], array[p_known]) as a);
    end if;
  end if;
  if v_purged > 0 then
    perform canopy.check_purged(v_room_id, array[
      row(null, p_ts, v_seq, p_kind, p_node, p_parent, null, null, null, null, null, null)::canopy.history]);
  end if;

  if p_kind = 1 then
    -- A new leaf, as most moves are (see place).
    insert into canopy.nodes (room_id, node, parent, order_key, ts, seq, known)
    select v_room_id, p_node, p_parent, p_order_key, p_ts, v_seq, v_known
     where p_node <> p_parent
       and not exists (select from canopy.nodes n where n.room_id = v_room_id and n.node = p_node)
       and not exists (select from canopy.nodes n where n.room_id = v_room_id and n.parent = p_node)
       and not exists (select from canopy.history h where h.room_id = v_room_id and h.parent = p_node);
    if found then
      v_delta := canopy.placement_hash(p_node, p_parent, p_order_key);
    end if;
  end if;
  if v_delta is null then
    v_op := row(v_room_id, p_ts, v_seq, p_kind, p_node, p_parent, p_order_key, p_key, p_value::json, v_known,
                null, p_kind = 2)::canopy.history;
    v_delta := case p_kind
      when 1 then canopy.place(v_room_id, v_op, p_ts > v_newest_move)
      else canopy.set_value(v_room_id, v_op)
    end;
  end if;

  update canopy.rooms r
     set head = v_seq,
         ops = r.ops + 1,
         log_digest = r.log_digest # canopy.log_hash(p_kind, p_ts, p_node, p_parent, p_order_key, p_key, p_value),
         state_digest = r.state_digest # coalesce(v_delta, 0),
         newest_move = case when p_kind = 1 then greatest(r.newest_move, p_ts) else r.newest_move end,
         last_delete_seq = case
           when p_parent = '00000000-0000-0000-0000-000000000002' then v_seq
           else r.last_delete_seq
         end
   where r.ctid = v_row;
  assert found, 'the room''s row is not where it was locked'; -- else the next operation would get the same seq
  if p_parent = '00000000-0000-0000-0000-000000000002' or v_known < v_last_delete then
    v_op := row(v_room_id, p_ts, v_seq, p_kind, p_node, p_parent, p_order_key, p_key, p_value::json, v_known,
                null, p_kind = 2)::canopy.history;
    select * into v_after from canopy.rooms r where r.room_id = v_room_id;
    v_after := canopy.correct(v_last_delete, v_after, array[v_op]);
    v_head := v_after.head;
  end if;
  return array[coalesce(v_head, v_seq), v_seq, case when v_delta is null then 2 else 1 end];
end $$;
