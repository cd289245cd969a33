-- bucket_of: the bucket of the log that a timestamp falls into, its first 32 bits.
-- Locks, errors: none. It carries no SET, so that it is inlined; every name in it is a built-in.
create function canopy.bucket_of(ts uuid)
returns bigint
language sql immutable parallel safe
return ('x' || left(encode(uuid_send(ts), 'hex'), 8))::bit(32)::bigint;
