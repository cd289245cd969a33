-- props: a node's properties that are not cleared, as one JSON object; null if it has none.
-- Locks, errors: none. Has no SET, so it can be inlined; its names are schema-qualified.
create function canopy.props(p_room_id bigint, p_node uuid)
returns json
language sql stable
as $$
  select json_object_agg(v.key, v.value order by v.key)
    from canopy.values v
   where v.room_id = p_room_id
     and v.node = p_node
     and v.value::text <> 'null'
$$;
