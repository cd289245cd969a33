package proptest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/canopysync/canopy/moveop"
)

// scenario is an acceptance scenario: the ops are delivered in all orders on top of the tree, and
// always make the same result. Their authors know the tree and nothing else, unless they say so.
type scenario struct {
	name        string
	tree        string // known to everybody
	ops         string
	want        string // the visible tree
	ineffective string // times, separated by blanks
	values      string // the properties that are not cleared, separated by blanks
	corrections string // what a server adds: times of deletes corrected, with the cause: "a:9<b:6"
	ordered     bool   // the corrections are made in this order; otherwise that hangs on the delivery
	policy      Policy // defaults to RestoreMoveAndSet
}

var scenarios = []scenario{
	{name: "1 two parents",
		tree: "ROOT{A,B,N}", ops: "a:5 N→A; b:5 N→B", want: "ROOT{A,B{N}}"},
	{name: "2 two-cycle",
		tree: "ROOT{A,B}", ops: "a:5 A→B; b:6 B→A", want: "ROOT{B{A}}", ineffective: "b:6"},
	{name: "2 two-cycle in one millisecond",
		tree: "ROOT{A,B}", ops: "a:5 A→B; b:5 B→A", want: "ROOT{B{A}}", ineffective: "b:5"},
	{name: "3 three-cycle",
		tree: "ROOT{A,B,C}", ops: "a:5 A→B; b:6 B→C; c:7 C→A", want: "ROOT{C{B{A}}}", ineffective: "c:7"},
	{name: "3 four-cycle",
		tree: "ROOT{A,B,C,D}", ops: "a:5 A→B; b:6 B→C; c:7 C→D; e:8 D→A", want: "ROOT{D{C{B{A}}}}", ineffective: "e:8"},
	{name: "4 ineffective becomes effective",
		tree: "ROOT{A,B}", ops: "a:5 A→B; b:6 B→A; c:5 A→ROOT", want: "ROOT{A{B}}"},
	{name: "4 effective becomes ineffective and back",
		tree: "ROOT{A,B,C}", ops: "a:5 A→B; b:6 B→C; c:7 C→A; b:8 A→ROOT; c:9 C→A",
		want: "ROOT{A{C{B}}}", ineffective: "c:7"},
	{name: "4 the same move before and after the other way",
		tree: "ROOT{A,B}", ops: "a:5 A→B; b:6 B→A; c:7 A→B", want: "ROOT{B{A}}", ineffective: "b:6"},
	{name: "4 to and fro",
		tree: "ROOT{A,B}", ops: "a:5 A→B; b:6 B→A; c:7 A→B; a:8 B→A", want: "ROOT{B{A}}", ineffective: "a:8 b:6"},
	{name: "4 under itself, then inside its child",
		tree: "ROOT{A,B}", ops: "a:5 A→A; b:6 B→A; c:7 A→B", want: "ROOT{A{B}}", ineffective: "a:5 c:7"},
	{name: "4 an ineffective move in between",
		tree: "ROOT{A,B,C}", ops: "a:5 A→B; b:6 A→A; c:7 B→A; a:8 A→C", want: "ROOT{B,C{A}}", ineffective: "b:6 c:7"},
	{name: "4 two ways to close a circle",
		tree: "ROOT{A,B,C}", ops: "a:5 A→B; b:6 B→C; c:7 C→A; a:8 B→A", want: "ROOT{C{B{A}}}", ineffective: "a:8 c:7"},
	{name: "4 a flip behind the one that made it",
		tree: "ROOT{A,B}", ops: "b:6 B→A; b:7 A→ROOT; b:9 A→B; b:12 B→ROOT; a:5 A→B", want: "ROOT{B{A}}", ineffective: "b:6"},
	{name: "4 flipped and flipped back by one late batch",
		tree: "ROOT{A,B,C}", ops: "c:10 B→C; c:11 A→ROOT; b:6 A→B; b:7 C→A; b:8 A→ROOT", want: "ROOT{A{C{B}}}"},
	{name: "4 a flip that frees a third",
		tree: "ROOT{A,B,C,D}", ops: "c:13 B→C; c:14 C→D; c:15 D→A; b:6 A→B; b:7 C→A", want: "ROOT{B{A{D{C}}}}", ineffective: "c:13"},
	{name: "4 the four-cycle, the other way first",
		tree: "ROOT{A,B,C,D}", ops: "c:4 B→A; a:5 A→B; b:6 B→C; c:7 C→D; e:8 D→A",
		want: "ROOT{A{D{C{B}}}}", ineffective: "a:5"},
	{name: "4 one off, the next one on",
		tree: "ROOT{A,B,C}", ops: "a:5 A→C; e:7 C→B; b:10 B→A; c:20 A→B", want: "ROOT{B{A,C}}", ineffective: "b:10"},
	{name: "5 stale view",
		tree: "ROOT{P0{X},P1,P2}", ops: "a:10 X→P1; b:20 X→P2; c:15 P2→X",
		want: "ROOT{P0,P1{X{P2}}}", ineffective: "b:20"},
	{name: "6 under itself",
		tree: "ROOT{X{Z}}", ops: "a:5 X→X", want: "ROOT{X{Z}}", ineffective: "a:5"},
	{name: "6 new under itself",
		tree: "ROOT{Z}", ops: "a:5 X→X; a:6 Y→X", want: "ROOT{Z}", ineffective: "a:5"},
	{name: "6 below itself",
		tree: "ROOT{X{Z}}", ops: "a:5 X→Z", want: "ROOT{X{Z}}", ineffective: "a:5"},
	{name: "6 unknown parent",
		tree: "ROOT{X{Z}}", ops: "a:5 X→Y", want: "ROOT"},
	{name: "6 unknown parent created",
		tree: "ROOT{X{Z}}", ops: "a:5 X→Y; b:6 Y→ROOT", want: "ROOT{Y{X{Z}}}"},
	{name: "6 unknown parent created inside",
		tree: "ROOT{X{Z}}", ops: "a:5 X→Y; b:6 Y→Z", want: "ROOT", ineffective: "b:6"},
	{name: "6 unknown parents under each other",
		ops: "a:5 X→Y; b:6 Y→X; c:4 Y→ROOT", want: "ROOT{Y{X}}", ineffective: "b:6"},
	{name: "6 below itself in Trash",
		tree: "ROOT{A{B}}", ops: "a:5 A→TRASH; b:6 A→B", want: "ROOT", ineffective: "b:6"},
	{name: "6 unknown parent left, then created inside",
		tree: "ROOT{X{Z}}", ops: "a:5 X→Y; b:6 Y→Z; a:7 X→ROOT", want: "ROOT{X{Z}}", ineffective: "b:6"},
	{name: "8 one millisecond",
		tree: "ROOT{A,B,C}", ops: "a:5 A→C; a:5.1 B→C", want: "ROOT{C{A,B}}"},
	{name: "9 child before parent",
		ops: "a:5 K→P; b:6 P→ROOT", want: "ROOT{P{K}}"},
	{name: "10 late value",
		tree: "ROOT{N}", ops: `b:8 N.title="x"; a:7 N.title="y"`, want: "ROOT{N}", values: `N.title="x"`},
	{name: "10 cleared value",
		tree: "ROOT{N}", ops: `b:8 N.title="x"; a:7 N.title="y"; a:9 N.title=null`, want: "ROOT{N}"},
	{name: "10 value after clearing",
		tree: "ROOT{N}", ops: `b:8 N.title="x"; a:9 N.title=null; a:10 N.title="p"; b:10 N.title="q"`,
		want: "ROOT{N}", values: `N.title="q"`},
	{name: "10 value before node",
		ops: `a:5 N.title="x"; a:6 N.size=7; b:6 N→ROOT`, want: "ROOT{N}", values: `N.size=7 N.title="x"`},
	{name: "11 equal keys",
		tree: "ROOT{A,C}", ops: "a:5 B→ROOT@A; b:6 D→ROOT@A", want: "ROOT{A,B,D,C}"},
	{name: "12 delete against an earlier unseen child",
		tree: "ROOT{B,C}", ops: "b:6 D→B; a:9 B→TRASH@Z", want: "ROOT{B{D},C}", corrections: "a:9<b:6"},
	{name: "12 delete against a later unseen child",
		tree: "ROOT{B,C}", ops: "b:12 D→B; a:9 B→TRASH", want: "ROOT{B{D},C}", corrections: "a:9<b:12"},
	{name: "12 delete against an unseen child of the same millisecond",
		tree: "ROOT{B,C}", ops: "b:9 D→B; a:9 B→TRASH", want: "ROOT{B{D},C}", corrections: "a:9<b:9"},
	{name: "12 delete against an unseen reordering",
		tree: "ROOT{B{D},C}", ops: "b:7 D→B@Z; a:9 B→TRASH", want: "ROOT{B{D},C}", corrections: "a:9<b:7"},
	{name: "12 back under a parent that has moved on",
		tree: "ROOT{P{B},Q}", ops: "a:9 B→TRASH; c:12 P→Q; b:7 D→B", want: "ROOT{Q{P{B{D}}}}", corrections: "a:9<b:7"},
	{name: "12 two deletes and nothing else",
		tree: "ROOT{B,C}", ops: "a:9 B→TRASH; c:10 B→TRASH", want: "ROOT{C}"},
	{name: "12 made in Trash, with an unseen child",
		tree: "ROOT{C}", ops: "b:5 N→TRASH; c:7 X→N", want: "ROOT{C,N{X}}", corrections: "b:5<c:7"},
	{name: "12 never restored by policy",
		tree: "ROOT{B,C}", ops: "b:6 D→B; a:9 B→TRASH", want: "ROOT{C}", policy: RestoreNever},
	{name: "13 aware delete",
		tree: "ROOT{B{D},C}", ops: "a:9 B→TRASH", want: "ROOT{C}"},
	{name: "13 own child",
		tree: "ROOT{B,C}", ops: "a:6 D→B; a:9 B→TRASH", want: "ROOT{C}"},
	{name: "13 child put into what its author saw deleted",
		tree: "ROOT{B,C}", ops: "a:9 B→TRASH; a:10 D→B", want: "ROOT{C}"},
	{name: "13 written in what its author saw deleted",
		tree: "ROOT{B,C}", ops: `a:9 B→TRASH; a:10 B.t="x"`, want: "ROOT{C}", values: `B.t="x"`},
	{name: "14 both deleted by one, the inner one last",
		tree: "ROOT{A{B}}", ops: "a:9 A→TRASH; a:10 B→TRASH; b:7 X→B",
		want: "ROOT{A{B{X}}}", corrections: "a:10<b:7 a:9<b:7"},
	{name: "14 no further than its author's own delete",
		tree: "ROOT{A{B}}", ops: "b:7 X→B; b:10 A→TRASH; a:9 B→TRASH", want: "ROOT", corrections: "a:9<b:7"},
	{name: "14 upwards",
		tree: "ROOT{A{B{C}},X}", ops: "a:9 A→TRASH; c:9 B→TRASH; b:7 X→C",
		want: "ROOT{A{B{C{X}}}}", corrections: "a:9<b:7 c:9<b:7"},
	{name: "15 delete against an earlier move of the same node",
		tree: "ROOT{A,B}", ops: "a:9 B→TRASH; b:7 B→A", want: "ROOT{A{B}}", corrections: "a:9<b:7"},
	{name: "15 delete against a later move of the same node",
		tree: "ROOT{A,B}", ops: "a:9 B→TRASH; b:12 B→A", want: "ROOT{A{B}}"},
	{name: "15 delete against a move that its author saw no more of",
		tree: "ROOT{A,B,C}", ops: "b:7 B→A; a:8 B→C; a:9 B→TRASH", want: "ROOT{A,C}"},
	{name: "15 delete against an ineffective move of the same node",
		tree: "ROOT{B{K}}", ops: "b:7 B→K; a:9 B→TRASH", want: "ROOT", ineffective: "b:7"},
	{name: "15 delete against a move of the parent inside", // its correction turns it down
		tree: "ROOT{P{B}}", ops: "a:5 B→TRASH; b:6 P→B", want: "ROOT{P{B}}", ineffective: "b:6", corrections: "a:5<b:6"},
	{name: "16 moved out",
		tree: "ROOT{A{B},C}", ops: "a:9 A→TRASH; b:7 B→C", want: "ROOT{C{B}}"},
	{name: "16 moved out, and a sibling edited",
		tree: "ROOT{A{B,E},C}", ops: `a:9 A→TRASH; b:7 B→C; b:8 E.t="x"`,
		want: "ROOT{A{E},C{B}}", values: `E.t="x"`, corrections: "a:9<b:8"},
	{name: "17 edited against deleted",
		tree: "ROOT{A{B}}", ops: `a:9 A→TRASH; b:7 B.title="t"`,
		want: "ROOT{A{B}}", values: `B.title="t"`, corrections: "a:9<b:7"},
	{name: "17 edited against deleted, moves only",
		tree: "ROOT{A{B}}", ops: `a:9 A→TRASH; b:7 B.title="t"`,
		want: "ROOT", values: `B.title="t"`, policy: RestoreMove},
	{name: "17 cleared against deleted",
		tree: "ROOT{A{B}}", ops: "a:9 A→TRASH; b:7 B.title=null", want: "ROOT{A{B}}", corrections: "a:9<b:7"},
	{name: "17 overwritten edit",
		tree: "ROOT{A{B}}", ops: `a:9 A→TRASH; b:7 B.title="t"; a:8 B.title="u"`,
		want: "ROOT", values: `B.title="u"`},
}

