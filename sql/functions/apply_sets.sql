-- apply_sets: logs the sets of a batch; per (node, key), the last write by timestamp wins.
-- Arguments: room; the batch's new operations. Returns the change to the state digest.
-- Locks: none; the caller holds the room's row. Errors: none. Not idempotent: the operations must be new.
-- Joins within the batch are hashed (the planner cannot know that an array has a thousand elements); table
-- lookups are LATERAL with LIMIT, which leaves only the index.
create function canopy.apply_sets(p_room_id bigint, p_ops canopy.history[])
returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set enable_nestloop = off
as $$
declare
  v_delta bigint;
begin
  with batch as materialized (
    select o.* from unnest(p_ops) as o where o.kind = 2
  ), winner as materialized (
    select distinct on (b.node, b.key) b as op, cur as cur
      from batch b
      left join lateral (
        select v.*
          from canopy.values v
         where v.room_id = p_room_id
           and v.node = b.node
           and v.key = b.key
         limit 1
      ) as cur on true
     order by b.node, b.key, b.ts desc
  ), superseded as (
    insert into canopy.history (room_id, ts, seq, kind, node, key, value, known, effective)
    select p_room_id, b.ts, b.seq, 2, b.node, b.key, b.value, b.known, true
      from batch b
      join winner w on (w.op).node = b.node
                   and (w.op).key = b.key
     where b.ts < (w.op).ts
        or b.ts < (w.cur).ts
    union all
    select p_room_id, (w.cur).ts, (w.cur).seq, 2, (w.cur).node, (w.cur).key, (w.cur).value,
           (w.cur).known, true
      from winner w
     where (w.cur).ts < (w.op).ts
  ), written as (
    insert into canopy.values as v (room_id, node, key, value, ts, seq, known)
    select p_room_id, (w.op).node, (w.op).key, (w.op).value, (w.op).ts, (w.op).seq, (w.op).known
      from winner w
     where ((w.cur).ts < (w.op).ts) is not false
    on conflict (room_id, node, key) do update
       set value = excluded.value,
           ts = excluded.ts,
           seq = excluded.seq,
           known = excluded.known
  )
  select bit_xor(canopy.value_hash((w.op).node, (w.op).key, (w.op).ts)
                 # canopy.value_hash((w.op).node, (w.op).key, (w.cur).ts))
    into v_delta
    from winner w
   where ((w.cur).ts < (w.op).ts) is not false;
  return coalesce(v_delta, 0);
end $$;
