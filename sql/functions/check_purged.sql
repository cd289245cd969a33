-- check_purged: refuses a batch with an operation that names a purged node.
-- Arguments: the room; the batch's new operations.
-- Errors: CN422 for the first such operation (see refuse). Locks: none; the caller holds the room's row.
-- Read-only.
create function canopy.check_purged(p_room_id bigint, p_ops canopy.history[])
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_ts uuid;
begin
  select o.ts into v_ts
    from unnest(p_ops) as o
   where exists (select 1
                   from canopy.purged p
                  where p.room_id = p_room_id
                    and p.node in (o.node, o.parent)
                 offset 0)
   order by o.seq
   limit 1;
  if found then
    perform canopy.refuse('CN422', v_ts, 'the node, or its parent, was deleted so long ago that it has been purged');
  end if;
end $$;
