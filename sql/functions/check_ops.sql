-- check_ops: refuses a batch with an operation that is invalid in itself or does not follow the replica's
-- previous one in the batch.
-- Arguments: the batch; seq is the position in it.
-- Errors: CN422 invalid, CN425 clock skew, CN409 conflict, CN416 out of order, for the first offending operation
-- in the given order (see refuse).
-- Locks: none. Read-only.
create function canopy.check_ops(p_ops canopy.history[])
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_too_new bytea := canopy.first_too_new();
  v_bad     record;
begin
  select (c.op).ts, c.fault into v_bad
    from (select b.op,
                 coalesce(canopy.op_fault((b.op).kind, (b.op).ts, canopy.replica_of((b.op).ts), (b.op).node,
                                          (b.op).parent, (b.op).order_key, (b.op).key,
                                          (b.op).value is not null, (b.op).known, v_too_new),
                          case
                            when (b.op).ts <= b.prev_ts
                              then 'CN416:the operation is not later than the one before it of the same replica'
                          end) as fault
            from (select o as op, lag(o.ts) over (partition by substr(uuid_send(o.ts), 9)
                                                  order by o.seq) as prev_ts
                    from unnest(p_ops) as o) as b) as c
   where c.fault is not null
   order by (c.op).seq
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
