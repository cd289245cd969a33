-- naming_move: whether the log has a move, effective or not, that names a node as parent: one such move's
-- seq, or no row. A node that no move names cannot be anybody's ancestor, which is what makes creating and
-- moving leaves cheap.
-- Cost: two index lookups at most. Locks, errors: none. It carries no SET and returns a set, so that it is
-- inlined where it stands in FROM; its names are schema-qualified.
create function canopy.naming_move(p_room_id bigint, p_node uuid)
returns table (seq bigint)
language sql stable rows 1
as $$
  (select n.seq from canopy.nodes n where n.room_id = p_room_id and n.parent = p_node limit 1)
  union all
  (select h.seq from canopy.history h where h.room_id = p_room_id and h.parent = p_node limit 1)
  limit 1
$$;
