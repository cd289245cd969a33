-- Which nodes were ever named as a parent is asked of the moves that name them: the current ones have an
-- index by parent, and so have those of history now. A table of the names was one more to write, at a random
-- place, for every other operation.

create index history_by_parent on canopy.history (room_id, parent) where kind = 1;
drop table canopy.parents;
