-- log_hash: an operation's contribution to the log digest (moveop.Op.LogHash).
-- Arguments: the operation's body. Returns 64 bits. Locks, errors: none.
-- Has no SET, so it can be inlined; uses only built-ins.
create function canopy.log_hash(
  kind smallint, ts uuid, node uuid, parent uuid, order_key text, key text, value text)
returns bigint
language sql stable parallel safe
return ('x' || encode(sha256(
  case kind
    when 1 then '\x6d'::bytea || uuid_send(ts) || uuid_send(node) || uuid_send(parent)
                || convert_to(order_key, 'UTF8')
    else '\x73'::bytea || uuid_send(ts) || uuid_send(node) || convert_to(key, 'UTF8')
         || '\x00'::bytea || convert_to(value, 'UTF8')
  end), 'hex'))::bit(64)::bigint;
