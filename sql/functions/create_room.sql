-- create_room: creates a room unless it exists.
-- Arguments: name; the epoch for a new room.
-- Returns the room's row as it is, so with the epoch of whoever came first.
-- Locks: none beyond the inserted row. Errors: 23514 invalid name (rooms_name_valid). Idempotent.
create function canopy.create_room(p_room text, p_epoch uuid)
returns setof canopy.rooms
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
  insert into canopy.rooms (name, epoch) values (p_room, p_epoch) on conflict (name) do nothing;
  select * from canopy.rooms where name = p_room
$$;
