-- first_too_new: the first 8 bytes of the smallest timestamp not accepted at this moment: more than 60 s ahead of
-- the clock. Locks, errors: none. Has no SET, so it can be inlined; uses only built-ins.
create function canopy.first_too_new()
returns bytea
language sql volatile parallel safe
return int8send((floor(date_part('epoch', clock_timestamp()) * 1000)::bigint + 60001) << 16);
