-- The log as a Merkle tree over time, in which two replicas find what one of them lacks: how many operations
-- of a room have a timestamp within a span of 2^16 ms (65.5 s), and the XOR of their log_hash. Wider spans are
-- sums of these, narrower ones are added up from the log.
--
-- Nobody asks for it but replicas that already know that they differ, so apply does not keep it:
-- count_buckets counts in what has come to the log since it was asked last.

create table canopy.log_buckets (
  room_id bigint not null,
  bucket  bigint not null,                     -- the first 32 bits of the timestamps in it
  ops     bigint not null,
  digest  bigint not null,
  constraint log_buckets_pkey primary key (room_id, bucket)
) with (fillfactor = 90);

-- How far the buckets of a room go. Its row lock is what counting takes, never the room's.
create table canopy.log_bucket_heads (
  room_id bigint not null,
  seq     bigint not null default 0,           -- operations up to here are counted in
  constraint log_bucket_heads_pkey primary key (room_id)
);
