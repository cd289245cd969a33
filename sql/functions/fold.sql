-- fold: examines a page of history at or before the room's horizon and removes what no operation after the
-- horizon can need (see COMPACTION.md). Of a node's moves up to the horizon it keeps the last effective one; if
-- that is a delete, also the last effective one before it outside Trash, where a correction would put the node
-- back, and the delete's correction, effective or not, so that there is never a second one. It keeps no sets: the
-- current ones are not in history.
-- Arguments: the room's row; the timestamp to continue after; how many operations to examine.
-- Returns the timestamp to continue after next; how many operations were removed; whether the horizon is reached.
-- Updates the room's row (min_seq and the folded_ columns) and the buckets.
-- Locks: see uncount_buckets; the caller holds the room's row. Errors: none. Idempotent.
create function canopy.fold(
  p_room canopy.rooms, p_after uuid, p_limit bigint,
  out next uuid, out folded bigint, out done boolean)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set enable_nestloop = off -- joins within the page are hashed; lookups are LATERAL with LIMIT
as $$
declare
  c_trash constant uuid := '00000000-0000-0000-0000-000000000002';
  v_page canopy.history[];
  v_gone canopy.history[];
  v_seqs bigint[];
begin
  v_page := array(
    select h
      from canopy.history h
     where h.room_id = p_room.room_id
       and uuid_send(h.ts) > uuid_send(p_after)
       and uuid_send(h.ts) <= uuid_send(p_room.horizon)
     order by uuid_send(h.ts)
     limit p_limit);
  done := cardinality(v_page) < p_limit;
  next := coalesce(v_page[cardinality(v_page)].ts, p_after);

  with settled as materialized (
    -- Each node's last effective move up to the horizon, and the last one that was not to Trash.
    select moved.node, greatest(cur.ts, past.ts) as last, greatest(cur.outside, placed.ts) as outside
      from (select distinct p.node from unnest(v_page) as p where p.kind = 1) as moved
      left join lateral (
        select n.ts, case when n.parent <> c_trash then n.ts end as outside
          from canopy.nodes n
         where n.room_id = p_room.room_id
           and n.node = moved.node
           and n.ts <= p_room.horizon
         limit 1) as cur on true
      left join lateral (
        select h.ts
          from canopy.history h
         where h.room_id = p_room.room_id
           and h.node = moved.node
           and h.kind = 1
           and h.ts <= p_room.horizon
           and h.effective
         order by h.ts desc
         limit 1) as past on true
      left join lateral (
        select h.ts
          from canopy.history h
         where h.room_id = p_room.room_id
           and h.node = moved.node
           and h.kind = 1
           and h.ts <= p_room.horizon
           and h.effective
           and h.parent <> c_trash
         order by h.ts desc
         limit 1) as placed on true
  )
  select array_agg(p) into v_gone
    from unnest(v_page) as p
    left join settled s on s.node = p.node and p.kind = 1
   where (p.ts in (s.last, s.outside, canopy.correction_ts(s.last))) is not true;

  folded := coalesce(cardinality(v_gone), 0);
  if folded = 0 then
    return;
  end if;
  perform canopy.uncount_buckets(p_room.room_id, v_gone);
  v_seqs := array(select g.seq from unnest(v_gone) as g);
  delete from canopy.history h where h.room_id = p_room.room_id and h.seq = any(v_seqs);
  update canopy.rooms r
     set min_seq = greatest(r.min_seq, (select max(s) from unnest(v_seqs) as s)),
         folded_ops = r.folded_ops + folded,
         folded_log = r.folded_log # (
           select bit_xor(canopy.log_hash(g.kind, g.ts, g.node, g.parent, g.order_key, g.key, g.value::text))
             from unnest(v_gone) as g)
   where r.room_id = p_room.room_id;
end $$;
