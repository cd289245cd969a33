-- set_restore_on: chooses which operations make up for a delete whose author did not know of them (see correct).
-- Arguments: room; 'move+set' (moves and property writes below the deleted node), 'move' or 'never'.
-- Returns nothing. Applies to batches that come after it.
-- Locks: the room's row. Errors: CN404 no such room; 23514 unknown policy (rooms_restore_on_valid). Idempotent.
create function canopy.set_restore_on(p_room text, p_restore_on text)
returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  update canopy.rooms set restore_on = p_restore_on where name = p_room;
  if not found then
    raise exception 'there is no room %', p_room using errcode = 'CN404';
  end if;
end $$;
