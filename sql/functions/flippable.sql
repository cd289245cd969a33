-- flippable: the moves whose validity can have changed when a node's parent changed between p and q
-- for the span of time (from, to): those on a node that was, or may have become, an ancestor of p or q.
-- Arguments: room, the two parents, the span (both ends excluded).
-- Result: their timestamps in order.
-- Cost: O(closure); where that would outgrow the span, all moves of the span are returned instead, so
-- that a flip never costs more than undoing and redoing everything behind it.
-- Locks, errors: none. Source: the project's design, "sparse replay".
create function canopy.flippable(p_room_id bigint, p_p uuid, p_q uuid, p_from uuid, p_to uuid)
returns uuid[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_nodes uuid[];
  v_span  uuid[];
  v_limit bigint := 256;
begin
  loop
    with recursive closure(x) as (
      select unnest(array[p_p, p_q])
      union
      select up.parent
        from closure c
       cross join lateral (
         select b.parent
           from canopy.parent_before(p_room_id, c.x, p_from) as b
         union all
         select h.parent
           from canopy.history h
          where h.room_id = p_room_id
            and h.node = c.x
            and h.kind = 1
            and h.ts > p_from
            and h.ts < p_to
         union all
         select n.parent
           from canopy.nodes n
          where n.room_id = p_room_id
            and n.node = c.x
            and n.ts > p_from
            and n.ts < p_to
       ) as up(parent)
       where up.parent is not null
    )
    select array_agg(x) into v_nodes
      from (select x from closure where x is not null limit v_limit) as bounded;
    exit when coalesce(cardinality(v_nodes), 0) < v_limit;

    v_span := array(select ts from canopy.moves_between(p_room_id, p_from, p_to, v_limit));
    if cardinality(v_span) < v_limit then
      return v_span;
    end if;
    v_limit := v_limit * 4;
  end loop;

  return array(
    select m.ts
      from unnest(v_nodes) as c(x)
     cross join lateral (
       select h.ts
         from canopy.history h
        where h.room_id = p_room_id
          and h.node = c.x
          and h.kind = 1
          and h.ts > p_from
          and h.ts < p_to
       union all
       select n.ts
         from canopy.nodes n
        where n.room_id = p_room_id
          and n.node = c.x
          and n.ts > p_from
          and n.ts < p_to
       offset 0) as m
     order by m.ts);
end $$;
