-- new_epoch: declares that a room's history is not the one its clients know, as after restoring a backup. They
-- load a snapshot, and push again those of their own operations that are missing.
-- Arguments: the room's name. Returns its new epoch.
-- Locks: the room's row. Errors: CN404 no such room. Not idempotent: every call makes a new epoch.
create function canopy.new_epoch(p_room text)
returns uuid
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_epoch uuid;
begin
  update canopy.rooms set epoch = gen_random_uuid() where name = p_room returning epoch into v_epoch;
  if not found then
    raise exception 'there is no room %', p_room using errcode = 'CN404';
  end if;
  return v_epoch;
end $$;
