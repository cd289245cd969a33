-- first_holding_up: the first of the given moves that the horizon, advanced to p_to, must not pass (see
-- next_horizon): one that would not have been effective if the deletes above its parent had been corrected,
-- where those deletes can still be corrected.
-- It walks up from the parent just before the move, continuing from a node in Trash at the place it would go back
-- to: the node's last effective placement outside Trash. If the walk meets the moved node, the move holds the
-- horizon up, unless a node on the way has been moved out of Trash by p_to: its delete no longer holds it, so
-- there is nothing to correct.
-- Arguments: the room's row; timestamps of moves in order; the proposed horizon; the target horizon.
-- Returns the move's timestamp, null if there is none; and when, up to p_target, a node on the way is moved out
-- of Trash, null if none is.
-- Locks, errors: none; UNION makes it terminate even on a damaged tree. Read-only.
create function canopy.first_holding_up(
  p_room canopy.rooms, p_moves uuid[], p_to uuid, p_target uuid, out ts uuid, out release uuid)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_move canopy.ops;
  v_way  uuid[];
begin
  if p_room.last_delete_seq = 0 then
    return;
  end if;
  for v_move in
    select m.*
      from unnest(p_moves) as u(ts)
     cross join lateral (select l.* from canopy.logged_move(p_room.room_id, u.ts) as l limit 1) as m
     where u.ts <= p_to
       and m.effective
       and m.parent <> '00000000-0000-0000-0000-000000000002'
       and exists (select from canopy.naming_move(p_room.room_id, m.node))
     order by u.ts
  loop
    with recursive up(x) as (
      select v_move.parent
      union
      select back.parent
        from up
       cross join lateral canopy.last_outside_trash(p_room.room_id, up.x, v_move.ts) as back
       where up.x <> v_move.node
    )
    select array_agg(x) into v_way from up;
    continue when v_move.node <> all(v_way);

    select o.ts into release
      from unnest(v_way) as w(x)
     cross join lateral canopy.parent_before(p_room.room_id, w.x, v_move.ts) as above
     cross join lateral (
       select m.ts
         from canopy.ops m
        where m.room_id = p_room.room_id
          and m.node = w.x
          and m.kind = 1
          and m.ts > v_move.ts
          and m.ts <= p_target
          and m.effective
          and m.parent <> '00000000-0000-0000-0000-000000000002'
        order by m.ts
        limit 1) as o
     where w.x <> v_move.node
       and above.parent = '00000000-0000-0000-0000-000000000002'
     order by o.ts
     limit 1;
    if (release <= p_to) is not true then
      ts := v_move.ts;
      return;
    end if;
  end loop;
  release := null;
end $$;
