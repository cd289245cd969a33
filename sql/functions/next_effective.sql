-- next_effective: the timestamp of a node's first effective move after a given one; the greatest uuid if there is
-- none. Locks, errors: none.
create function canopy.next_effective(p_room_id bigint, p_node uuid, p_ts uuid)
returns uuid
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select coalesce(
      (select h.ts
         from canopy.history h
        where h.room_id = p_room_id
          and h.node = p_node
          and h.kind = 1
          and h.ts > p_ts
          and h.effective
        order by h.ts
        limit 1),
      (select n.ts
         from canopy.nodes n
        where n.room_id = p_room_id
          and n.node = p_node
          and n.ts > p_ts),
      'ffffffff-ffff-ffff-ffff-ffffffffffff'));
end $$;
