-- new_epoch: says that a room's history is not the one that its clients know, as after a restore from a
-- backup: they take a snapshot, and push again what they find missing of their own.
-- Arguments: the room's name. Result: the epoch that it has from now on.
-- Locks: the room's row. Errors: CN404 no such room. Not idempotent: every call makes another.
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
