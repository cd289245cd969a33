-- children: a page of a node's children in sibling order (order_key, node), each with its number of children and
-- its properties that are not cleared.
-- Arguments: room; parent; the (order_key, node) to continue after (null: from the start); page size; how many
-- children of each child to count at most (null: all); the bytes of properties that fill a page.
-- Returns one row per child; the last one once those before it fill the page. Cost: O(page + children counted).
-- Locks, errors: none; the caller has looked up the room.
create function canopy.children(
  p_room_id bigint, p_parent uuid, p_after_key text, p_after_node uuid, p_limit bigint, p_most bigint, p_bytes bigint)
returns table (node uuid, parent uuid, order_key text, children bigint, props json)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
  v_size bigint := 0;
begin
  for node, parent, order_key, children, props in
    select n.node, n.parent, n.order_key,
           canopy.count_children(p_room_id, n.node, p_most), canopy.props(p_room_id, n.node)
      from canopy.nodes n
     where n.room_id = p_room_id
       and n.parent = p_parent
       and (p_after_key is null or (n.order_key, n.node) > (p_after_key collate "C", p_after_node))
     order by n.order_key, n.node
     limit p_limit
  loop
    return next;
    exit when v_size >= p_bytes;
    v_size := v_size + coalesce(octet_length(props::text), 0);
  end loop;
end $$;
