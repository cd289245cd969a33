-- placement_before_delete: where a delete took its node from: the node's last effective move before it outside
-- Trash; no row if there is none.
-- Locks, errors: none. Has no SET, so it can be inlined; its names are schema-qualified.
create function canopy.placement_before_delete(p_room_id bigint, p_node uuid, p_delete_ts uuid)
returns setof canopy.history
language sql stable
as $$
  select h.*
    from canopy.history h
   where h.room_id = p_room_id
     and h.node = p_node
     and h.kind = 1
     and h.ts < p_delete_ts
     and h.effective
     and h.parent is distinct from '00000000-0000-0000-0000-000000000002'
   order by h.ts desc
   limit 1
$$;
