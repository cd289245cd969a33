-- ops_after: at most p_limit operations of a room with seq > p_after, in seq order without gaps.
-- Locks: none. Errors: CN404 no such room; CN411 p_after is below the room's min_seq. Reads three indexes in
-- order and stops at the limit.
create function canopy.ops_after(p_room text, p_after bigint, p_limit bigint)
returns setof canopy.ops
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
  v_room_id bigint;
  v_min_seq bigint;
begin
  select room_id, min_seq into v_room_id, v_min_seq from canopy.rooms where name = p_room;
  if not found then
    raise exception 'there is no room %', p_room using errcode = 'CN404';
  end if;
  if p_after < v_min_seq then
    raise exception 'operations up to % are no longer in the log', v_min_seq using errcode = 'CN411';
  end if;
  return query
    select o.*
      from canopy.ops o
     where o.room_id = v_room_id
       and o.seq > p_after
     order by o.seq
     limit p_limit;
end $$;
