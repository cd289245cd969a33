-- bucket_of: the log bucket of a timestamp: its first 32 bits.
-- Locks, errors: none. Has no SET, so it can be inlined; uses only built-ins.
create function canopy.bucket_of(ts uuid)
returns bigint
language sql immutable parallel safe
return ('x' || left(encode(uuid_send(ts), 'hex'), 8))::bit(32)::bigint;
