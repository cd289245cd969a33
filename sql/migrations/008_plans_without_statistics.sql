-- Plans made before the first ANALYZE. Without statistics the planner takes moves for a two-hundredth of
-- history, so that both of its partial indexes look like one row, and each as good as the other for any
-- question: the smaller one was taken, and all moves of the room were read for each lookup by node.
--
-- An index by parent that promises no kind cannot serve a question about moves by node, nor the other one a
-- question that does not ask for the kind. (Where moves by node are asked not to be in Trash, the functions say
-- `is distinct from`: `<>` implies `is not null`.) And the rows of room 0 (see migration 1) are counted at once.

drop index canopy.history_by_parent;
create index history_by_parent on canopy.history (room_id, parent) where parent is not null;

analyze canopy.nodes;
analyze canopy.values;
analyze canopy.history;
