package pgfuncs_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

func (d database) purge(t testing.TB, room string, before moveop.Timestamp) int64 {
	t.Helper()
	purged, err := d.Purge(t.Context(), room, before, nil)
	if err != nil {
		t.Fatal(err)
	}
	return purged
}

func TestPurgeTakesWholeSettledSubtrees(t *testing.T) {
	t.Parallel()
	a, b, c, d, out := node("A"), node("B"), node("C"), node("D"), node("out")
	for _, tc := range []struct {
		name string
		ops  []moveop.Op
		want []moveop.NodeID // what is left of A, B, C, D; the horizon is 100
	}{
		{"everything below", []moveop.Op{
			move(1, 1, a, moveop.Root), move(1, 2, b, a), move(1, 3, c, b), set(1, 4, c, "k", "1"), move(1, 5, d, moveop.Root),
			move(1, 6, a, moveop.Trash)}, []moveop.NodeID{d}},
		{"deleted after the horizon", []moveop.Op{
			move(1, 1, a, moveop.Root), move(1, 101, a, moveop.Trash)}, []moveop.NodeID{a}},
		{"something came into it after the horizon", []moveop.Op{
			move(1, 1, a, moveop.Root), move(1, 2, a, moveop.Trash), move(1, 101, b, a)}, []moveop.NodeID{a, b}},
		{"written after the horizon", []moveop.Op{
			move(1, 1, a, moveop.Root), move(1, 2, b, a), move(1, 3, a, moveop.Trash), set(1, 101, b, "k", "1")}, []moveop.NodeID{a, b}},
		{"a move after the horizon that is not effective", []moveop.Op{
			move(1, 1, a, moveop.Root), move(1, 2, b, a), move(1, 3, a, moveop.Trash), move(1, 101, a, b)}, []moveop.NodeID{a, b}},
		{"named by a move after the horizon that another one has taken the place of", []moveop.Op{
			move(1, 1, a, moveop.Root), move(1, 2, a, moveop.Trash), move(1, 101, b, a), move(1, 102, b, moveop.Root)}, []moveop.NodeID{a, b}},
		{"where a deleted node would go back to", []moveop.Op{
			move(1, 1, a, moveop.Root), move(1, 2, b, a), move(1, 103, b, moveop.Trash), move(1, 4, out, moveop.Root),
			move(2, 50, a, moveop.Trash)}, []moveop.NodeID{a, b}},
		{"already restored", []moveop.Op{
			move(1, 1, a, moveop.Root), move(1, 2, a, moveop.Trash), move(1, 3, a, moveop.Root)}, []moveop.NodeID{a}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			db := openDatabase(t)
			room := db.newRoom(t)
			slices.SortFunc(tc.ops, func(a, b moveop.Op) int { return a.TS.Compare(b.TS) })
			for i := range tc.ops {
				tc.ops[i].Known = int64(i) // everybody knows everything
				db.apply(t, room, tc.ops[i])
			}
			before := db.room(t, room)
			db.compact(t, room, at(100))
			db.purge(t, room, moveop.MaxTimestamp)
			state, err := (&engine{db: db.DB, pool: db.pool, room: room}).State()
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range []moveop.NodeID{a, b, c, d} {
				if _, there := state.Nodes[n]; there != slices.Contains(tc.want, n) {
					t.Errorf("%q is there: %v", n[5:6], there)
				}
			}
			if state.Digest != before.Digest {
				t.Errorf("digest %+v, it was %+v", state.Digest, before.Digest)
			}
			if again := db.purge(t, room, moveop.MaxTimestamp); again != 0 {
				t.Errorf("%d nodes more", again)
			}
		})
	}
}

func TestPurgedNodesCannotBeNamed(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	room := db.newRoom(t)
	a, b := node("A"), node("B")
	db.apply(t, room, move(1, 1, a, moveop.Root), move(1, 2, b, a), move(1, 3, a, moveop.Trash))
	db.compact(t, room, at(100))
	if n := db.purge(t, room, at(2)); n != 0 {
		t.Errorf("purged %d nodes deleted later", n)
	}
	if n := db.purge(t, room, at(3)); n != 2 {
		t.Errorf("purged %d nodes", n)
	}
	for i, op := range []moveop.Op{move(2, 201, b, moveop.Root), move(2, 202, node("C"), b), set(2, 203, a, "k", "1")} {
		good := move(2, 200, node("D"), moveop.Root)
		_, err := db.Apply(t.Context(), room, []moveop.Op{good, op})
		refused, ok := errors.AsType[*wire.Error](err)
		if !ok || refused.Code != wire.CodeInvalidOp || refused.Op == nil || *refused.Op != op.TS {
			t.Errorf("%d: %v", i, err)
		}
	}
	if r := db.room(t, room); r.Head != 3 || r.MinSeq != 3 {
		t.Errorf("%+v", r)
	}
	db.apply(t, room, move(2, 201, node("C"), moveop.Root))
}

// Subtrees that stay count for a page as well: a Trash of many large ones kept its room locked until all were looked at.
func TestPurgePagesCountWhatStays(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	room := db.newRoom(t)
	const tops, limit = 5, 10
	var ops []moveop.Op
	ms := int64(1)
	for i := range tops {
		top := node(fmt.Sprint("n", i))
		ops = append(ops, move(1, ms, top, moveop.Root))
		for j := range 2 * limit {
			ops = append(ops, move(1, ms+1+int64(j), node(fmt.Sprint("n", i, j)), top))
		}
		ops = append(ops, move(1, ms+50, top, moveop.Trash))
		ms += 100
	}
	db.apply(t, room, ops...)
	db.compact(t, room, at(ms))
	var key, after *string
	calls := 0
	for done := false; !done; calls++ {
		var n int
		err := db.pool.QueryRow(t.Context(), `select next_key, next_node::text, purged, done from canopy.purge($1, $2, $3, $4::uuid, $5)`,
			room, at(ms).String(), key, after, limit).Scan(&key, &after, &n, &done)
		if err != nil || n != 0 {
			t.Fatalf("%d nodes purged (%v)", n, err)
		}
	}
	if calls < tops {
		t.Errorf("%d calls looked at %d subtrees of %d nodes, more than a page each", calls, tops, 2*limit+1)
	}
}

// Trash is gone through in pages, and what has to stay does not keep the rest.
func TestPurgeInPages(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	room := db.newRoom(t)
	var ops []moveop.Op
	for i := range 60 {
		ops = append(ops, move(1, int64(2*i+1), node(fmt.Sprint("n", i)), moveop.Root), move(1, int64(2*i+2), node(fmt.Sprint("n", i)), moveop.Trash))
	}
	db.apply(t, room, ops...)
	db.apply(t, room, set(1, 500, node("n0"), "k", "1"), set(1, 501, node("n30"), "k", "1"))
	db.compact(t, room, at(400))
	var key, after *string
	total, calls := 0, 0
	for done := false; !done; calls++ {
		var n int
		err := db.pool.QueryRow(t.Context(), `select next_key, next_node::text, purged, done from canopy.purge($1, $2, $3, $4::uuid, 7)`,
			room, at(400).String(), key, after).Scan(&key, &after, &n, &done)
		if err != nil {
			t.Fatal(err)
		}
		if total += n; n > 7 || calls > 20 {
			t.Fatalf("%d nodes in call %d", n, calls)
		}
	}
	if total != 58 {
		t.Errorf("purged %d nodes", total)
	}
}
