-- first_unseen: the first operation, by seq, that a delete would take away without its author having known of it:
-- of another replica, surviving, concurrent, and on the deleted node or below it.
-- Arguments: the room's row; the delete.
-- Returns the operation; null if there is none or the delete does not hold its node now.
-- Cost: the smaller of the deleted subtree and of what the deleter did not know (times the depth).
-- Locks, errors: none. Read-only.
create function canopy.first_unseen(p_room canopy.rooms, p_delete canopy.history)
returns canopy.history
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_unknown bigint := p_room.head - p_delete.known;
  v_nodes   uuid[];
  v_op      canopy.history;
  v_first   canopy.history;
begin
  if not exists (select 1
                   from canopy.nodes n
                  where n.room_id = p_room.room_id
                    and n.node = p_delete.node
                    and n.ts = p_delete.ts) then
    return null;
  end if;

  -- The placement that the delete took the node from counts, although it is no longer current.
  select b.* into v_first
    from canopy.placement_before_delete(p_room.room_id, p_delete.node, p_delete.ts) as b
   where canopy.concurrent(b.ts, b.seq, b.known, p_delete.ts, p_delete.seq, p_delete.known)
     and b.cause is null;

  with recursive below(node) as (
    select p_delete.node
    union
    select child.node
      from below
     cross join lateral (
       select n.node from canopy.nodes n where n.room_id = p_room.room_id and n.parent = below.node offset 0
     ) as child
  )
  select array_agg(b.node) into v_nodes from (select node from below limit v_unknown) as b;

  if cardinality(v_nodes) < v_unknown then
    select c.* into v_op
      from unnest(v_nodes) as b(node)
     cross join lateral (
       select s.*
         from canopy.surviving_ops(p_room.room_id, p_room.restore_on) as s
        where s.node = b.node
       offset 0) as c
     where c.seq > p_delete.known
       and canopy.concurrent(c.ts, c.seq, c.known, p_delete.ts, p_delete.seq, p_delete.known)
     order by c.seq
     limit 1;
  else
    select c.* into v_op
      from canopy.surviving_ops(p_room.room_id, p_room.restore_on) as c
     where c.seq > p_delete.known
       and canopy.concurrent(c.ts, c.seq, c.known, p_delete.ts, p_delete.seq, p_delete.known)
       and exists (select 1
                     from canopy.holding_delete(p_room.room_id, c.node) as d
                    where d.ts = p_delete.ts)
     order by c.seq
     limit 1;
  end if;
  if v_op.seq is null or v_first.seq < v_op.seq then
    return v_first;
  end if;
  return v_op;
end $$;
