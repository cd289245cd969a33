-- revoke_token: revokes a token by its id.
-- Arguments: the id (jti); whether to accept one that was not issued here, which cannot be listed and whose expiry
-- is unknown.
-- Returns when the token was (first) revoked; null if it was not issued here but had to be.
-- Locks: the row of revocation_head, until commit. Errors: 23514 id of invalid length. Idempotent.
-- Also deletes revocations of tokens that expired more than a day ago, beyond any leeway.
create function canopy.revoke_token(p_token_id text, p_foreign boolean)
returns timestamptz
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_revoked_at timestamptz;
  v_expires_at timestamptz;
begin
  perform from canopy.revocation_head for update; -- first, so that two calls for one token take turns
  select revoked_at into v_revoked_at from canopy.revoked_tokens where token_id = p_token_id;
  if found then
    return v_revoked_at;
  end if;
  select expires_at into v_expires_at from canopy.issued_tokens where token_id = p_token_id;
  if not found and not p_foreign then
    return null;
  end if;
  delete from canopy.revoked_tokens where expires_at < now() - interval '1 day';
  update canopy.revocation_head set version = version + 1;
  insert into canopy.revoked_tokens (token_id, version, revoked_at, expires_at)
  select p_token_id, version, clock_timestamp(), v_expires_at from canopy.revocation_head
  returning revoked_at into v_revoked_at;
  return v_revoked_at;
end $$;
