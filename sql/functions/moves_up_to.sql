-- moves_up_to: the timestamps of the first moves after a room's horizon, none after p_target: whole pages of
-- p_limit, until the last one reaches p_reach.
-- Locks, errors: none. Reads two indexes in order and stops at the limit.
create function canopy.moves_up_to(p_room canopy.rooms, p_target uuid, p_reach uuid, p_limit bigint)
returns uuid[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_from uuid := p_room.horizon;
  v_all  uuid[] := '{}';
  v_more uuid[];
begin
  loop
    v_more := array(
      select m.ts
        from (select h.ts
                from canopy.history h
               where h.room_id = p_room.room_id
                 and h.kind <> 2 -- not "= 1", for which the index on moves by node looks just as good
                 and uuid_send(h.ts) > uuid_send(v_from)
                 and uuid_send(h.ts) <= uuid_send(p_target)
              union all
              select n.ts
                from canopy.nodes n
               where n.room_id = p_room.room_id
                 and uuid_send(n.ts) > uuid_send(v_from)
                 and uuid_send(n.ts) <= uuid_send(p_target)) as m
       order by uuid_send(m.ts)
       limit p_limit);
    v_all := v_all || v_more;
    v_from := v_more[cardinality(v_more)];
    exit when cardinality(v_more) < p_limit or v_from >= p_reach;
  end loop;
  return v_all;
end $$;
