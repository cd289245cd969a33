-- uncount_buckets: takes operations that leave the log out of the buckets they were counted in.
-- Arguments: room; operations of its history. Returns nothing.
-- Locks: the room's row in log_bucket_heads, until the transaction ends, so that nobody meanwhile counts what is
-- about to leave, and nobody later on an older snapshot; the caller holds the room's row. Errors: none. Not idempotent.
create function canopy.uncount_buckets(p_room_id bigint, p_ops canopy.history[])
returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_counted bigint;
begin
  -- Written even if it has nothing to say yet: a first count that is under way must be waited for, too.
  insert into canopy.log_bucket_heads as h (room_id)
  values (p_room_id)
  on conflict (room_id) do update
     set seq = h.seq
  returning h.seq into v_counted;
  update canopy.log_buckets b
     set ops = b.ops - gone.ops,
         digest = b.digest # gone.digest
    from (select canopy.bucket_of(o.ts) as bucket, count(*) as ops,
                 bit_xor(canopy.log_hash(o.kind, o.ts, o.node, o.parent, o.order_key, o.key, o.value::text)) as digest
            from unnest(p_ops) as o
           where o.seq <= v_counted
           group by 1) as gone
   where b.room_id = p_room_id
     and b.bucket = gone.bucket;
  delete from canopy.log_buckets b
   where b.room_id = p_room_id
     and b.bucket in (select canopy.bucket_of(o.ts) from unnest(p_ops) as o)
     and b.ops = 0;
end $$;
