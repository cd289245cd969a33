-- children: a page of a node's children in sibling order (order_key, node), with what a reader shows of
-- each: how many children it has, and its properties that are not cleared.
-- Arguments: room, parent, the (order_key, node) to go on behind (null: from the first), page size, and up
-- to how many children of each child are counted (null: all); the bytes of properties that fill a page.
-- Result: one row a child, the last one when those before it fill the page. Cost: O(page and what is counted).
-- Locks, errors: none; the caller has resolved the room.
create function canopy.children(
  p_room_id bigint, p_parent uuid, p_after_key text, p_after_node uuid, p_limit bigint, p_most bigint, p_bytes bigint)
returns table (node uuid, parent uuid, order_key text, children bigint, props json)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
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
