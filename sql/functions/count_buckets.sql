-- count_buckets: adds operations logged since the last call to the room's buckets.
-- Arguments: room; the most operations to count, so that a long log is counted in several transactions.
-- Returns the seq up to which operations are now counted.
-- Locks: the room's row in log_bucket_heads; apply is not blocked, because operations with a seq up to the head
-- are committed and do not change. Errors: CN404 no such room. Idempotent.
create function canopy.count_buckets(p_room text, p_limit bigint)
returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
  v_room_id bigint;
  v_head    bigint;
  v_from    bigint;
  v_to      bigint;
begin
  select r.room_id, r.head into v_room_id, v_head from canopy.rooms r where r.name = p_room;
  if not found then
    raise exception 'there is no room %', p_room using errcode = 'CN404';
  end if;
  insert into canopy.log_bucket_heads (room_id) values (v_room_id) on conflict do nothing;
  select h.seq into v_from from canopy.log_bucket_heads h where h.room_id = v_room_id for update;
  v_to := least(v_head, v_from + p_limit);
  if v_to <= v_from then
    return v_from;
  end if;

  insert into canopy.log_buckets as b (room_id, bucket, ops, digest)
  select v_room_id, canopy.bucket_of(o.ts), count(*),
         bit_xor(canopy.log_hash(o.kind, o.ts, o.node, o.parent, o.order_key, o.key, o.value::text))
    from canopy.ops o
   where o.room_id = v_room_id
     and o.seq > v_from
     and o.seq <= v_to
   group by canopy.bucket_of(o.ts)
  on conflict (room_id, bucket) do update
     set ops = b.ops + excluded.ops,
         digest = b.digest # excluded.digest;
  update canopy.log_bucket_heads set seq = v_to where room_id = v_room_id;
  return v_to;
end $$;
