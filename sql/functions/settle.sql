-- settle: sparse replay. Processes a queue of logged moves whose validity may differ from their flag until every
-- flag in the room is right again: a move is effective unless, in the state made by the effective moves before
-- it, its node was its parent or an ancestor of its parent.
-- Arguments: room; timestamps of moves in order. Returns the change to the state digest.
-- Cost: a walk per queued move, plus what flippable returns for each that flips.
-- Locks: none; the caller holds the room's row. Errors: CN500 (see is_ancestor).
-- Idempotent: settling again flips nothing.
-- Specified by Kleppmann et al., "A highly-available move operation for replicated trees"; sql/README.md outlines
-- the algorithm.
create function canopy.settle(p_room_id bigint, p_queue uuid[])
returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_queue uuid[] := p_queue;
  v_op    canopy.history;
  v_valid boolean;
  v_delta bigint := 0;
  v_flip  record;
begin
  while cardinality(v_queue) > 0 loop
    select room_id, ts, seq, kind, node, parent, order_key, null, null, known, cause, effective
      into v_op
      from canopy.logged_move(p_room_id, v_queue[1]);
    v_queue := v_queue[2:];
    v_valid := not canopy.is_ancestor(p_room_id, v_op.node, v_op.parent, v_op.ts);
    continue when v_valid = v_op.effective;

    select * into v_flip from canopy.flip(p_room_id, v_op, v_valid, true);
    v_delta := v_delta # v_flip.delta;
    v_queue := array(select unnest(v_queue) union select unnest(v_flip.queue) order by 1);
  end loop;
  return v_delta;
end $$;
