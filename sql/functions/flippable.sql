-- flippable: the moves whose validity can have changed because a node's parent changed between p and q during
-- (from, to): those of a node while it was, or may have become, above p or q.
-- Arguments: room; the two parents; the span, both ends excluded.
-- Returns their timestamps in order.
-- Cost: follows p and q upwards through the span, each parent only while it was one. If that outgrows the span,
-- returns all moves of the span instead, so that a flip never costs more than undoing and redoing everything
-- after it.
-- Locks, errors: none.
create function canopy.flippable(p_room_id bigint, p_p uuid, p_q uuid, p_from uuid, p_to uuid)
returns uuid[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_nodes uuid[];
  v_lows  uuid[];
  v_highs uuid[];
  v_span  uuid[];
  v_limit bigint := 256;
begin
  loop
    with recursive above(x, low, high) as (
      select u.x, p_from, p_to
        from unnest(array[p_p, p_q]) as u(x)
       where u.x is not null
      union
      select up.parent, up.low, up.high
        from above a
       cross join lateral (
         -- The placements of x during (low, high), and when each applied.
         select e.parent,
                greatest(e.ts, a.low) as low,
                lead(e.ts, 1, a.high) over (order by e.ts) as high
           from ((select h.parent, h.ts
                    from canopy.history h
                   where h.room_id = p_room_id
                     and h.node = a.x
                     and h.kind = 1
                     and h.ts <= a.low
                     and h.effective
                   order by h.ts desc
                   limit 1)
                 union all
                 select h.parent, h.ts
                   from canopy.history h
                  where h.room_id = p_room_id
                    and h.node = a.x
                    and h.kind = 1
                    and h.ts > a.low
                    and h.ts < a.high
                    and h.effective
                 union all
                 select n.parent, n.ts
                   from canopy.nodes n
                  where n.room_id = p_room_id
                    and n.node = a.x
                    and n.ts < a.high) as e
       ) as up
       where up.low < up.high
    )
    select array_agg(x), array_agg(low), array_agg(high)
      into v_nodes, v_lows, v_highs
      from (select x, low, high from above limit v_limit) as bounded;
    exit when coalesce(cardinality(v_nodes), 0) < v_limit;

    v_span := array(select ts from canopy.moves_between(p_room_id, p_from, p_to, v_limit));
    if cardinality(v_span) < v_limit then
      return v_span;
    end if;
    v_limit := v_limit * 4;
  end loop;

  return array(
    select distinct m.ts
      from unnest(v_nodes, v_lows, v_highs) as a(x, low, high)
     cross join lateral (
       select h.ts
         from canopy.history h
        where h.room_id = p_room_id
          and h.node = a.x
          and h.kind = 1
          and h.ts > a.low
          and h.ts < a.high
       union all
       select n.ts
         from canopy.nodes n
        where n.room_id = p_room_id
          and n.node = a.x
          and n.ts > a.low
          and n.ts < a.high
       offset 0) as m
     order by m.ts);
end $$;
