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
  insert into canopy.parents (room_id, node)
  select distinct p_room_id, u.node
    from unnest(p_parents) as u(node)
  on conflict (room_id, node) do nothing;
end $$;
