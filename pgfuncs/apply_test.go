package pgfuncs_test

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/proptest"
	"github.com/canopysync/canopy/realtime/wire"
)

// node returns the id of a one-letter (or digit) name.
func node(name string) (id moveop.NodeID) {
	copy(id[:], "node-")
	copy(id[5:], name)
	return id
}

// move is replica r's move of a node at a time in milliseconds.
func move(r moveop.ReplicaID, ms int64, n, parent moveop.NodeID) moveop.Op {
	return moveop.Op{Kind: moveop.Move, TS: moveop.NewTimestamp(ms, 0, r), Node: n, Parent: parent, OrderKey: "a0"}
}

func set(r moveop.ReplicaID, ms int64, n moveop.NodeID, key, value string) moveop.Op {
	return moveop.Op{Kind: moveop.Set, TS: moveop.NewTimestamp(ms, 0, r), Node: n, Key: key, Value: []byte(value)}
}

func (d database) apply(t testing.TB, room string, ops ...moveop.Op) wire.Applied {
	t.Helper()
	applied, err := d.Apply(t.Context(), room, ops)
	if err != nil {
		t.Fatal(err)
	}
	return applied
}

// Scenario 20: two batches on disjoint nodes, committed at the same moment, that make a cycle together. Batches of
// one operation have a function of their own.
func TestConcurrentBatchesNeverMakeACycle(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	a, a1, b, b1 := node("A"), node("A1"), node("B"), node("B1")
	for round := range 100 {
		room := db.newRoom(t)
		db.apply(t, room, move(1, 1, a, moveop.Root), move(1, 2, b, moveop.Root), move(1, 3, a1, a), move(1, 4, b1, b))
		var results [2]wire.Applied
		var both errgroup.Group
		for i, op := range []moveop.Op{move(2, 10, a, b1), move(3, 10, b, a1)} {
			batch := []moveop.Op{op}
			if round%2 == 1 {
				batch = append(batch, set(op.TS.Replica(), 11, op.Node, "key", "1"))
			}
			both.Go(func() (err error) {
				results[i], err = db.Apply(t.Context(), room, batch)
				return err
			})
		}
		if err := both.Wait(); err != nil {
			t.Fatal(err)
		}
		page, err := db.Subtree(t.Context(), room, moveop.Root, 0, "", 10)
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Nodes) != 4 {
			t.Fatalf("round %d: %d nodes are reachable, want 4; answers %v", round, len(page.Nodes), results)
		}
	}
}

// Disjoint sets of nodes, 2 to 8 sessions, and in the end the tree that the model makes of the log.
func TestConcurrentSessionsAgreeWithTheModel(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	for sessions := 2; sessions <= 8; sessions++ {
		e := db.newEngine(t, proptest.RestoreNever).(*engine)
		names := strings.Split("ABCDEFGH"[:sessions], "")
		var all errgroup.Group
		for i, name := range names {
			next := node(names[(i+1)%sessions])
			r := moveop.ReplicaID(i + 1)
			all.Go(func() error {
				for ms := int64(1); ms < 40; ms += 2 {
					for _, op := range []moveop.Op{move(r, ms, node(name), next), move(r, ms+1, node(name), moveop.Root)} {
						if _, err := db.Apply(t.Context(), e.room, []moveop.Op{op}); err != nil {
							return err
						}
					}
				}
				return nil
			})
		}
		if err := all.Wait(); err != nil {
			t.Fatal(err)
		}
		compareWithModel(t, e)
	}
}

func compareWithModel(t *testing.T, e *engine) {
	t.Helper()
	log, err := e.Log()
	if err != nil {
		t.Fatal(err)
	}
	model := proptest.NewModel()
	if _, err := model.Apply(log); err != nil {
		t.Fatal(err)
	}
	want, err := model.State()
	if err != nil {
		t.Fatal(err)
	}
	got, err := e.State()
	if err != nil {
		t.Fatal(err)
	}
	want.Version = got.Version
	if diff := proptest.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
}

