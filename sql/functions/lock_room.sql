-- lock_room: takes a room's row before anything else of it is read, for functions that do a piece of work
-- on all of it (apply does the same itself: it is called too often for one more call).
-- Arguments: the room's name. Result: its row.
-- Locks: the room's row. Errors: CN404 no such room; CN501 not READ COMMITTED, where the statements that
-- follow would not see what the lock waited for. Idempotent.
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
