-- first_holding_up: the first of some moves that would not have been effective if the deletes above its
-- parent had been corrected, and whose deletes can still be, should the horizon be p_to (see
-- next_horizon).
-- It walks up from the parent just before the move, and from nodes in Trash on from where they would go
-- back to: a node's last effective placement that is not Trash. Where the walk meets the moved node, the
-- move is held up, unless a node on the way has been moved out of Trash by p_to: that delete is no more
-- what holds it, so there is nothing to correct.
-- Arguments: room, timestamps of moves in order, horizon. Result: a timestamp; null if there is none.
-- Locks, errors: none; UNION makes it end even on a damaged tree. Idempotent: reads only.
create function canopy.first_holding_up(p_room_id bigint, p_moves uuid[], p_to uuid)
returns uuid
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_move canopy.ops;
  v_way  uuid[];
begin
  for v_move in
    select m.*
      from unnest(p_moves) as u(ts)
     cross join lateral canopy.logged_move(p_room_id, u.ts) as m
     where u.ts <= p_to
       and m.effective
       and m.parent <> '00000000-0000-0000-0000-000000000002'
       and exists (select from canopy.naming_move(p_room_id, m.node))
     order by u.ts
  loop
    with recursive up(x) as (
      select v_move.parent
      union
      select back.parent
        from up
       cross join lateral canopy.last_outside_trash(p_room_id, up.x, v_move.ts) as back
       where up.x <> v_move.node
    )
    select array_agg(x) into v_way from up;
    if v_move.node = any(v_way) and not exists (
      select 1
        from unnest(v_way) as w(x)
       cross join lateral canopy.parent_before(p_room_id, w.x, v_move.ts) as above
       cross join lateral (
         select 1
           from canopy.ops o
          where o.room_id = p_room_id
            and o.node = w.x
            and o.kind = 1
            and o.ts > v_move.ts
            and o.ts <= p_to
            and o.effective
            and o.parent <> '00000000-0000-0000-0000-000000000002'
          limit 1) as out_again
       where w.x <> v_move.node
         and above.parent = '00000000-0000-0000-0000-000000000002')
    then
      return v_move.ts;
    end if;
  end loop;
  return null;
end $$;
