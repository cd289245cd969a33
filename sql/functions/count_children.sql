-- count_children: how many children a node has now. Cost: O(children), from one index.
-- Locks, errors: none. It carries no SET, so that it is inlined; its names are schema-qualified.
create function canopy.count_children(p_room_id bigint, p_node uuid)
returns bigint
language sql stable
as $$
  select count(*)
    from canopy.nodes c
   where c.room_id = p_room_id
     and c.parent = p_node
$$;
