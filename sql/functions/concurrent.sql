-- concurrent: whether neither of two operations was known to the other's author. An author knew what it had
-- applied (seq up to known) and its own earlier operations.
-- Locks, errors: none. Has no SET, so it can be inlined.
create function canopy.concurrent(
  a_ts uuid, a_seq bigint, a_known bigint, b_ts uuid, b_seq bigint, b_known bigint)
returns boolean
language sql immutable parallel safe
return a_seq > b_known and b_seq > a_known and substr(uuid_send(a_ts), 9) <> substr(uuid_send(b_ts), 9);
