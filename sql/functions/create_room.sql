-- create_room: makes a room, or finds it made.
-- Arguments: name; the epoch to give a new room.
-- Result: the room's row as it is: the epoch of whoever came first.
-- Locks: none beyond the inserted row. Errors: 23514 where the name is out of pattern
-- (rooms_name_valid). Idempotent.
create function canopy.create_room(p_room text, p_epoch uuid)
returns setof canopy.rooms
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
  insert into canopy.rooms (name, epoch) values (p_room, p_epoch) on conflict (name) do nothing;
  select * from canopy.rooms where name = p_room
$$;
