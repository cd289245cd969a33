-- subtree: a page of the nodes below a node, not including itself, breadth first: level by level, each in the
-- order of the parents and then of the siblings.
-- Arguments: room; node; the most levels to descend (null: all); the position to continue after (level, from 1,
-- and how many of its nodes were already returned; 0, 0 at first); page size; the bytes of properties that fill a
-- page.
-- Returns one row per node, with its position as (level, place); the last one once those before it fill the page.
-- Cost: O(nodes down to the page's last level). Locks, errors: none; the caller has looked up the room.
create function canopy.subtree(
  p_room_id bigint, p_node uuid, p_depth bigint, p_after_level bigint, p_after_place bigint, p_limit bigint,
  p_bytes bigint)
returns table (
  node uuid, parent uuid, order_key text, children bigint, props json, level bigint, place bigint)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
  v_nodes uuid[] := array[p_node];
  v_level bigint := 0;
  v_skip  bigint;
  v_left  bigint := p_limit;
  v_size  bigint := 0;
begin
  while v_left > 0 and v_level < coalesce(p_depth, v_level + 1) loop
    v_level := v_level + 1;
    v_nodes := array(
      select n.node
        from unnest(v_nodes) with ordinality as above(node, place)
       cross join lateral (
         select c.node, c.order_key
           from canopy.nodes c
          where c.room_id = p_room_id
            and c.parent = above.node
         offset 0) as n
       order by above.place, n.order_key, n.node);
    exit when cardinality(v_nodes) = 0;
    continue when v_level < p_after_level;

    v_skip := case when v_level = p_after_level then least(p_after_place, cardinality(v_nodes)) else 0 end;
    for node, parent, order_key, children, props, level, place in
      select n.node, n.parent, n.order_key, canopy.count_children(p_room_id, n.node, null),
             canopy.props(p_room_id, n.node), v_level, v_skip + page.place
        from unnest(v_nodes[v_skip + 1 : v_skip + v_left]) with ordinality as page(node, place)
       cross join lateral (
         select c.* from canopy.nodes c where c.room_id = p_room_id and c.node = page.node limit 1
       ) as n
       order by page.place
    loop
      return next;
      if v_size >= p_bytes then
        return;
      end if;
      v_size := v_size + coalesce(octet_length(props::text), 0);
    end loop;
    v_left := v_left - least(cardinality(v_nodes) - v_skip, v_left);
  end loop;
end $$;
