-- replica_of: an operation's author, the low 64 bits of its timestamp. Negative for the server's corrections (top
-- bit set). Locks, errors: none. Has no SET, so it can be inlined; uses only built-ins.
create function canopy.replica_of(ts uuid)
returns bigint
language sql immutable parallel safe
return ('x' || encode(substr(uuid_send(ts), 9), 'hex'))::bit(64)::bigint;
