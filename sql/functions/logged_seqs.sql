-- logged_seqs: finds which operations of a batch are already in the log. A replica's operations arrive in
-- timestamp order, so only those up to its entry in the version vector can be; anything newer needs no lookup.
-- Arguments: the room's row; the batch; seq is the position in it.
-- Returns, by position, the seq of a duplicate, null for a new operation.
-- Errors, for the first offending operation (see refuse): CN409 another operation has this timestamp; CN410 it
-- may have been compacted away; CN416 the log already has a later operation of the replica.
-- Locks: none; the caller holds the room's row. Read-only.
create function canopy.logged_seqs(p_room canopy.rooms, p_ops canopy.history[])
returns bigint[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_nestloop = off -- joins within the batch are hashed; lookups are LATERAL with LIMIT
as $$
declare
  v_seqs  bigint[];
  v_ts    uuid;
  v_fault text;
begin
  with author as materialized (
    select a.replica, held.last_ts
      from (select distinct substr(uuid_send(o.ts), 9) as replica from unnest(p_ops) as o) as a
     cross join lateral (
       select r.last_ts
         from canopy.replicas r
        where r.room_id = p_room.room_id
          and r.replica = ('x' || encode(a.replica, 'hex'))::bit(64)::bigint
        limit 1) as held
  ), found as (
    select o.seq, o.ts, log.seq as logged_seq,
           case
             when log.seq is not null and not log.same
               then 'CN409:the room has another operation with this timestamp'
             when log.seq is null and o.ts <= p_room.horizon
               then 'CN410:the operation is older than the room''s horizon'
             when log.seq is null and o.ts <= author.last_ts
               then 'CN416:the room already holds a later operation of this replica'
           end as fault
      from unnest(p_ops) as o
      left join author on author.replica = substr(uuid_send(o.ts), 9)
      left join lateral (
        select l.seq,
               (l.kind, l.node) = (o.kind, o.node)
                 and l.parent is not distinct from o.parent
                 and l.order_key is not distinct from o.order_key
                 and l.key is not distinct from o.key
                 and l.value::text is not distinct from o.value::text as same
          from canopy.ops l
         where l.room_id = p_room.room_id
           and uuid_send(l.ts) = uuid_send(o.ts)
           and o.ts <= author.last_ts
         limit 1
      ) as log on true
  )
  select array_agg(f.logged_seq order by f.seq),
         (array_agg(f.ts order by f.seq) filter (where f.fault is not null))[1],
         (array_agg(f.fault order by f.seq) filter (where f.fault is not null))[1]
    into v_seqs, v_ts, v_fault
    from found f;
  if v_fault is not null then
    perform canopy.refuse(left(v_fault, 5), v_ts, substr(v_fault, 7));
  end if;
  return v_seqs;
end $$;
