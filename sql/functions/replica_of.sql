-- replica_of: the author of an operation, the low 64 bits of its timestamp. Negative for the
-- server's corrections (top bit set). Locks, errors: none.
-- It carries no SET, so that it is inlined; every name in it is a built-in.
create function canopy.replica_of(ts uuid)
returns bigint
language sql immutable parallel safe
return ('x' || encode(substr(uuid_send(ts), 9), 'hex'))::bit(64)::bigint;
