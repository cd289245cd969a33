//go:build unix

package bootstrap_test

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/canopysync/canopy/bootstrap"
	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/pgfuncs/pgtest"
	"github.com/canopysync/canopy/tree"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const epoch = "0193a0e0-0000-7000-8000-00000000cafe"

// openRoom returns a database with an empty room.
func openRoom(t *testing.T, room string) *pgfuncs.DB {
	t.Helper()
	db, err := pgfuncs.Open(t.Context(), pgtest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	if _, err := db.CreateRoom(t.Context(), room, epoch); err != nil {
		t.Fatal(err)
	}
	return db
}

// history makes batches of two replicas over few nodes, one of them far behind the other, so that
// there is something of everything: late ops, cycles, overwritten sets, deletes and their corrections.
type history struct {
	*rand.Rand
	clock [2]int64
}

func newHistory(t *testing.T) *history {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("CANOPY_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("repeat with CANOPY_SEED=%d", seed)
	return &history{rand.New(rand.NewPCG(seed, 0)), [2]int64{1_700_000_000_000, 1_700_000_000_000}}
}

func (h *history) node() moveop.NodeID { return moveop.NodeID{0: 1, 15: byte(3 + h.IntN(20))} }

func (h *history) parent() moveop.NodeID {
	switch h.IntN(6) {
	case 0:
		return moveop.Root
	case 1:
		return moveop.Trash
	}
	return h.node()
}

func (h *history) batch(head int64) []moveop.Op {
	who := h.IntN(2)
	ops := make([]moveop.Op, 1+h.IntN(8))
	for i := range ops {
		h.clock[who] += 1 + h.Int64N(5)*int64(1+who*3)
		op := moveop.Op{TS: moveop.NewTimestamp(h.clock[who], 0, moveop.ReplicaID(1+who)), Known: h.Int64N(head + 1)}
		if h.IntN(4) == 0 {
			op.Kind, op.Node, op.Key = moveop.Set, h.node(), []string{"title", "Größe", "a b", "Z"}[h.IntN(4)]
			op.Value = []byte([]string{`null`, `"x"`, `{"a":[1,2]}`}[h.IntN(3)])
		} else {
			op.Kind, op.Node, op.Parent, op.OrderKey = moveop.Move, h.node(), h.parent(), []string{"a0", "a1", "Zz"}[h.IntN(3)]
		}
		ops[i] = op
	}
	return ops
}

func (h *history) apply(t *testing.T, db *pgfuncs.DB, room string, batches int) {
	t.Helper()
	var head int64
	for range batches {
		applied, err := db.Apply(t.Context(), room, h.batch(head))
		if err != nil {
			t.Fatal(err)
		}
		head = applied.Head
	}
}

// snapshotOps reads all ops of a snapshot, by seq, and which of the moves are effective.
func snapshotOps(t *testing.T, src io.Reader) (h format.Header, ops []moveop.Op, effective map[moveop.Timestamp]bool) {
	t.Helper()
	r, err := format.NewReader(src)
	if err != nil {
		t.Fatal(err)
	}
	effective = map[moveop.Timestamp]bool{}
	for {
		rows, err := r.Next()
		if err == io.EOF {
			slices.SortFunc(ops, func(a, b moveop.Op) int { return int(a.Seq - b.Seq) })
			return r.Header(), ops, effective
		}
		if err != nil {
			t.Fatal(err)
		}
		switch rows.Section().Tag {
		case format.TagNodes:
			for n := (format.NodeRow{}); rows.NextNode(&n); {
				ops = append(ops, n.Op())
				effective[n.TS] = true
			}
		case format.TagValues:
			for v := (format.ValueRow{}); rows.NextValue(&v); {
				ops = append(ops, v.Op())
			}
		case format.TagOps:
			for o := (format.OpRow{}); rows.NextOp(&o); {
				ops = append(ops, o.Op())
				if o.Kind == moveop.Move {
					effective[o.TS] = o.Effective
				}
			}
		}
	}
}

// TestPostgresSnapshotIsTheLog: the sections together hold each op of the log once, with the effective
// flags that the algorithm gives, in both codings.
func TestPostgresSnapshotIsTheLog(t *testing.T) {
	t.Parallel()
	db := openRoom(t, "garden")
	newHistory(t).apply(t, db, "garden", 150)
	f := setupSource(t, db, bootstrap.Config{})
	room, err := db.Room(t.Context(), "garden")
	if err != nil {
		t.Fatal(err)
	}
	log, err := db.OpsAfter(t.Context(), "garden", 0, int(room.Head))
	if err != nil {
		t.Fatal(err)
	}
	for _, accept := range []string{"identity", "zstd"} {
		stream := body(t, f.get(t, "/v1/rooms/garden/snapshot", "Accept-Encoding", accept))
		sum, err := format.Verify(bytes.NewReader(stream))
		if err != nil {
			t.Fatal(err)
		}
		h, ops, effective := snapshotOps(t, bytes.NewReader(stream))
		if h.Room != "garden" || h.Epoch != epoch || h.Seq != room.Head || h.Digest != room.Digest || !h.Horizon.IsZero() {
			t.Errorf("header %+v of room %+v", h, room)
		}
		for i, s := range sum.Sections {
			if s.Rows == 0 || s.Rows != h.Sections[i].Rows {
				t.Errorf("section %s: %d rows, estimated %d", s.Table, s.Rows, h.Sections[i].Rows)
			}
		}
		wantLog(t, ops, log)
		wantEffective(t, log, effective)
	}
}

func wantLog(t *testing.T, got, want []moveop.Op) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d ops, the log has %d", len(got), len(want))
	}
	for i, w := range want {
		if g := got[i]; !g.SameBody(w) || g.Seq != w.Seq || g.Known != w.Known || g.Cause != w.Cause {
			t.Errorf("op %+v, the log has %+v", g, w)
		}
	}
}

