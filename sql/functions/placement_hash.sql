-- placement_hash: a node's contribution to the state digest (moveop.PlacementHash).
-- Arguments: the node's current placement. Returns 64 bits, 0 if the node is not placed (parent is null).
-- Locks, errors: none. Has no SET, so it can be inlined; uses only built-ins.
create function canopy.placement_hash(node uuid, parent uuid, order_key text)
returns bigint
language sql stable parallel safe
return coalesce(('x' || encode(sha256(
  '\x70'::bytea || uuid_send(node) || uuid_send(parent) || convert_to(order_key, 'UTF8')
  ), 'hex'))::bit(64)::bigint, 0);
