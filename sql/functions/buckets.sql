-- buckets: the parts of a span of the log, each with its number of operations and the XOR of their log_hash. A
-- span is all timestamps that begin with the given hexadecimal digits; its parts have two digits more.
-- Arguments: room; the span's digits (an even number, at most 14). Returns a row for each part that is not
-- empty, in time order. Spans of up to 6 digits lack the operations that count_buckets has not counted yet.
-- Cost: the buckets in the span, at most 65,536 for every 50 days of the room's life; with 8 digits or more, the
-- operations in it. Locks, errors: none; the caller has looked up the room and checked the digits.
create function canopy.buckets(p_room_id bigint, p_prefix text)
returns table (prefix text, ops bigint, digest bigint)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
begin
  if length(p_prefix) < 8 then
    return query
      select left(lpad(to_hex(b.bucket), 8, '0'), length(p_prefix) + 2) as part,
             sum(b.ops)::bigint, bit_xor(b.digest)
        from canopy.log_buckets b
       where b.room_id = p_room_id
         and b.bucket between ('x' || rpad(p_prefix, 8, '0'))::bit(32)::bigint
                          and ('x' || rpad(p_prefix, 8, 'f'))::bit(32)::bigint
       group by part
       order by part;
  else
    return query
      select left(encode(uuid_send(o.ts), 'hex'), length(p_prefix) + 2) as part, count(*),
             bit_xor(canopy.log_hash(o.kind, o.ts, o.node, o.parent, o.order_key, o.key, o.value::text))
        from canopy.ops o
       where o.room_id = p_room_id
         and uuid_send(o.ts) between uuid_send(rpad(p_prefix, 32, '0')::uuid)
                                 and uuid_send(rpad(p_prefix, 32, 'f')::uuid)
       group by part
       order by part;
  end if;
end $$;
