-- account: records a batch in the room's row (head, digests, newest move, last delete) and in the version
-- vector.
-- Arguments: the room's row; the new operations with their seqs; the change to the state digest.
-- Returns the updated room row. Locks: none; the caller holds the room's row. Errors: none. Not idempotent.
create function canopy.account(p_room canopy.rooms, p_ops canopy.history[], p_delta bigint)
returns canopy.rooms
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_room canopy.rooms := p_room;
begin
  select max(o.seq),
         p_room.ops + count(*),
         p_room.log_digest # bit_xor(canopy.log_hash(o.kind, o.ts, o.node, o.parent, o.order_key,
                                                     o.key, o.value::text)),
         greatest(p_room.newest_move, (array_agg(o.ts order by o.ts desc) filter (where o.kind = 1))[1]),
         greatest(p_room.last_delete_seq,
                  max(o.seq) filter (where o.parent = '00000000-0000-0000-0000-000000000002'))
    into v_room.head, v_room.ops, v_room.log_digest, v_room.newest_move, v_room.last_delete_seq
    from unnest(p_ops) as o;
  update canopy.rooms r
     set head = v_room.head,
         newest_move = v_room.newest_move,
         last_delete_seq = v_room.last_delete_seq,
         ops = v_room.ops,
         log_digest = v_room.log_digest,
         state_digest = r.state_digest # p_delta
   where r.room_id = p_room.room_id
  returning * into v_room;

  -- Corrections have no entry: their author is the delete's, not a replica with a FIFO of its own.
  insert into canopy.replicas as r (room_id, replica, last_ts, last_seq)
  select p_room.room_id, canopy.replica_of(last.ts), last.ts, last.seq
    from (select distinct on (substr(uuid_send(o.ts), 9)) o.ts, o.seq
            from unnest(p_ops) as o
           where get_byte(uuid_send(o.ts), 8) < 128
           order by substr(uuid_send(o.ts), 9), o.ts desc) as last
  on conflict (room_id, replica) do update
     set last_ts = excluded.last_ts,
         last_seq = excluded.last_seq;
  return v_room;
end $$;
