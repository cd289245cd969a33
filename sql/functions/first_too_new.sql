-- first_too_new: the first 8 bytes of the least timestamp that is not accepted now: more than 60 s ahead of
-- the clock. Locks, errors: none. It carries no SET, so that it is inlined; every name in it is a built-in.
create function canopy.first_too_new()
returns bytea
language sql volatile parallel safe
return int8send((floor(date_part('epoch', clock_timestamp()) * 1000)::bigint + 60001) << 16);
