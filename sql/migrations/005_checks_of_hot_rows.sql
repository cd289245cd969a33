-- Checks that cost nothing where what they check is not written.
--
-- A table's check constraints are read and compiled by every statement that writes a row, whichever
-- columns it writes: 26 µs of each batch for those of rooms, 17 µs of each move of a node for those of
-- history, a tenth each of applying one operation. A domain's constraint is checked where a value is
-- given. That of history needs nothing in its place: apply refuses (see op_fault) what it would have.

create domain canopy.room_name as text collate "C"
  constraint rooms_name_valid check (value ~ '^[a-z0-9][a-z0-9_.-]{0,127}$');
create domain canopy.restore_policy as text
  constraint rooms_restore_on_valid check (value in ('move+set', 'move', 'never'));

alter table canopy.rooms
  drop constraint rooms_name_valid,
  drop constraint rooms_restore_on_valid;
alter table canopy.rooms
  alter column name type canopy.room_name,
  alter column restore_on type canopy.restore_policy;
alter table canopy.history
  drop constraint history_kind_valid,
  drop constraint history_body_whole;
