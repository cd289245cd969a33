-- value_hash: a property's contribution to the state digest (moveop.ValueHash).
-- Arguments: the current write of (node, key). Result: 64 bits, 0 where there is none (ts is null).
-- Locks, errors: none. It carries no SET, so that it is inlined; every name in it is a built-in.
create function canopy.value_hash(node uuid, key text, ts uuid)
returns bigint
language sql stable parallel safe
return coalesce(('x' || encode(sha256(
  '\x76'::bytea || uuid_send(node) || uuid_send(ts) || convert_to(key, 'UTF8')
  ), 'hex'))::bit(64)::bigint, 0);
