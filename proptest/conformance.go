package proptest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/canopysync/canopy/moveop"
)

// Conformance runs the whole suite: every scenario that the engine can run, in all delivery orders; refusals; deep
// trees; long runs of siblings; all or some of the short lists of moves over three nodes; and random histories.
// After every batch it compares the engine's results and state with the model's, and at the end of each story its
// log and its lists of siblings.
func Conformance(t *testing.T, s Suite) {
	if s.Depth == 0 {
		s.Depth = 100_000 / thin
	}
	_, s.server = s.newPair(t, RestoreMoveAndSet).engine.(ServerEngine)
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) { sc.run(t, s) })
	}
	t.Run("sessions", func(t *testing.T) { testSessions(t, s) })
	t.Run("refusals", func(t *testing.T) { testRefusals(t, s) })
	t.Run("7 deep", func(t *testing.T) { testDeep(t, s) })
	t.Run("9 reopened", func(t *testing.T) { testReopen(t, s) })
	t.Run("11 runs", func(t *testing.T) { testRuns(t, s) })
	t.Run("small scope", func(t *testing.T) { testSmallScope(t, s) })
	t.Run("histories", func(t *testing.T) { testHistories(t, s) })
}

// testRefusals checks that a batch with one bad op changes nothing and says what was wrong.
func testRefusals(t *testing.T, s Suite) {
	for _, c := range []struct {
		name, batch string
		want        error
		server      bool // only a server refuses it
	}{
		{"same time, other parent", "b:5 Y→ROOT; a:5 X→B", ErrConflict, false},
		{"same time, other order key", "b:5 Y→ROOT; a:5 X→A@Y", ErrConflict, false},
		{"same time, other node", "b:5 Y→ROOT; a:5 Y→A@X", ErrConflict, false},
		{"same time, other kind", `b:5 Y→ROOT; a:5 X.title="x"`, ErrConflict, false},
		{"same time, other value", `b:5 Y→ROOT; a:6 X.title="y"`, ErrConflict, false},
		{"same time, other key", `b:5 Y→ROOT; a:6 X.name="x"`, ErrConflict, false},
		{"same time twice in the batch", "b:5 Y→ROOT; b:5 Y→A", ErrConflict, false},
		{"Root moved", "b:5 Y→ROOT; b:6 ROOT→A", ErrInvalid, false},
		{"Trash moved", "b:5 Y→ROOT; b:6 TRASH→A", ErrInvalid, false},
		{"a correction pushed", "b:5 Y→ROOT; b:6+ A→TRASH", ErrInvalid, true},
		{"older than the replica's last", "b:5 Y→ROOT; a:4 Y→A", ErrOutOfOrder, true},
		{"descending in the batch", "b:6 Y→ROOT; b:5 Y→A", ErrOutOfOrder, true},
	} {
		if c.server && !s.server {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			p := s.newPair(t, RestoreMoveAndSet)
			for _, text := range []string{`S:1 A→ROOT; S:2 B→ROOT; a:5 X→A; a:6 X.title="x"`, c.batch, "b:7 Y→B"} {
				batch, err := parseOps(text, 0)
				if err != nil {
					t.Fatal(err)
				}
				if text == c.batch {
					_, err = p.engine.Apply(batch)
					if !errors.Is(err, c.want) {
						t.Fatalf("want %v, got %v", c.want, err)
					}
				}
				if err := p.apply(batch); err != nil {
					t.Fatal(err)
				}
			}
			if err := p.compare(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// testDeep builds a chain and moves its top under its bottom, now and some time ago. The model is too
// slow for this.
func testDeep(t *testing.T, s Suite) {
	e := s.newPair(t, RestoreMoveAndSet).engine
	name := func(i int) string { return fmt.Sprintf("n%d", i) }
	op := func(author string, ms int, what, parent string) moveop.Op {
		op, err := parseOp(fmt.Sprintf("%s:%d %s→%s", author, ms, what, parent), 0)
		if err != nil {
			t.Fatal(err)
		}
		return op
	}
	chain := make([]moveop.Op, s.Depth)
	for i := range chain {
		parent := rootName
		if i > 0 {
			parent = name(i - 1)
		}
		chain[i] = op("a", i+10, name(i), parent)
	}
	for batch := range slices.Chunk(chain, 1000) {
		if _, err := e.Apply(batch); err != nil {
			t.Fatal(err)
		}
	}
	last, end := s.Depth-1, s.Depth+10
	for _, c := range []struct {
		op   moveop.Op
		want Status
	}{
		{op("a", end, name(0), name(last)), StatusIneffective},
		{op("a", end+1, name(last), name(last/2)), StatusApplied},
		{op("a", end+2, "leaf", name(last-1)), StatusApplied},
		{op("a", end+3, name(last/2), name(last-1)), StatusIneffective},
		{op("b", end-1, name(0), name(last)), StatusIneffective},
		{op("c", end-1, "leaf", name(last)), StatusApplied},
	} {
		results, err := e.Apply([]moveop.Op{c.op})
		if err != nil {
			t.Fatal(err)
		}
		if len(results) != 1 || results[0].Status != c.want {
			t.Errorf("%s: want %s, got %v", opText(c.op), c.want, results)
		}
	}
	state, err := e.State()
	if err != nil {
		t.Fatal(err)
	}
	if got := len(state.Nodes); got != s.Depth+1 {
		t.Errorf("want %d placed nodes, got %d", s.Depth+1, got)
	}
	if got := state.Nodes[node("leaf")].Parent; got != node(name(last-1)) {
		t.Errorf("leaf is under %s", nodeName(got))
	}
}

// testReopen lets a child arrive before its parent, with a restart in between.
func testReopen(t *testing.T, s Suite) {
	p := s.newPair(t, RestoreMoveAndSet)
	reopener, ok := p.engine.(Reopener)
	if !ok {
		return
	}
	for _, text := range []string{"a:5 K→P", "b:6 P→ROOT", "a:7 P→K", `c:5 K.title="x"`} {
		batch, err := parseOps(text, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.apply(batch); err != nil {
			t.Fatal(err)
		}
		if err := reopener.Reopen(); err != nil {
			t.Fatal(err)
		}
		if err := p.compare(); err != nil {
			t.Fatalf("reopened after %s: %v", text, err)
		}
	}
	sc := scenario{want: "ROOT{P{K}}", ineffective: "a:7", values: `K.title="x"`}
	if err := sc.check(p); err != nil {
		t.Fatal(err)
	}
}

// testRuns lets three replicas insert a run of 100 each at one place, offline.
func testRuns(t *testing.T, s Suite) {
	seed, rng := newSeed(t)
	setup, err := parseTree("ROOT{L,R}")
	if err != nil {
		t.Fatal(err)
	}
	runs, err := offlineRuns(rng, setup, 100)
	if err != nil {
		t.Fatal(err)
	}
	var first []moveop.NodeID
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 2, 0}} {
		p := s.newPair(t, RestoreMoveAndSet)
		batches := [][]moveop.Op{setup}
		for _, i := range order {
			batches = append(batches, runs[i])
		}
		for _, batch := range batches {
			if err := p.apply(batch); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		if err := p.compare(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		state, err := p.engine.State()
		if err != nil {
			t.Fatal(err)
		}
		children := state.Children(moveop.Root)
		if first == nil {
			first = children
		}
		if !slices.Equal(first, children) {
			t.Fatalf("seed %d: order %v differs from order 0 1 2", seed, order)
		}
	}
	checkRuns(t, runs, first)
}

// checkRuns checks that L comes first, R last, and each run stands together and in its order.
func checkRuns(t *testing.T, runs [][]moveop.Op, children []moveop.NodeID) {
	t.Helper()
	if children[0] != node("L") || children[len(children)-1] != node("R") || len(children) != 302 {
		t.Fatalf("want L, 300 nodes, R, got %s", nodeNames(children))
	}
	for _, run := range runs {
		at := slices.Index(children, run[0].Node)
		for i, op := range run {
			if children[at+i] != op.Node {
				t.Fatalf("the run of %s is torn apart: %s", nodeName(run[0].Node), nodeNames(children))
			}
		}
	}
}

// offlineRuns returns for each of three replicas the inserts of n nodes between L and R.
func offlineRuns(rng *rand.Rand, setup []moveop.Op, n int) ([][]moveop.Op, error) {
	var runs [][]moveop.Op
	for _, letter := range []byte("abc") {
		keys, err := moveop.KeysBetween(setup[0].OrderKey, setup[1].OrderKey, n, randomReader{rng})
		if err != nil {
			return nil, fmt.Errorf("keys between L and R: %w", err)
		}
		var run []moveop.Op
		for i, key := range keys {
			run = append(run, moveop.Op{
				Kind: moveop.Move, TS: moveop.NewTimestamp(int64(10+i), 0, replica(letter)),
				Node: node(fmt.Sprintf("%c%d", letter, rng.IntN(1e6)*1000+i)), Parent: moveop.Root,
				OrderKey: key, Known: int64(len(setup)),
			})
		}
		runs = append(runs, run)
	}
	return runs, nil
}

// randomReader is a *rand.Rand as a source of bytes.
type randomReader struct{ rng *rand.Rand }

func (r randomReader) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r.rng.Uint32())
	}
	return len(p), nil
}
