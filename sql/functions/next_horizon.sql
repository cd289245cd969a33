-- next_horizon: how far a room's horizon can advance within about p_limit moves. Nothing at or before the horizon
-- is replayed again, so no future operation may change what is effective there. Operations after the horizon
-- cannot, but the correction of an old delete could: it puts node n back below b as of the delete, and a move of b
-- or its ancestor into n while n was in Trash would then have made a cycle. The horizon never stops between such a
-- move and the one that takes n out of Trash; if there is none, it stops before the move for good.
-- Arguments: the room's row; the target horizon; the number of moves to look at.
-- Returns the new horizon; the old one if the very next move cannot be passed.
-- Cost: one lookup per move, plus, in rooms that have had deletes, a walk per move of a node ever named as a
-- parent. To pass a move right after the horizon, it looks at as many moves as that takes.
-- Locks: none; the caller holds the room's row. Errors: none. Read-only.
create function canopy.next_horizon(p_room canopy.rooms, p_target uuid, p_limit bigint)
returns uuid
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_target uuid := p_target;
  v_reach  uuid := p_room.horizon; -- do not stop before this
  v_moves  uuid[];
  v_to     uuid;
  v_before uuid;
  v_held   record;
begin
  while v_target > p_room.horizon loop
    v_moves := canopy.moves_up_to(p_room, v_target, v_reach, p_limit);
    v_to := case when cardinality(v_moves) < p_limit then v_target else v_moves[cardinality(v_moves)] end;
    loop
      select f.ts, f.release into v_held
        from canopy.first_holding_up(p_room, v_moves, v_to, v_target) as f;
      if v_held.ts is null then
        return v_to;
      end if;
      v_before := coalesce(
        (select m from unnest(v_moves) as m where m < v_held.ts order by m desc limit 1), p_room.horizon);
      if v_held.release is null then
        v_target := v_before;
        v_reach := p_room.horizon;
        exit;
      end if;
      if v_before <= v_reach then
        v_reach := greatest(v_reach, v_held.release);
        exit;
      end if;
      v_to := v_before;
    end loop;
  end loop;
  return p_room.horizon;
end $$;
