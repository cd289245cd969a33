-- lock_room: locks a room's row before anything else of the room is read, for functions that work on the whole
-- room (apply does the same inline: it is called too often for an extra function call).
-- Arguments: the room's name. Returns its row.
-- Locks: the room's row. Errors: CN404 no such room; CN501 not READ COMMITTED, where later statements would not
-- see what the lock waited for. Idempotent.
create function canopy.lock_room(p_room text)
returns canopy.rooms
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_room canopy.rooms;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'a room is worked on in READ COMMITTED, not %', current_setting('transaction_isolation')
      using errcode = 'CN501';
  end if;
  select * into v_room from canopy.rooms where name = p_room for update;
  if not found then
    raise exception 'there is no room %', p_room using errcode = 'CN404';
  end if;
  return v_room;
end $$;
