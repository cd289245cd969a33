-- correct_above: corrects the delete above an operation's node, if the two are concurrent, and continues from
-- where the deleted node went back to, until the operation's node is out of Trash or below a delete whose author
-- knew of it.
-- A correction moves the deleted node back to where the delete took it from (same order key), or to Root if there
-- is no such place or it would make a cycle. Its timestamp comes right after the delete's, so it is the same
-- operation whoever makes it; if it is already in the log, nothing is done.
-- Arguments: the room's row; the operation. Returns the updated room row.
-- Cost: O(depth) per correction. Locks: none; the caller holds the room's row. Errors: CN500 (see is_ancestor).
-- Idempotent.
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
    -- At or before the horizon there is no cycle to check for: see next_horizon.
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
