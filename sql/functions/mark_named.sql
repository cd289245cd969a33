-- mark_named: remembers which nodes have ever been named as a parent. A node that never was cannot be
-- anybody's ancestor, which is what makes creating and moving leaves cheap.
-- Arguments: room, parents (repeats allowed). Result: none.
-- Locks: none; the caller holds the room's row. Errors: none. Idempotent.
create function canopy.mark_named(p_room_id bigint, p_parents uuid[])
returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  insert into canopy.nodes as n (room_id, node, named)
  select p_room_id, p.node, true
    from (select distinct unnest(p_parents) as node) as p
    left join lateral (
      select n.named from canopy.nodes n where n.room_id = p_room_id and n.node = p.node limit 1
    ) as have on true
   where have.named is not true
     and p.node not in ('00000000-0000-0000-0000-000000000001',
                        '00000000-0000-0000-0000-000000000002')
  on conflict (room_id, node) do update
     set named = true;
end $$;
