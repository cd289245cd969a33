-- newest_accepted: the greatest timestamp that is accepted now: 60 s ahead of the clock.
-- Locks, errors: none. It carries no SET, so that it is inlined; every name in it is a built-in.
create function canopy.newest_accepted()
returns uuid
language sql volatile parallel safe
return (lpad(to_hex(floor(extract(epoch from clock_timestamp()) * 1000)::bigint + 60000), 12, '0')
        || 'ffffffffffffffffffff')::uuid;