// run delivers the scenario in every order, one op a batch and all in one.
func (sc scenario) run(t *testing.T, s Suite) {
	if sc.policy == "" {
		sc.policy = RestoreMoveAndSet
	}
	setup, ops := sc.parse(t)
	if s.server {
		for _, order := range orders(ops, true, s.Orders) {
			sc.deliver(t, s, setup, order)
		}
		return
	}
	if sc.corrections != "" {
		sc.runReplica(t, s, setup, ops)
		return
	}
	head, rest := setup, ops
	if all := slices.Concat(setup, ops); len(all) <= 6 {
		head, rest = nil, all
	}
	for _, order := range orders(rest, false, s.Orders) {
		sc.deliver(t, s, head, order)
	}
}

// runReplica lets the model server make its corrections for every order of delivery there, and
// delivers the log that comes of it.
func (sc scenario) runReplica(t *testing.T, s Suite, setup, ops []moveop.Op) {
	for _, order := range orders(ops, true, s.Orders) {
		sc.deliverLog(t, s, setup, single(order))
	}
}

// deliverLog delivers the log that the model server makes of setup and batches, in all orders.
func (sc scenario) deliverLog(t *testing.T, s Suite, setup []moveop.Op, batches [][]moveop.Op) {
	t.Helper()
	server := NewServer(sc.policy)
	for _, batch := range slices.Insert(batches, 0, setup) {
		if _, err := server.Apply(batch); err != nil {
			t.Fatal(err)
		}
	}
	for _, order := range orders(server.log[len(setup):], false, s.Orders) {
		sc.deliver(t, s, setup, order)
	}
}

