-- The operation log and the state of every room.
--
-- A node's row IS its last effective move and a value's row IS the set that wrote it; every other
-- operation (superseded or ineffective moves, overwritten sets) is a row of history. So no operation
-- is stored twice, and a room of a million creates is a million rows. The view ops is the whole log.
--
-- Every key begins with room_id, so that the tables can be distributed by room. There are no foreign
-- keys between them: all writing goes through apply, which holds the room's row lock.
-- Timestamps are 16 bytes in a uuid: 48-bit Unix ms, 16-bit counter, 64-bit replica, byte-ordered.
--
-- The indexes by time are on uuid_send(ts), which has the same order, so that only a query that asks for
-- it can use them: with an index on (room_id, ts) the planner is free to answer "the last move on this
-- node before t" by walking the whole room backwards in time.

do $$
begin
  if current_setting('server_encoding') <> 'UTF8' then
    raise exception 'canopy needs a database with encoding UTF8, this one has %', current_setting('server_encoding')
      using hint = 'create database … encoding ''UTF8'' template template0';
  end if;
end $$;

create table canopy.rooms (
  room_id         bigint generated always as identity,
  name            text collate "C" not null,
  epoch           uuid not null,
  head            bigint not null default 0,   -- the greatest seq given
  min_seq         bigint not null default 0,   -- a cursor below this cannot be served from the log
  horizon         uuid not null default '00000000-0000-0000-0000-000000000000', -- ops up to here are refused too_old
  newest_move     uuid not null default '00000000-0000-0000-0000-000000000000', -- greatest ts of a move
  last_delete_seq bigint not null default 0,   -- the greatest seq of a move to Trash
  restore_on      text not null default 'move+set',
  ops             bigint not null default 0,   -- digest: operations logged,
  log_digest      bigint not null default 0,   --   XOR of their log_hash,
  state_digest    bigint not null default 0,   --   XOR of placement_hash and value_hash of the state
  created_at      timestamptz not null default now(),
  constraint rooms_pkey primary key (room_id),
  constraint rooms_name_key unique (name),
  constraint rooms_name_valid check (name ~ '^[a-z0-9][a-z0-9_.-]{0,127}$'),
  constraint rooms_restore_on_valid check (restore_on in ('move+set', 'move', 'never'))
) with (fillfactor = 50);

create table canopy.nodes (
  room_id   bigint not null,
  node      uuid not null,
  parent    uuid not null,
  order_key text collate "C" not null,
  ts        uuid not null,
  seq       bigint not null,
  known     bigint not null,
  cause     uuid,                              -- set where the placement is a correction
  constraint nodes_pkey primary key (room_id, node)
) with (fillfactor = 90);

create index nodes_by_parent on canopy.nodes (room_id, parent, order_key, node);
create index nodes_by_seq on canopy.nodes (room_id, seq);
create index nodes_by_time on canopy.nodes (room_id, uuid_send(ts));

create table canopy.values (
  room_id bigint not null,
  node    uuid not null,
  key     text collate "C" not null,
  value   json not null,                       -- the text as sent; JSON null is a cleared value
  ts      uuid not null,
  seq     bigint not null,
  known   bigint not null,
  constraint values_pkey primary key (room_id, node, key)
) with (fillfactor = 90);

create index values_by_seq on canopy.values (room_id, seq);
create index values_by_time on canopy.values (room_id, uuid_send(ts));

create table canopy.history (
  room_id   bigint not null,
  ts        uuid not null,
  seq       bigint not null,
  kind      smallint not null,                 -- 1 move, 2 set
  node      uuid not null,
  parent    uuid,
  order_key text collate "C",
  key       text collate "C",
  value     json,
  known     bigint not null,
  cause     uuid,
  effective boolean not null,                  -- of a set: always true
  constraint history_pkey primary key (room_id, seq),
  constraint history_kind_valid check (kind in (1, 2)),
  constraint history_body_whole check (
    case kind
      when 1 then num_nulls(parent, order_key) = 0 and num_nonnulls(key, value) = 0
      else num_nulls(key, value) = 0 and num_nonnulls(parent, order_key) = 0
    end)
);

create index history_moves on canopy.history (room_id, node, ts) where kind = 1;
create index history_by_time on canopy.history (room_id, uuid_send(ts));

-- The nodes that some move, effective or not, ever named as parent, whether they are placed or not.
create table canopy.parents (
  room_id bigint not null,
  node    uuid not null,
  constraint parents_pkey primary key (room_id, node)
);

-- The version vector: the last timestamp and seq that the room holds from each replica.
create table canopy.replicas (
  room_id  bigint not null,
  replica  bigint not null,
  last_ts  uuid not null,
  last_seq bigint not null,
  constraint replicas_pkey primary key (room_id, replica)
) with (fillfactor = 50);

create view canopy.ops as
select room_id, seq, ts, 1::smallint as kind, node, parent, order_key,
       null::text collate "C" as key, null::json as value, known, cause, true as effective
  from canopy.nodes
union all
select room_id, seq, ts, 2::smallint, node, null::uuid, null::text collate "C",
       key, value, known, null::uuid, true
  from canopy.values
union all
select room_id, seq, ts, kind, node, parent, order_key, key, value, known, cause, effective
  from canopy.history;

-- The planner has to choose the index that fits best from the first row on, since sessions keep their
-- plans while a room grows from empty to a million nodes. Two things would mislead it: in an empty table
-- all indexes look equally good, and so they do where a room is thought to have a row or two. Therefore
-- it is told that all rows are of one room, and each table holds some rows of room 0, which no room has.
alter table canopy.nodes alter column room_id set (n_distinct = 1);
alter table canopy.values alter column room_id set (n_distinct = 1);
alter table canopy.history alter column room_id set (n_distinct = 1);
alter table canopy.parents alter column room_id set (n_distinct = 1);

insert into canopy.nodes (room_id, node, parent, order_key, ts, seq, known)
select 0, md5('node' || i)::uuid, md5('parent' || i)::uuid, 'a0', md5('ts' || i)::uuid, i, 0
  from generate_series(1, 128) as i;
insert into canopy.values (room_id, node, key, value, ts, seq, known)
select 0, md5('node' || i)::uuid, 'key', 'null', md5('ts' || i)::uuid, i, 0
  from generate_series(1, 128) as i;
insert into canopy.history (room_id, ts, seq, kind, node, parent, order_key, known, effective)
select 0, md5('ts' || i)::uuid, i, 1, md5('node' || i)::uuid, md5('parent' || i)::uuid, 'a0', 0, true
  from generate_series(1, 128) as i;
insert into canopy.parents (room_id, node)
select 0, md5('parent' || i)::uuid
  from generate_series(1, 128) as i;
