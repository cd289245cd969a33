-- not_named_elsewhere: keeps those subtrees of which no node is named as parent by a move in history of a node
-- outside: such a move could become effective again, or be where a correction puts its node back.
-- Arguments: room; nodes; by position, the top of each node's subtree. Returns the nodes of the subtrees kept.
-- Cost: O(nodes + moves that name them as parent). Locks, errors: none. Read-only.
create function canopy.not_named_elsewhere(p_room_id bigint, p_nodes uuid[], p_tops uuid[])
returns uuid[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_nestloop = off -- joins of the arrays are hashed
as $$
begin
  if cardinality(p_nodes) = 0 then
    return p_nodes;
  end if;
  return array(
    with inside as materialized (
      select u.node, u.top from unnest(p_nodes, p_tops) as u(node, top)
    ), naming as materialized (
      select h.node, h.parent
        from canopy.history h
       where h.room_id = p_room_id
         and h.parent = any(p_nodes)
    ), named as (
      select parent.top
        from naming
        join inside as parent on parent.node = naming.parent
        left join inside as child on child.node = naming.node
       where child.top is distinct from parent.top
    )
    select i.node from inside i where i.top not in (select n.top from named n));
end $$;
