-- ops_between: at most p_limit operations of a room with p_after < ts ≤ p_last, in timestamp order.
-- Locks: none. Errors: CN404 no such room. Reads three indexes in order and stops at the limit.
create function canopy.ops_between(p_room text, p_after uuid, p_last uuid, p_limit bigint)
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
begin
  select room_id into v_room_id from canopy.rooms where name = p_room;
  if not found then
    raise exception 'there is no room %', p_room using errcode = 'CN404';
  end if;
  return query
    select o.*
      from canopy.ops o
     where o.room_id = v_room_id
       and uuid_send(o.ts) > uuid_send(p_after)
       and uuid_send(o.ts) <= uuid_send(p_last)
     order by uuid_send(o.ts)
     limit p_limit;
end $$;
