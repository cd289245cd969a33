-- ops_after: at most p_limit operations of a room with seq > p_after, in seq order without a hole.
-- Locks: none. Errors: CN404 no such room. Reads three indexes in order and stops at the limit.
create function canopy.ops_after(p_room text, p_after bigint, p_limit bigint)
returns setof canopy.ops
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_room_id bigint;
begin
  select room_id into v_room_id from canopy.rooms where name = p_room;
  if not found then
    raise exception 'there is no room %', p_room using errcode = 'CN404';
  end if;
  return query
    select o.*
      from canopy.ops o
     where o.room_id = v_room_id
       and o.seq > p_after
     order by o.seq
     limit p_limit;
end $$;
