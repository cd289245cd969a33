-- settled_below: a node and everything below it now, if that is at most p_limit nodes and nothing logged of any of
-- them is after the room's horizon.
-- Arguments: the room's row; the node; the limit. Returns the nodes, null if there are more or not all are settled;
-- and how many it looked at.
-- Cost: O(p_limit). Locks, errors: none; UNION makes it terminate even on a damaged tree.
create function canopy.settled_below(
  p_room canopy.rooms, p_node uuid, p_limit bigint,
  out nodes uuid[], out looked bigint)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  with recursive below(node) as (
    select p_node
    union
    select child.node
      from below
     cross join lateral (
       select n.node from canopy.nodes n where n.room_id = p_room.room_id and n.parent = below.node offset 0
     ) as child
  )
  select array_agg(b.node), count(*) into nodes, looked from (select node from below limit p_limit + 1) as b;
  if looked > p_limit or exists (
    select 1
      from unnest(nodes) as b(node)
     cross join lateral (
       select n.ts from canopy.nodes n where n.room_id = p_room.room_id and n.node = b.node
       union all
       select v.ts from canopy.values v where v.room_id = p_room.room_id and v.node = b.node
       union all
       (select h.ts
          from canopy.history h
         where h.room_id = p_room.room_id
           and h.node = b.node
           and h.kind = 1
         order by h.ts desc
         limit 1)
       offset 0) as logged
     where logged.ts > p_room.horizon)
  then
    nodes := null;
  end if;
end $$;
