-- last_outside_trash: a node's last effective move before a timestamp whose parent was not Trash; no row if there
-- is none. Cost: one index lookup if that is the node's placement, otherwise two plus the later moves to Trash.
-- Locks, errors: none. Has no SET, so it can be inlined; its names are schema-qualified.
create function canopy.last_outside_trash(p_room_id bigint, p_node uuid, p_ts uuid)
returns table (ts uuid, parent uuid)
language sql stable rows 1
as $$
  select m.ts, m.parent
    from (select n.ts, n.parent
            from canopy.nodes n
           where n.room_id = p_room_id
             and n.node = p_node
             and n.ts < p_ts
             and n.parent <> '00000000-0000-0000-0000-000000000002'
          union all
          (select h.ts, h.parent
             from canopy.history h
            where h.room_id = p_room_id
              and h.node = p_node
              and h.kind = 1
              and h.ts < p_ts
              and h.effective
              and h.parent is distinct from '00000000-0000-0000-0000-000000000002'
            order by h.ts desc
            limit 1)) as m
   order by m.ts desc
   limit 1
$$;
