-- check_ops: refuses a batch with an operation that is invalid in itself, comes from the future, or
-- stands behind a later one of its replica. The services check more (moveop.Op.Validate); this is the
-- last gate.
-- Arguments: the batch; seq is the position in it.
-- Errors: CN422 invalid, CN425 clock skew, CN409 conflict, CN416 out of order, for the first offending
-- operation in the order given (see refuse).
-- Locks: none. Idempotent: reads only.
create function canopy.check_ops(p_ops canopy.history[])
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  c_skew_ms constant bigint := 60000;
  v_bad     record;
begin
  select checked.* into v_bad
    from (select o.ts,
                 case
                   when o.kind not in (1, 2) then 'CN422:unknown kind'
                   when o.known is null or o.known < 0 then 'CN422:known is negative'
                   when canopy.replica_of(o.ts) <= 0
                     then 'CN422:the timestamp''s replica is zero or has its top bit set'
                   when o.kind = 1 and o.node in ('00000000-0000-0000-0000-000000000001',
                                                  '00000000-0000-0000-0000-000000000002')
                     then 'CN422:Root and Trash cannot be moved'
                   when o.kind = 1 and (octet_length(o.order_key) between 2 and 255
                                        and o.order_key ~ '^[A-Za-z][0-9A-Za-z]+$') is not true
                     then 'CN422:the order key is not a fractional index of 2 to 255 base-62 digits'
                   when o.kind = 1 and (o.parent is null or num_nonnulls(o.key, o.value) > 0)
                     then 'CN422:a move has a parent and neither key nor value'
                   when o.kind = 2 and (octet_length(o.key) between 1 and 255) is not true
                     then 'CN422:the key has not 1 to 255 bytes'
                   when o.kind = 2 and (o.value is null or num_nonnulls(o.parent, o.order_key) > 0)
                     then 'CN422:a set has a value and neither parent nor order key'
                   when o.ts > (lpad(to_hex(clock.now_ms + c_skew_ms), 12, '0')
                                || 'ffffffffffffffffffff')::uuid
                     then 'CN425:the timestamp is more than 60 s ahead of the server''s clock'
                   when o.ts <= o.prev_ts
                     then 'CN416:the operation does not stand behind the one before it of its replica'
                 end as fault,
                 o.seq
            from (select b.*, lag(b.ts) over (partition by substr(uuid_send(b.ts), 9)
                                              order by b.seq) as prev_ts
                    from unnest(p_ops) as b) as o
           cross join (select floor(extract(epoch from clock_timestamp()) * 1000)::bigint as now_ms)
                   as clock) as checked
   where checked.fault is not null
   order by checked.seq
   limit 1;
  if found and v_bad.fault like 'CN416%' and (
    select count(distinct (o.kind, o.node, o.parent, o.order_key, o.key, o.value::text))
      from unnest(p_ops) as o
     where o.ts = v_bad.ts) > 1
  then
    perform canopy.refuse('CN409', v_bad.ts, 'the batch has two operations with this timestamp');
  elsif v_bad.fault is not null then
    perform canopy.refuse(left(v_bad.fault, 5), v_bad.ts, substr(v_bad.fault, 7));
  end if;
end $$;
