-- value_hash: a property's contribution to the state digest (moveop.ValueHash).
-- Arguments: the current write of (node, key). Returns 64 bits, 0 if there is none (ts is null).
-- Locks, errors: none. Has no SET, so it can be inlined; uses only built-ins.
create function canopy.value_hash(node uuid, key text, ts uuid)
returns bigint
language sql stable parallel safe
return coalesce(('x' || encode(sha256(
  '\x76'::bytea || uuid_send(node) || uuid_send(ts) || convert_to(key, 'UTF8')
  ), 'hex'))::bit(64)::bigint, 0);
