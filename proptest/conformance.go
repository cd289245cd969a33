package proptest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/canopysync/canopy/moveop"
)

// Conformance runs the whole suite: every scenario that an engine can run, in all delivery orders;
// refusals; deep trees; long runs of siblings; all short lists of moves over three nodes, or some of
// them; and random histories. After every batch the engine's answers and state are compared with the
// model's, and at the end of each story its log and its lists of siblings.
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

// session is a story in one order: each line is a batch.
type session struct {
	name, tree  string
	batches     []string
	corrections string
	want        string
	ineffective string
	values      string
}

// Where what an author knew depends on what was delivered before, the order is part of the story; and
// so it is where it takes many ops to show a fault.
var sessions = []session{
	{name: "delete by somebody who saw the child", tree: "ROOT{B,C}",
		batches: []string{"b:6 D→B", "a:9 B→TRASH (knows 3)"}, want: "ROOT{C}"},
	{name: "child by somebody who saw the delete", tree: "ROOT{B,C}",
		batches: []string{"a:9 B→TRASH", "b:12 D→B (knows 3)"}, want: "ROOT{C}"},
	{name: "deleted again by somebody who saw the correction", tree: "ROOT{B,C}",
		batches: []string{"b:6 D→B", "a:9 B→TRASH", "a:12 B→TRASH (knows 5)"}, corrections: "a:9<b:6", want: "ROOT{C}"},
	{name: "a correction is no reason for another", tree: "ROOT{A{B},C}",
		batches: []string{"b:6 D→B", "a:9 B→TRASH", "c:10 A→TRASH (knows 4)"}, corrections: "a:9<b:6", want: "ROOT{C}"},
	{name: "two deletes of one node", tree: "ROOT{B,C}",
		batches: []string{"a:9 B→TRASH", "c:10 B→TRASH", "b:6 D→B"}, corrections: "c:10<b:6", want: "ROOT{B{D},C}"},
	{name: "the place before two deletes", tree: "ROOT{A{B},C}",
		batches: []string{"a:9 B→TRASH", "c:10 B→TRASH", "b:11 D→B"}, corrections: "c:10<b:11", want: "ROOT{A{B{D}},C}"},
	{name: "an older delete arriving last", tree: "ROOT{B,C}",
		batches: []string{"c:10 B→TRASH", "b:6 D→B", "a:9 B→TRASH"}, corrections: "c:10<b:6", want: "ROOT{B{D},C}"},
	{name: "nothing to go back to", tree: "ROOT{C}",
		batches: []string{"a:9 B→TRASH", "b:6 D→B"}, corrections: "a:9<b:6", want: "ROOT{B{D},C}"},
	{name: "back where it would be inside itself", tree: "ROOT{A{B},C}",
		batches: []string{"a:9 B→TRASH", "c:9 A→B"}, corrections: "a:9<c:9", want: "ROOT{B{A},C}"},
	{name: "the place before was not effective", tree: "ROOT{A,B}",
		batches: []string{"a:9 B→A@Z; a:10 B→TRASH", "c:8 A→B", "b:11 D→B"}, corrections: "a:10<c:8",
		want: "ROOT{B{A,D}}", ineffective: "a:9"},
	{name: "a correction that is not effective any more", tree: "ROOT{B,P}",
		batches: []string{"b:7 B→P", "a:9 B→TRASH (knows 3)", "b:12 D→B", "c:6 P→B", "c:13 E→B"}, corrections: "a:9<b:12",
		want: "ROOT", ineffective: "a:9+ b:7"},
	{name: "two reasons in one batch", tree: "ROOT{B,C}",
		batches: []string{"c:8 E→B; b:6 D→B; a:9 B→TRASH"}, corrections: "a:9<b:6", want: "ROOT{B{D,E},C}"},
	{name: "named as parent by what is not effective", tree: "ROOT",
		batches: []string{"a:1 C→D", "f:6 D→A", "d:4 C→B", "e:5 B→ROOT", "c:3 B→C", "g:7 A→C", "b:2 D→B"},
		want:    "ROOT{B{C{A{D}}}}", ineffective: "c:3"},
	{name: "values in one batch, one of them late", tree: "ROOT{N}",
		batches: []string{`b:8 N.title="x"; b:9 N.size=1`, `a:7 N.title="y"; a:10 N.size=2; a:11 N.kind="k"`},
		want:    "ROOT{N}", values: `N.kind="k" N.size=2 N.title="x"`},
	{name: "several in one batch", tree: "ROOT{A,B,C}",
		batches: []string{"b:6 D→A; b:7 E→B", "a:9 A→TRASH; a:10 B→TRASH"}, corrections: "a:10<b:7 a:9<b:6", want: "ROOT{A{D},B{E},C}"},
}

// testSessions runs the sessions; only a server makes corrections.
func testSessions(t *testing.T, s Suite) {
	for _, session := range sessions {
		if s.server || session.corrections == "" {
			t.Run(session.name, func(t *testing.T) { session.run(t, s) })
		}
	}
}

func (session session) run(t *testing.T, s Suite) {
	p := s.newPair(t, RestoreMoveAndSet)
	setup, err := parseTree(session.tree)
	if err != nil {
		t.Fatal(err)
	}
	var batches [][]moveop.Op
	if len(setup) > 0 {
		batches = append(batches, setup)
	}
	for _, text := range session.batches {
		batch, err := parseOps(text, int64(len(setup)))
		if err != nil {
			t.Fatal(err)
		}
		batches = append(batches, batch)
	}
	for _, batch := range batches {
		if err := p.apply(batch); err != nil {
			t.Fatal(err)
		}
	}
	sc := scenario{want: session.want, corrections: session.corrections,
		ineffective: session.ineffective, values: session.values}
	if err := sc.check(p); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := p.repeat(batches...); err != nil {
			t.Fatal(err)
		}
	}
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
