-- purge: permanently removes deleted subtrees, one page of Trash at a time (see COMPACTION.md). A subtree goes as
-- a whole if it was deleted at or before p_before, nothing logged of it is after the room's horizon, and no move
-- in history of a node outside names one of its nodes as parent. Only the ids of its nodes stay: operations that
-- name them are refused from then on.
-- Arguments: the room's name; the timestamp; the (order_key, node) in Trash to continue after, null at first; the page
-- size: how many deleted nodes, and (about) how many nodes of their subtrees, to examine. A larger subtree stays.
-- Returns where to continue; how many nodes were removed; whether all of Trash has been examined.
-- Locks: the room's row, for O(p_limit + moves in history that name its nodes as parent), and see uncount_buckets.
-- Errors: CN404 no such room; 22023 p_limit is not positive; CN501 not READ COMMITTED. Idempotent.
create function canopy.purge(
  p_room text, p_before uuid, p_after_key text, p_after_node uuid, p_limit bigint,
  out next_key text, out next_node uuid, out purged bigint, out done boolean)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
  c_trash  constant uuid := '00000000-0000-0000-0000-000000000002';
  v_room   canopy.rooms;
  v_top    record;
  v_looked bigint := 0;
  v_spent  bigint := 0;     -- nodes looked at below those, removable or not
  v_below  record;
  v_nodes  uuid[] := '{}';
  v_tops   uuid[] := '{}';  -- for each of v_nodes, the deleted node at the top
begin
  v_room := canopy.lock_room(p_room);
  if p_limit < 1 then
    raise exception 'the limit must be at least 1' using errcode = '22023';
  end if;

  purged := 0;
  next_key := p_after_key;
  next_node := p_after_node;
  done := true;
  for v_top in
    select n.node, n.order_key, n.ts
      from canopy.nodes n
     where n.room_id = v_room.room_id
       and n.parent = c_trash
       and (p_after_key is null or (n.order_key, n.node) > (p_after_key collate "C", p_after_node))
     order by n.order_key, n.node
     limit p_limit
  loop
    if v_spent >= p_limit then
      done := false;
      exit;
    end if;
    if v_top.ts <= p_before and v_top.ts <= v_room.horizon then
      select coalesce(b.nodes, '{}') as nodes, b.looked into v_below
        from canopy.settled_below(v_room, v_top.node, p_limit) as b;
      v_spent := v_spent + v_below.looked;
      if cardinality(v_nodes) + cardinality(v_below.nodes) > p_limit then
        done := false; -- the next call starts with it
        exit;
      end if;
      v_nodes := v_nodes || v_below.nodes;
      v_tops := v_tops || array_fill(v_top.node, array[cardinality(v_below.nodes)]);
    end if;
    v_looked := v_looked + 1;
    next_key := v_top.order_key;
    next_node := v_top.node;
  end loop;
  done := done and v_looked < p_limit;

  v_nodes := canopy.not_named_elsewhere(v_room.room_id, v_nodes, v_tops);
  purged := cardinality(v_nodes);
  if purged > 0 then
    perform canopy.erase(v_room, v_nodes);
  end if;
end $$;
