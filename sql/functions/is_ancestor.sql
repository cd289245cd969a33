-- is_ancestor: whether, just before a timestamp, a node was the given parent or an ancestor of it. This decides
-- whether a move of the node to that parent is effective.
-- Arguments: room; node; parent; timestamp (the greatest uuid means the current tree).
-- Cost: O(depth); no depth limit.
-- Errors: CN500 if the recorded parents form a cycle, which happens only in a damaged database. UNION drops
-- repeated rows, so the walk terminates even then.
-- Locks: none. Read-only.
create function canopy.is_ancestor(p_room_id bigint, p_node uuid, p_parent uuid, p_ts uuid)
returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_meets boolean;
  v_ended boolean;
begin
  if p_node = p_parent then
    return true;
  end if;
  with recursive up(x) as (
    select p_parent
    union
    select above.parent
      from up
      left join lateral canopy.parent_before(p_room_id, up.x, p_ts) as above on true
     where up.x is not null
       and up.x <> p_node
  )
  select coalesce(bool_or(x = p_node), false), coalesce(bool_or(x is null), false)
    into v_meets, v_ended
    from up;
  if not v_meets and not v_ended then
    raise exception 'the recorded parents above node % form a cycle', p_parent
      using errcode = 'CN500', hint = 'the database is damaged: restore it, or repair the room with its log';
  end if;
  return v_meets;
end $$;
