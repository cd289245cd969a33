-- correction_ts: the timestamp of the correction of the delete made at ts: the same with the top bit of the
-- replica set, which sorts it right after the delete (moveop.Timestamp.Correction).
-- Locks, errors: none.
create function canopy.correction_ts(ts uuid)
returns uuid
language sql immutable parallel safe
return encode(set_byte(uuid_send(ts), 8, get_byte(uuid_send(ts), 8) | 128), 'hex')::uuid;
