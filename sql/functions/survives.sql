-- survives: whether an operation shows in the room's state, so that a delete above it would take something away.
-- It does if it is its node's current placement outside Trash, or the placement that the delete now holding the
-- node took it from, or (policy move+set) its property's current write.
-- Locks, errors: none. Read-only.
create function canopy.survives(p_room canopy.rooms, p_op canopy.history)
returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  c_trash constant uuid := '00000000-0000-0000-0000-000000000002';
  v_cur   canopy.nodes;
begin
  if p_op.kind = 2 then
    return p_room.restore_on = 'move+set' and exists (
      select 1
        from canopy.values v
       where v.room_id = p_room.room_id
         and v.node = p_op.node
         and v.key = p_op.key
         and v.ts = p_op.ts);
  end if;
  select * into v_cur
    from canopy.nodes n
   where n.room_id = p_room.room_id
     and n.node = p_op.node;
  if v_cur.ts = p_op.ts then
    return v_cur.parent <> c_trash;
  end if;
  return v_cur.parent = c_trash and exists (
    select 1
      from canopy.placement_before_delete(p_room.room_id, p_op.node, v_cur.ts) as b
     where b.ts = p_op.ts);
end $$;
