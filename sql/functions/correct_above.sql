-- correct_above: corrects the delete that an operation hangs below, if the two are concurrent, and goes
-- on from where the deleted node went back to, until the operation's node is out of Trash or below a
-- delete whose author knew of it.
-- The correction moves the deleted node back to where the delete took it from (same order key), or to
-- Root where there is no such place or it would make a cycle. Its timestamp stands right behind the
-- delete's, so that it is the same operation whoever makes it; where it is logged already, nothing is
-- done.
-- Arguments: the room's row, the operation. Result: the room's row, written.
-- Cost: O(depth) a correction. Locks: none; the caller holds the room's row. Errors: CN500 (see
-- is_ancestor). Idempotent.
create function canopy.correct_above(p_room canopy.rooms, p_cause canopy.history)
returns canopy.rooms
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  c_root   constant uuid := '00000000-0000-0000-0000-000000000001';
  v_room   canopy.rooms := p_room;
  v_start  uuid := p_cause.node;
  v_delete canopy.nodes;
  v_back   canopy.history;
  v_ts     uuid;
begin
  loop
    select * into v_delete from canopy.holding_delete(p_room.room_id, v_start);
    exit when not found
           or not canopy.concurrent(p_cause.ts, p_cause.seq, p_cause.known,
                                    v_delete.ts, v_delete.seq, v_delete.known);
    v_ts := canopy.correction_ts(v_delete.ts);
    exit when exists (select 1 from canopy.logged_move(p_room.room_id, v_ts));

    select * into v_back
      from canopy.placement_before_delete(p_room.room_id, v_delete.node, v_delete.ts);
    -- Nothing came to hang below a node in Trash, at or before the horizon, that it could have hung below.
    if not found or v_ts > p_room.horizon
                    and canopy.is_ancestor(p_room.room_id, v_delete.node, v_back.parent, v_ts) then
      v_back.parent := c_root;
      v_back.order_key := coalesce(v_back.order_key, v_delete.order_key);
    end if;
    v_back := row(p_room.room_id, v_ts, v_room.head + 1, 1, v_delete.node, v_back.parent,
                  v_back.order_key, null, null, v_delete.seq, p_cause.ts, false);
    v_room := canopy.account_correction(v_back, canopy.place_correction(v_room, v_back));
    v_start := v_delete.node;
  end loop;
  return v_room;
end $$;