func (sc scenario) parse(t *testing.T) (setup, ops []moveop.Op) {
	t.Helper()
	setup, err := parseTree(sc.tree)
	if err != nil {
		t.Fatal(err)
	}
	ops, err = parseOps(sc.ops, int64(len(setup)))
	if err != nil {
		t.Fatal(err)
	}
	return setup, ops
}

// deliver runs one order: head in one batch, then the rest one by one and, on a fresh engine, at
// once.
func (sc scenario) deliver(t *testing.T, s Suite, head, order []moveop.Op) {
	t.Helper()
	for _, batches := range [][][]moveop.Op{single(order), {order}} {
		if len(head) > 0 {
			batches = append([][]moveop.Op{head}, batches...)
		}
		err := s.withPair(t, sc.policy, func(p *pair) error {
			for _, batch := range batches {
				if err := p.apply(batch); err != nil {
					return err
				}
			}
			return errors.Join(sc.check(p), p.repeat(batches[len(batches)-1], slices.Concat(head, order)))
		})
		if err != nil {
			t.Fatalf("delivered\n%s%v", opsText(order), err)
		}
	}
}

// single cuts ops into batches of one.
func single(ops []moveop.Op) [][]moveop.Op { return slices.Collect(slices.Chunk(ops, 1)) }

