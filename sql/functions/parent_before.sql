-- parent_before: a node's parent just before a timestamp, from its last effective move by then.
-- Arguments: room; node; timestamp. Returns at most one row; none, or null, if the node was not placed.
-- Cost: one index lookup if the node's placement is older than ts, otherwise two.
-- Locks, errors: none. Has no SET and returns a set, so it can be inlined in FROM; its names are schema-qualified.
create function canopy.parent_before(p_room_id bigint, p_node uuid, p_ts uuid)
returns table (parent uuid)
language sql stable rows 1
as $$
  select case
           when n.ts < p_ts then n.parent
           else (select h.parent
                   from canopy.history h
                  where h.room_id = p_room_id
                    and h.node = p_node
                    and h.kind = 1
                    and h.ts < p_ts
                    and h.effective
                  order by h.ts desc
                  limit 1)
         end
    from canopy.nodes n
   where n.room_id = p_room_id
     and n.node = p_node
$$;
