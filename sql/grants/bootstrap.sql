-- What serve bootstrap needs: to read everything in a room and write nothing.
grant usage on schema canopy to :"role";
grant select on canopy.migrations, canopy.installed_functions to :"role";
grant select on canopy.rooms, canopy.nodes, canopy.values, canopy.history to :"role";
grant select on canopy.revoked_tokens, canopy.revocation_head to :"role";
grant execute on function canopy.count_below to :"role";
