-- moves_between: at most p_limit moves of a room with from < ts < to, in timestamp order.
-- Locks, errors: none. Reads two indexes in order and stops at the limit.
create function canopy.moves_between(p_room_id bigint, p_from uuid, p_to uuid, p_limit bigint)
returns table (ts uuid)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select m.ts
      from (select h.ts
              from canopy.history h
             where h.room_id = p_room_id
               and h.kind = 1
               and uuid_send(h.ts) > uuid_send(p_from)
               and uuid_send(h.ts) < uuid_send(p_to)
            union all
            select n.ts
              from canopy.nodes n
             where n.room_id = p_room_id
               and uuid_send(n.ts) > uuid_send(p_from)
               and uuid_send(n.ts) < uuid_send(p_to)) as m
     order by uuid_send(m.ts)
     limit p_limit;
end $$;
