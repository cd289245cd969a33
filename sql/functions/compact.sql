-- compact: does the next piece of work in compacting a room. It advances the horizon towards p_horizon; once the
-- horizon is there (or cannot advance for now, see next_horizon), it examines a page of history at or before the
-- horizon and removes what no operation after it can need. Call it until it is done.
-- Arguments: the room's name; the target horizon, not in the future; the cursor: next from the previous call, the
-- zero uuid at first; how many operations to examine.
-- Returns the room's horizon, the cursor, how many operations were removed, and whether everything is done.
-- The horizon of a room with no history that old does not move.
-- Locks: the room's row, for O(p_limit), and see uncount_buckets. Errors: CN404 no such room; 22023 p_horizon is in
-- the future or p_limit is not positive; CN501 not READ COMMITTED. Idempotent: compacting again finds nothing to do.
create function canopy.compact(
  p_room text, p_horizon uuid, p_after uuid, p_limit bigint,
  out horizon uuid, out next uuid, out folded bigint, out done boolean)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
  v_room canopy.rooms;
begin
  v_room := canopy.lock_room(p_room);
  if p_limit < 1 or uuid_send(p_horizon) > decode(lpad(to_hex(
       floor(extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0'), 'hex') then
    raise exception 'the horizon must not be in the future, and the limit must be at least 1' using errcode = '22023';
  end if;

  folded := 0;
  next := p_after;
  horizon := v_room.horizon;
  if p_after = '00000000-0000-0000-0000-000000000000' and exists (
    select 1
      from canopy.history h
     where h.room_id = v_room.room_id
       and uuid_send(h.ts) <= uuid_send(p_horizon))
  then
    horizon := canopy.next_horizon(v_room, p_horizon, p_limit);
  end if;
  if horizon > v_room.horizon then
    update canopy.rooms r set horizon = compact.horizon where r.room_id = v_room.room_id;
    done := false;
    return;
  end if;
  select f.next, f.folded, f.done into next, folded, done
    from canopy.fold(v_room, p_after, p_limit) as f;
end $$;