// check compares the engine with what the scenario says.
func (sc scenario) check(p *pair) error {
	state, err := p.engine.State()
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	for _, c := range []struct{ what, want, got string }{
		{"tree", sc.want, state.Tree()},
		{"ineffective", sc.ineffective, ineffective(state)},
		{"values", sc.values, values(state)},
	} {
		if c.want != c.got {
			return fmt.Errorf("want %s %q, got %q", c.what, c.want, c.got)
		}
	}
	server, ok := p.engine.(ServerEngine)
	if !ok {
		return nil
	}
	log, err := server.Log()
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	made := corrections(log)
	if !sc.ordered {
		slices.Sort(made)
	}
	if got := strings.Join(made, " "); got != sc.corrections {
		return fmt.Errorf("want corrections %q, got %q", sc.corrections, got)
	}
	return nil
}

func ineffective(s State) string {
	var times []string
	for ts, effective := range s.Effective {
		if !effective {
			times = append(times, opTime(ts))
		}
	}
	return sorted(times)
}

func values(s State) string {
	var values []string
	for p, w := range s.Values {
		if w.JSON != "null" {
			values = append(values, p.String()+"="+w.JSON)
		}
	}
	return sorted(values)
}

func corrections(log []moveop.Op) (made []string) {
	for _, op := range log {
		if op.TS.IsCorrection() {
			made = append(made, strings.TrimSuffix(opTime(op.TS), "+")+"<"+opTime(op.Cause))
		}
	}
	return made
}

func sorted(words []string) string {
	slices.Sort(words)
	return strings.Join(words, " ")
}
