-- issue_token: records a token being issued, so that it can be listed and revoked.
-- Arguments: the token's id (jti), subject, room grants, and times of issue and expiry.
-- Locks: none beyond the inserted row. Errors: 23505 duplicate id; 23514 id of invalid length.
-- Not idempotent: an id is issued once. Also deletes tokens that expired more than 90 days ago.
create function canopy.issue_token(
  p_token_id text, p_subject text, p_rooms jsonb, p_issued_at timestamptz, p_expires_at timestamptz)
returns void
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
  delete from canopy.issued_tokens where expires_at < now() - interval '90 days';
  insert into canopy.issued_tokens (token_id, subject, rooms, issued_at, expires_at)
  values (p_token_id, p_subject, p_rooms, p_issued_at, p_expires_at)
$$;
