-- logged_move: the logged move with a timestamp, whichever table it is in; no row if there is none.
-- (Given kind = 1, the planner may choose the index on moves by node, which is useless here.)
-- Locks, errors: none. Has no SET, so it can be inlined; its names are schema-qualified.
create function canopy.logged_move(p_room_id bigint, p_ts uuid)
returns setof canopy.ops
language sql stable
as $$
  select o.*
    from canopy.ops o
   where o.room_id = p_room_id
     and uuid_send(o.ts) = uuid_send(p_ts)
     and o.kind <> 2
$$;
