-- naming_move: whether the log has a move, effective or not, that names a node as parent: the seq of one such
-- move, or no row. A node that no move names cannot be an ancestor, which makes creating and moving leaves cheap.
-- Cost: at most two index lookups. Locks, errors: none. Has no SET and returns a set, so it can be inlined in
-- FROM; its names are schema-qualified.
create function canopy.naming_move(p_room_id bigint, p_node uuid)
returns table (seq bigint)
language sql stable rows 1
as $$
  (select n.seq from canopy.nodes n where n.room_id = p_room_id and n.parent = p_node limit 1)
  union all
  (select h.seq from canopy.history h where h.room_id = p_room_id and h.parent = p_node limit 1)
  limit 1
$$;