func wantEffective(t *testing.T, log []moveop.Op, got map[moveop.Timestamp]bool) {
	t.Helper()
	replica := tree.New()
	if _, err := replica.Apply(log...); err != nil {
		t.Fatal(err)
	}
	want := map[moveop.Timestamp]bool{}
	for _, op := range log {
		if op.Kind == moveop.Move {
			want[op.TS], _ = replica.IsEffective(op.TS)
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("effective flags %v, want %v", got, want)
	}
}

// TestPostgresSnapshotStandsStill: what is committed while the snapshot runs is not in it, and the ops
// after its cursor are just what is missing.
func TestPostgresSnapshotStandsStill(t *testing.T) {
	t.Parallel()
	db := openRoom(t, "garden")
	h := newHistory(t)
	h.apply(t, db, "garden", 40)
	before, err := db.Room(t.Context(), "garden")
	if err != nil {
		t.Fatal(err)
	}
	var stream bytes.Buffer
	err = db.Snapshot(t.Context(), "garden", func(s format.Snapshot) error {
		h.apply(t, db, "garden", 40)
		_, err := format.WriteSnapshot(t.Context(), &stream, s)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	sum, err := format.Verify(bytes.NewReader(stream.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if sum.Header.Seq != before.Head || sum.Header.Digest != before.Digest {
		t.Errorf("header %+v, before it was %+v", sum.Header, before)
	}
	_, ops, _ := snapshotOps(t, &stream)
	missing, err := db.OpsAfter(t.Context(), "garden", sum.Header.Seq, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	replica := tree.New()
	if _, err := replica.Apply(append(ops, missing...)...); err != nil {
		t.Fatal(err)
	}
	if now, err := db.Room(t.Context(), "garden"); err != nil || replica.Digest() != now.Digest {
		t.Errorf("snapshot and the ops after it: %+v, the room: %+v, %v", replica.Digest(), now.Digest, err)
	}
}

func TestPostgresEmptyAndUnknownRoom(t *testing.T) {
	t.Parallel()
	f := setupSource(t, openRoom(t, "garden"), bootstrap.Config{})
	sum, err := format.Verify(f.get(t, "/v1/rooms/garden/snapshot").Body)
	if err != nil || sum.Header.Seq != 0 {
		t.Errorf("empty room: %+v, %v", sum, err)
	}
	wantError(t, f.get(t, "/v1/rooms/forest/snapshot"), http.StatusNotFound, "forbidden")
	wantError(t, f.get(t, "/v1/rooms/forest/stats"), http.StatusNotFound, "forbidden")
	for _, path := range []string{"/readyz", "/v1/rooms/garden/stats"} {
		if resp := f.get(t, path); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: status %d", path, resp.StatusCode)
		}
	}
}

// TestPostgresClientGone: the connection of a snapshot that its client left is given back; the next
// snapshot gets it.
func TestPostgresClientGone(t *testing.T) {
	t.Parallel()
	db := openRoom(t, "garden")
	bigRoom(t, db)
	f := setupSource(t, db, bootstrap.Config{StallTimeout: 10 * time.Second})
	for range 10 { // more than the pool has connections
		resp := f.get(t, "/v1/rooms/garden/snapshot")
		if _, err := io.CopyN(io.Discard, resp.Body, 5000); err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	f.close()
	gone := metric(t, f.registry, "canopy_bootstrap_snapshots_total", "gone")
	busy := metric(t, f.registry, "canopy_bootstrap_snapshots_total", "busy")
	if gone == 0 || gone+busy != 10 {
		t.Errorf("%v clients are counted as gone, %v were turned away", gone, busy)
	}
	var stream bytes.Buffer
	err := db.Snapshot(t.Context(), "garden", func(s format.Snapshot) error {
		_, err := format.WriteSnapshot(t.Context(), &stream, s)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := format.Verify(&stream); err != nil {
		t.Error(err)
	}
}

// bigRoom fills the room with more than sockets hold.
func bigRoom(t *testing.T, db *pgfuncs.DB) {
	t.Helper()
	value := []byte(fmt.Sprintf("%q", strings.Repeat("canopy ", 30_000)))
	for i := range 120 {
		op := moveop.Op{
			Kind: moveop.Set, TS: moveop.NewTimestamp(1_700_000_000_000+int64(i), 0, 7),
			Node: moveop.NodeID{0: 1, 15: byte(i + 3)}, Key: "text", Value: value,
		}
		if _, err := db.Apply(t.Context(), "garden", []moveop.Op{op}); err != nil {
			t.Fatal(err)
		}
	}
}
