-- The NOTIFY channel over which realtime processes tell each other who is in which room and what they show.
--
-- Whoever may connect to a database may LISTEN and NOTIFY in it, without any other right. So the channel has a name
-- that nobody can guess, and that the role of serve realtime alone may read.

create table canopy.notify_channel (
  only_row boolean not null default true,
  name     text not null,
  constraint notify_channel_pkey primary key (only_row),
  constraint notify_channel_one_row check (only_row)
);

insert into canopy.notify_channel (name) values ('canopy_' || replace(gen_random_uuid()::text, '-', ''));
