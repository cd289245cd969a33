-- op_fault: what is wrong with an operation in itself: SQLSTATE, a colon and the reason; null where it is
-- sound. The services check more (moveop.Op.Validate); this is the last gate.
-- Arguments: the operation; the greatest timestamp that is accepted now (see newest_accepted).
-- Locks, errors: none. It carries no SET, so that it is inlined; its names are schema-qualified or built
-- in.
create function canopy.op_fault(p_op canopy.history, p_newest uuid)
returns text
language sql immutable parallel safe
as $$
  select case
    when p_op.kind not in (1, 2) then 'CN422:unknown kind'
    when p_op.known is null or p_op.known < 0 then 'CN422:known is negative'
    when canopy.replica_of(p_op.ts) <= 0
      then 'CN422:the timestamp''s replica is zero or has its top bit set'
    when p_op.kind = 1 and p_op.node in ('00000000-0000-0000-0000-000000000001',
                                         '00000000-0000-0000-0000-000000000002')
      then 'CN422:Root and Trash cannot be moved'
    when p_op.kind = 1 and (octet_length(p_op.order_key) between 2 and 255
                            and p_op.order_key ~ '^[A-Za-z][0-9A-Za-z]+$') is not true
      then 'CN422:the order key is not a fractional index of 2 to 255 base-62 digits'
    when p_op.kind = 1 and (p_op.parent is null or num_nonnulls(p_op.key, p_op.value) > 0)
      then 'CN422:a move has a parent and neither key nor value'
    when p_op.kind = 2 and (octet_length(p_op.key) between 1 and 255) is not true
      then 'CN422:the key has not 1 to 255 bytes'
    when p_op.kind = 2 and (p_op.value is null or num_nonnulls(p_op.parent, p_op.order_key) > 0)
      then 'CN422:a set has a value and neither parent nor order key'
    when p_op.ts > p_newest
      then 'CN425:the timestamp is more than 60 s ahead of the server''s clock'
  end
$$;
