-- logged_move: the logged move with a timestamp, wherever it is stored; no row where there is none.
-- (Asked for kind = 1, the planner may take the index of moves by node, which is no use here.)
-- Locks, errors: none. It carries no SET, so that it is inlined; its names are schema-qualified.
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