// A reader that has seen seq n has seen all below it, whatever is being written at the time.
func TestReadersSeeAPrefixOfTheLog(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	room := db.newRoom(t)
	const writers, each = 4, 60
	var writing errgroup.Group
	for w := range writers {
		writing.Go(func() error {
			for i := range each {
				op := move(moveop.ReplicaID(w+1), int64(i+1), node(string(rune('A'+w))+string(rune('a'+i))), moveop.Root)
				if _, err := db.Apply(t.Context(), room, []moveop.Op{op}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	written := make(chan error, 1)
	go func() { written <- writing.Wait() }()
	var seen int64
	for all := false; ; {
		ops, err := db.OpsAfter(t.Context(), room, seen, 7)
		if err != nil {
			t.Fatal(err)
		}
		for _, op := range ops {
			if op.Seq != seen+1 {
				t.Fatalf("after seq %d comes %d", seen, op.Seq)
			}
			seen = op.Seq
		}
		if len(ops) == 0 && all {
			break
		}
		select {
		case err := <-written:
			if err != nil {
				t.Fatal(err)
			}
			all = true
		default:
		}
	}
	if seen != writers*each {
		t.Errorf("saw %d ops of %d", seen, writers*each)
	}
}

func TestRefusedBatchesChangeNothing(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	ahead := time.Now().Add(time.Hour).UnixMilli()
	long := strings.Repeat("k", 256)
	for _, c := range []struct {
		name string
		code wire.Code
		bad  moveop.Op
	}{
		{"root", wire.CodeInvalidOp, move(1, 20, moveop.Root, node("A"))},
		{"trash", wire.CodeInvalidOp, move(1, 20, moveop.Trash, node("A"))},
		{"replica zero", wire.CodeInvalidOp, move(0, 20, node("X"), node("A"))},
		{"a correction", wire.CodeInvalidOp, move(1<<63|1, 20, node("X"), node("A"))},
		{"order key", wire.CodeInvalidOp, func() moveop.Op { o := move(1, 20, node("X"), node("A")); o.OrderKey = "a é"; return o }()},
		{"no order key", wire.CodeInvalidOp, func() moveop.Op { o := move(1, 20, node("X"), node("A")); o.OrderKey = ""; return o }()},
		{"long key", wire.CodeInvalidOp, set(1, 20, node("X"), long, "1")},
		{"negative known", wire.CodeInvalidOp, func() moveop.Op { o := set(1, 20, node("X"), "k", "1"); o.Known = -1; return o }()},
		{"kind", wire.CodeInvalidOp, moveop.Op{Kind: 3, TS: moveop.NewTimestamp(20, 0, 1), Node: node("X"), Key: "k", Value: []byte("1")}},
		{"clock", wire.CodeClockSkew, move(1, ahead, node("X"), node("A"))},
		{"conflict in the log", wire.CodeConflict, move(1, 10, node("A"), node("B"))},
		{"conflict on another node", wire.CodeConflict, move(1, 10, node("B"), moveop.Root)},
		{"conflict of kinds", wire.CodeConflict, set(1, 10, node("A"), "k", "1")},
		{"order in the log", wire.CodeOutOfOrder, move(1, 9, node("X"), node("A"))},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			room := db.newRoom(t)
			db.apply(t, room, move(1, 10, node("A"), moveop.Root))
			good := move(2, 15, node("G"), moveop.Root)
			for _, batch := range [][]moveop.Op{{good, c.bad}, {c.bad}} {
				db.refuses(t, room, batch, c.code, c.bad.TS)
			}
			db.apply(t, room, good)
		})
	}
}

// A clock may be 60 s ahead, to the millisecond.
func TestClockAhead(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	var now int64
	err := db.pool.QueryRow(t.Context(), `select floor(extract(epoch from clock_timestamp()) * 1000)::bigint`).Scan(&now)
	if err != nil {
		t.Fatal(err)
	}
	ahead := move(1, 0, node("A"), moveop.Root)
	ahead.TS = moveop.NewTimestamp(now+60_000, math.MaxUint16, 1)
	db.apply(t, db.newRoom(t), ahead)
}

// refuses checks that a batch is refused for the op at ts, and changes nothing.
func (d database) refuses(t *testing.T, room string, batch []moveop.Op, code wire.Code, ts moveop.Timestamp) {
	t.Helper()
	before, err := d.Room(t.Context(), room)
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Apply(t.Context(), room, batch)
	refused, ok := errors.AsType[*wire.Error](err)
	if !ok || refused.Code != code || refused.Op == nil || *refused.Op != ts {
		t.Fatalf("%d in the batch: got %v, want %s for op %s", len(batch), err, code, ts)
	}
	if off := time.Since(time.UnixMilli(refused.ServerTime)); off.Abs() > time.Minute {
		t.Errorf("server time is %v off", off)
	}
	after, err := d.Room(t.Context(), room)
	if err != nil || after != before {
		t.Errorf("room was %+v, is %+v (%v)", before, after, err)
	}
}

func TestBatchOutOfOrderInItself(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	room := db.newRoom(t)
	for _, c := range []struct {
		name   string
		code   wire.Code
		second moveop.Op
	}{
		{"descending", wire.CodeOutOfOrder, move(1, 9, node("B"), moveop.Root)},
		{"repeated", wire.CodeOutOfOrder, move(1, 10, node("A"), moveop.Root)},
		{"other body", wire.CodeConflict, move(1, 10, node("A"), node("B"))},
	} {
		_, err := db.Apply(t.Context(), room, []moveop.Op{move(1, 10, node("A"), moveop.Root), c.second})
		if refused, ok := errors.AsType[*wire.Error](err); !ok || refused.Code != c.code {
			t.Errorf("%s: got %v, want %s", c.name, err, c.code)
		}
	}
}

func TestUnknownRoom(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	ctx := t.Context()
	_, applyErr := db.Apply(ctx, "nowhere", []moveop.Op{move(1, 1, node("A"), moveop.Root)})
	_, roomErr := db.Room(ctx, "nowhere")
	_, opsErr := db.OpsAfter(ctx, "nowhere", 0, 1)
	_, childrenErr := db.Children(ctx, "nowhere", moveop.Root, "", 1, 0)
	_, subtreeErr := db.Subtree(ctx, "nowhere", moveop.Root, 1, "", 1)
	_, statsErr := db.Stats(ctx, "nowhere")
	policyErr := db.SetRestoreOn(ctx, "nowhere", "never")
	for i, err := range []error{applyErr, roomErr, opsErr, childrenErr, subtreeErr, statsErr, policyErr} {
		if !errors.Is(err, wire.ErrUnknownRoom) {
			t.Errorf("call %d: got %v, want ErrUnknownRoom", i, err)
		}
	}
}

// What comes back is what was sent, to the byte: also what jsonb or a text column would not keep.
func TestValuesKeepTheirBytes(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	room := db.newRoom(t)
	values := []string{`"\u0000"`, `{"b":1,"a":1,"b":2}`, `1.0e400`, `"'; drop schema canopy; -- $$"`, `"🌳"`, `null`, `[]`}
	var ops []moveop.Op
	for i, v := range values {
		ops = append(ops, set(1, int64(i+1), node("A"), "key '\"$$", v))
	}
	db.apply(t, room, ops...)
	got, err := db.OpsAfter(t.Context(), room, 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(ops, got, func(want, got moveop.Op) bool {
		return want.SameBody(got) && bytes.Equal(want.Value, got.Value)
	}) {
		t.Errorf("got %v, want %v", got, ops)
	}
}

// A room comes into being with its first batch or not at all, and by one epoch, whoever is first.
func TestApplyFirst(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	good := move(1, 1, node("X"), moveop.Root)
	ahead := good
	ahead.TS = moveop.NewTimestamp(time.Now().Add(time.Hour).UnixMilli(), 0, 1)
	_, _, err := db.ApplyFirst(t.Context(), "a-room", epoch, []moveop.Op{ahead})
	if refused, ok := errors.AsType[*wire.Error](err); !ok || refused.Code != wire.CodeClockSkew {
		t.Errorf("got %v, want clock_skew", err)
	}
	if room, err := db.Room(t.Context(), "a-room"); !errors.Is(err, wire.ErrUnknownRoom) {
		t.Errorf("there is a room: %+v, %v", room, err)
	}

	epochs := []string{epoch, "00000000-0000-4000-8000-000000000000", "00000000-0000-4000-8000-000000000001"}
	made := make([]wire.Room, len(epochs))
	applied := make([]wire.Applied, len(epochs))
	var racing sync.WaitGroup
	for i, epoch := range epochs {
		racing.Go(func() {
			var err error
			if made[i], applied[i], err = db.ApplyFirst(t.Context(), "a-room", epoch, []moveop.Op{good}); err != nil {
				t.Error(err)
			}
		})
	}
	racing.Wait()
	room, err := db.Room(t.Context(), "a-room")
	if err != nil || room.Head != 1 {
		t.Fatalf("room %+v, %v", room, err)
	}
	for i, epoch := range epochs {
		first := epoch == room.Epoch
		if made[i].Epoch != room.Epoch || first != (applied[i].Head == 1) {
			t.Errorf("of %s: room %+v, applied %+v", epoch, made[i], applied[i])
		}
	}
	again, repeated, err := db.ApplyFirst(t.Context(), "a-room", room.Epoch, []moveop.Op{good})
	if err != nil || again.Head != 1 || repeated.Results[0].Status != wire.StatusDuplicate {
		t.Errorf("again: %+v, %+v, %v", again, repeated, err)
	}
}

func TestCreateRoom(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	first, err := db.CreateRoom(t.Context(), "a-room", epoch)
	if err != nil {
		t.Fatal(err)
	}
	again, err := db.CreateRoom(t.Context(), "a-room", "00000000-0000-4000-8000-000000000000")
	if err != nil || again != first || again.Epoch != epoch {
		t.Errorf("made %+v, then found %+v (%v)", first, again, err)
	}
	for _, name := range []string{"", "Upper", "-dash", "a b", "a'b", strings.Repeat("x", 129)} {
		_, err := db.CreateRoom(t.Context(), name, epoch)
		if refused, ok := errors.AsType[*wire.Error](err); !ok || refused.Code != wire.CodeBadRequest {
			t.Errorf("name %q: got %v, want bad_request", name, err)
		}
	}
}
