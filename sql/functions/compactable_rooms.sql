-- compactable_rooms: the names of the rooms with history at or before a timestamp, in order.
-- Cost: one lookup per room. Locks, errors: none.
create function canopy.compactable_rooms(p_horizon uuid)
returns setof text
language sql stable security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
  select r.name
    from canopy.rooms r
   cross join lateral (
     select 1
       from canopy.history h
      where h.room_id = r.room_id
        and uuid_send(h.ts) <= uuid_send(p_horizon)
      limit 1) as old
   order by r.name
$$;
