-- op_fault: what is wrong with an operation in itself: SQLSTATE, a colon and the reason; null if nothing is. The
-- services check more (moveop.Op.Validate); this is the last gate.
-- Arguments: the operation; its author (see replica_of); what is too new at this moment (see first_too_new).
-- Locks, errors: none. Has no SET, so it can be inlined; its names are schema-qualified or built-in. In
-- apply_one its cost grows with its size: each function it refers to is looked up again in each transaction.
create function canopy.op_fault(
  p_kind smallint, p_ts uuid, p_replica bigint, p_node uuid, p_parent uuid, p_order_key text, p_key text,
  p_has_value boolean, p_known bigint, p_too_new bytea)
returns text
language sql immutable parallel safe
as $$
  select coalesce(
    case
      when (p_known >= 0) is not true then 'CN422:known is negative'
      when p_replica <= 0 then 'CN422:the timestamp''s replica is zero or has its top bit set'
      when p_kind = 1 then case
        when p_node in ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000002')
          then 'CN422:Root and Trash cannot be moved'
        when (octet_length(p_order_key) <= 255 and p_order_key ~ '^[A-Za-z][0-9A-Za-z]+$') is not true
          then 'CN422:the order key is not a fractional index of 2 to 255 base-62 digits'
        when p_parent is null or p_key is not null or p_has_value
          then 'CN422:a move has a parent and neither key nor value'
      end
      when p_kind = 2 then case
        when (octet_length(p_key) between 1 and 255) is not true
          then 'CN422:the key must have 1 to 255 bytes'
        when not p_has_value or p_parent is not null or p_order_key is not null
          then 'CN422:a set has a value and neither parent nor order key'
      end
      else 'CN422:unknown kind'
    end,
    case
      when uuid_send(p_ts) >= p_too_new
        then 'CN425:the timestamp is more than 60 s ahead of the server''s clock'
    end)
$$;
