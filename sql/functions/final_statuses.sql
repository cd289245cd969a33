-- final_statuses: marks the moves of a batch that are not effective once all of it is applied.
-- Arguments: room; by position in the batch, the seqs and the statuses so far; the moves that were not
-- certain to be effective. Result: the statuses (1 applied, 2 ineffective, 3 duplicate).
-- Locks, errors: none. Idempotent: reads only.
create function canopy.final_statuses(
  p_room_id bigint, p_seqs bigint[], p_statuses smallint[], p_moves canopy.history[])
returns smallint[]
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case
           when cardinality(p_moves) = 0 then p_statuses
           else (select array_agg(case when lost.seq is null then b.status else 2::smallint end
                                  order by b.pos)
                   from unnest(p_seqs, p_statuses) with ordinality as b(seq, status, pos)
                   left join (select h.seq
                                from unnest(p_moves) as m
                                join canopy.history h on h.room_id = p_room_id
                                                     and h.seq = m.seq
                               where not h.effective) as lost on lost.seq = b.seq
                                                             and b.status = 1)
         end
$$;
