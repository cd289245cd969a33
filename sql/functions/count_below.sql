-- count_below: the number of nodes below a node now, not counting itself. Cost: O(nodes counted).
-- Locks, errors: none; UNION makes it terminate even on a damaged tree.
create function canopy.count_below(p_room_id bigint, p_node uuid)
returns bigint
language sql stable security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
  with recursive below(node) as (
    select p_node
    union
    select child.node
      from below
     cross join lateral (
       select n.node from canopy.nodes n where n.room_id = p_room_id and n.parent = below.node offset 0
     ) as child
  )
  select count(*) - 1 from below
$$;
