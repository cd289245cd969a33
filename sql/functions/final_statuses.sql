-- final_statuses: marks the moves of a batch that are not effective once all of it is applied.
-- Arguments: room; by position in the batch, the seqs and the statuses so far; the moves that were not
-- certain to be effective. Result: the statuses (1 applied, 2 ineffective, 3 duplicate).
-- Locks, errors: none. Idempotent: reads only.
create function canopy.final_statuses(
  p_room_id bigint, p_seqs bigint[], p_statuses smallint[], p_moves canopy.history[])
returns smallint[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_statuses smallint[] := p_statuses;
  v_seq      bigint;
begin
  for v_seq in
    select m.seq
      from unnest(p_moves) as m
     cross join lateral (
       select 1
         from canopy.history h
        where h.room_id = p_room_id
          and h.seq = m.seq
          and not h.effective
        limit 1) as ineffective
  loop
    v_statuses[array_position(p_seqs, v_seq)] := 2;
  end loop;
  return v_statuses;
end $$;
