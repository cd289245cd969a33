-- What canopy token mint, list, inspect and revoke need: the token tables, and nothing of any room.
grant usage on schema canopy to :"role";
grant select on canopy.migrations, canopy.installed_functions to :"role";
grant select on canopy.issued_tokens, canopy.revoked_tokens, canopy.revocation_head to :"role";
grant execute on function canopy.issue_token, canopy.revoke_token to :"role";
