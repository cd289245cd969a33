-- What serve realtime needs: to read rooms and to call the functions that read and write their logs. It can write
-- only through apply, apply_one, create_room, count_buckets, compact and purge, which run with their owner's rights.
grant usage on schema canopy to :"role";
grant select on canopy.migrations, canopy.installed_functions to :"role";
grant select on canopy.rooms, canopy.replicas, canopy.notify_channel to :"role";
grant select on canopy.revoked_tokens, canopy.revocation_head to :"role";
grant execute on function
  canopy.apply, canopy.apply_one, canopy.create_room, canopy.ops_after, canopy.children, canopy.subtree, canopy.count_below,
  canopy.count_buckets, canopy.buckets, canopy.ops_between, canopy.compactable_rooms, canopy.compact,
  canopy.purge
  to :"role";
