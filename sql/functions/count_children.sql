-- count_children: the number of a node's children now, counting no further than p_most (null: all).
-- Cost: O(children counted), from one index. Locks, errors: none. Its names are schema-qualified.
create function canopy.count_children(p_room_id bigint, p_node uuid, p_most bigint)
returns bigint
language sql stable
as $$
  select count(*)
    from (
      select
        from canopy.nodes c
       where c.room_id = p_room_id
         and c.parent = p_node
       limit p_most) as counted
$$;
