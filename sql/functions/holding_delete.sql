-- holding_delete: the delete above a node in the current tree: the move to Trash of the node itself or of its
-- topmost ancestor; no row if the node is not in Trash.
-- Cost: O(depth). Locks: none. Errors: none, even on a damaged tree: UNION drops repeated rows.
create function canopy.holding_delete(p_room_id bigint, p_node uuid)
returns setof canopy.nodes
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    with recursive up(node) as (
      select p_node
      union
      select above.parent
        from up
       cross join lateral (
         select n.parent from canopy.nodes n where n.room_id = p_room_id and n.node = up.node limit 1
       ) as above
       where above.parent is not null
    )
    select held.*
      from up
     cross join lateral (
       select n.* from canopy.nodes n where n.room_id = p_room_id and n.node = up.node limit 1
     ) as held
     where held.parent = '00000000-0000-0000-0000-000000000002';
end $$;
