-- next_horizon: how far a room's horizon can go, on a way of p_limit moves. Nothing at or before the
-- horizon is replayed again, so no operation that may still come can be allowed to change what is
-- effective there. Operations behind the horizon cannot. The correction of an old delete could: it puts
-- node n back below b, as of the delete, and a move of b, or of something above b, into n while n was in
-- Trash is then one that would have made a cycle. The horizon stops before such a move, until n is
-- moved out of Trash.
-- Arguments: the room's row, the timestamp to get to, the number of moves to look at.
-- Result: the new horizon; the old one where a move stands right behind it that it cannot pass.
-- Cost: a lookup for each move; a walk for moves of nodes that have been named as parents, in rooms that
-- had deletes; and more moves where the first ones are held up by what comes later.
-- Locks: none; the caller holds the room's row. Errors: none. Idempotent: reads only.
create function canopy.next_horizon(p_room canopy.rooms, p_target uuid, p_limit bigint)
returns uuid
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_limit bigint := p_limit;
  v_moves uuid[];
  v_to    uuid;
  v_held  uuid;
begin
  while p_target > p_room.horizon loop
    v_moves := array(
      select m.ts
        from (select h.ts
                from canopy.history h
               where h.room_id = p_room.room_id
                 and h.kind = 1
                 and uuid_send(h.ts) > uuid_send(p_room.horizon)
                 and uuid_send(h.ts) <= uuid_send(p_target)
              union all
              select n.ts
                from canopy.nodes n
               where n.room_id = p_room.room_id
                 and uuid_send(n.ts) > uuid_send(p_room.horizon)
                 and uuid_send(n.ts) <= uuid_send(p_target)) as m
       order by uuid_send(m.ts)
       limit v_limit);
    v_to := case when cardinality(v_moves) < v_limit then p_target else v_moves[v_limit] end;
    loop
      v_held := case
        when p_room.last_delete_seq > 0 then canopy.first_holding_up(p_room.room_id, v_moves, v_to)
      end;
      exit when v_held is null;
      v_to := coalesce(
        (select m from unnest(v_moves) as m where m < v_held order by m desc limit 1), p_room.horizon);
    end loop;
    if v_to > p_room.horizon or cardinality(v_moves) < v_limit then
      return v_to;
    end if;
    v_limit := v_limit * 2;
  end loop;
  return p_room.horizon;
end $$;
