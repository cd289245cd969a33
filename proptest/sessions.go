package proptest

import (
	"slices"
	"testing"

	"github.com/canopysync/canopy/moveop"
)

// session is a story in one order: each line is a batch.
type session struct {
	name, tree  string
	batches     []string
	corrections string // as in a scenario, in the order in which they were made
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
		batches: []string{"b:6 D→A; b:7 E→B", "a:9 A→TRASH; a:10 B→TRASH"}, corrections: "a:9<b:6 a:10<b:7", want: "ROOT{A{D},B{E},C}"},
	{name: "deletes from the bottom up", tree: "ROOT{A{B{C}}}",
		batches: []string{"b:7 X→C", "a:9 C→TRASH; a:10 A→TRASH"}, corrections: "a:9<b:7 a:10<b:7", want: "ROOT{A{B{C{X}}}}"},
	{name: "deletes from the top down", tree: "ROOT{A{B{C}}}",
		batches: []string{"b:7 X→C", "a:9 A→TRASH; a:10 C→TRASH"}, corrections: "a:10<b:7 a:9<b:7", want: "ROOT{A{B{C{X}}}}"},
	{name: "the reasons of one batch in order", tree: "ROOT{A,B}",
		batches: []string{"a:9 A→TRASH", "c:9 B→TRASH", "b:7 X→B; b:8 Y→A"}, corrections: "c:9<b:7 a:9<b:8", want: "ROOT{A{Y},B{X}}"},
	{name: "the first reason to arrive", tree: "ROOT{B}",
		batches: []string{"e:8 Y→B", "b:7 X→B", "a:9 B→TRASH"}, corrections: "a:9<e:8", want: "ROOT{B{X,Y}}"},
	{name: "the first reason to arrive, of more that was unseen", tree: "ROOT{B}",
		batches: []string{"e:8 Y→B", "b:7 X→B; b:8 Z→ROOT; b:9 W→ROOT", "a:9 B→TRASH"}, corrections: "a:9<e:8", want: "ROOT{B{X,Y},W,Z}"},
	{name: "the first reason is the node's own move", tree: "ROOT{A,B}",
		batches: []string{"b:7 B→A", "c:6 D→B", "a:9 B→TRASH"}, corrections: "a:9<b:7", want: "ROOT{A{B{D}}}"},
	{name: "moved into Trash by somebody who saw the delete, after a move", tree: "ROOT{A,B,D{C}}",
		batches: []string{"a:9 D→TRASH", "c:10 B→C (knows 5)", "b:7 B→A"}, want: "ROOT{A}"},
	{name: "delete by somebody who saw a later child", tree: "ROOT{B,C}",
		batches: []string{"b:12 D→B", "a:9 B→TRASH (knows 3)"}, want: "ROOT{C}"},
	{name: "earlier child by somebody who saw the delete", tree: "ROOT{B,C}",
		batches: []string{"a:9 B→TRASH", "b:7 D→B (knows 3)"}, want: "ROOT{C}"},
	{name: "two deletes that saw nothing", tree: "ROOT{B,C}",
		batches: []string{"b:6 D→B", "a:9 B→TRASH", "c:10 B→TRASH"}, corrections: "a:9<b:6 c:10<b:6", want: "ROOT{B{D},C}"},
	{name: "the later of two deletes saw the child", tree: "ROOT{B,C}",
		batches: []string{"b:6 D→B", "a:9 B→TRASH", "c:10 B→TRASH (knows 3)"}, corrections: "a:9<b:6", want: "ROOT{C}"},
	{name: "the later of two deletes saw the child, and came first", tree: "ROOT{B,C}",
		batches: []string{"b:6 D→B", "c:10 B→TRASH (knows 3)", "a:9 B→TRASH"}, want: "ROOT{C}"},
	{name: "a correction is ahead of its whole millisecond", tree: "ROOT{B,C}",
		batches: []string{"e:7 D→B", "a:9 B→TRASH", "b:9 B→C"}, corrections: "a:9<e:7", want: "ROOT{B{D},C}"},
	{name: "moved on within the delete's millisecond", tree: "ROOT{B,C}",
		batches: []string{"e:7 D→B", "b:9 B→C", "a:9 B→TRASH"}, want: "ROOT{C{B{D}}}"},
	{name: "moved by two, the first to arrive", tree: "ROOT{A,B,C}",
		batches: []string{"a:9 B→TRASH", "b:7 B→A", "e:8 B→C"}, corrections: "a:9<b:7", want: "ROOT{A{B},C}"},
	{name: "moved by two, the other first", tree: "ROOT{A,B,C}",
		batches: []string{"a:9 B→TRASH", "e:8 B→C", "b:7 B→A"}, corrections: "a:9<e:8", want: "ROOT{A,C{B}}"},
	{name: "the place before is Trash", tree: "ROOT{P{B}}",
		batches: []string{"a:5 B→TRASH", "b:8 D→B (knows 3)", "c:9 B→TRASH (knows 3)"}, corrections: "c:9<b:8", want: "ROOT{P{B{D}}}"},
	{name: "the reason is what would be above", tree: "ROOT{P{B}}",
		batches: []string{"a:5 B→TRASH", "b:6 P→B (knows 3)", "c:9 B→TRASH (knows 3)"}, corrections: "c:9<b:6", want: "ROOT{B{P}}"},
	{name: "a correction flips a later move", tree: "ROOT{A{B}}",
		batches: []string{"a:9 B→TRASH", "c:15 A→B (knows 3)", "b:12 D→B"}, corrections: "a:9<b:12", want: "ROOT{A{B{D}}}", ineffective: "c:15"},
	{name: "deleted by somebody who saw, inside what was deleted by somebody who did not", tree: "ROOT{A{B}}",
		batches: []string{"b:7 X→B", "a:9 B→TRASH (knows 3)", "c:9 A→TRASH"}, want: "ROOT"},
	{name: "the same, the outer one first", tree: "ROOT{A{B}}",
		batches: []string{"b:7 X→B", "c:9 A→TRASH", "a:9 B→TRASH (knows 3)"}, corrections: "c:9<b:7", want: "ROOT{A}"},
	{name: "up to a delete by somebody who saw", tree: "ROOT{A{B}}",
		batches: []string{"b:7 X→B", "c:9 A→TRASH (knows 3)", "a:9 B→TRASH"}, corrections: "a:9<b:7", want: "ROOT"},
	{name: "overwritten unseen", tree: "ROOT{B}",
		batches: []string{`c:8 B.t="y"`, `b:7 B.t="x"`, "a:9 B→TRASH (knows 2)"}, want: "ROOT", values: `B.t="y"`},
	{name: "another property, unseen", tree: "ROOT{B}",
		batches: []string{`c:8 B.t="y"`, `b:7 B.u="x"`, "a:9 B→TRASH (knows 2)"}, corrections: "a:9<b:7", want: "ROOT{B}", values: `B.t="y" B.u="x"`},
	{name: "edited, then moved out, then deleted", tree: "ROOT{A{B},C}",
		batches: []string{`b:7 B.t="x"`, "b:8 B→C", "a:9 A→TRASH"}, want: "ROOT{C{B}}", values: `B.t="x"`},
	{name: "deleted, then edited and moved out", tree: "ROOT{A{B},C}",
		batches: []string{"a:9 A→TRASH", `b:7 B.t="x"; b:8 B→C`}, want: "ROOT{C{B}}", values: `B.t="x"`},
	{name: "deleted, then edited, then moved out", tree: "ROOT{A{B},C}",
		batches: []string{"a:9 A→TRASH", `b:7 B.t="x"`, "b:8 B→C"}, corrections: "a:9<b:7", want: "ROOT{A,C{B}}", values: `B.t="x"`},
	{name: "back before the child came", tree: "ROOT{B,C}",
		batches: []string{"a:9 B→TRASH; a:11 B→ROOT", "b:7 D→B"}, want: "ROOT{B{D},C}"},
	{name: "below what is not there yet", tree: "ROOT{C}",
		batches:     []string{"e:5 X→Y", "a:9 X→TRASH (knows 2)", "b:8 K→X (knows 2)", "e:12 Y→ROOT (knows 5)"},
		corrections: "a:9<b:8", want: "ROOT{C,Y{X{K}}}"},
	// What was there before a batch is not looked at again, though the batch may have put it into Trash.
	{name: "put into Trash by somebody who saw the delete", tree: "ROOT{A,B}",
		batches: []string{"e:5 X→B", "c:7 A→TRASH", "a:8 B→A (knows 4)"}, want: "ROOT"},
	{name: "put into Trash by a flip", tree: "ROOT{X,Z{B}}",
		batches: []string{"c:5 Z→X", "b:6 X→B", "a:9 B→TRASH", "e:5 Z→ROOT"}, want: "ROOT{Z}"},
	// A correction takes the place of the move that was its reason, which is no reason for another then.
	{name: "moved, the new parent deleted, deleted", tree: "ROOT{A,B}",
		batches: []string{"b:7 B→A", "a:9 A→TRASH", "c:10 B→TRASH"}, corrections: "a:9<b:7 c:10<b:7", want: "ROOT{A{B}}"},
	{name: "moved, deleted, the new parent deleted", tree: "ROOT{A,B}",
		batches: []string{"b:7 B→A", "c:10 B→TRASH", "a:9 A→TRASH"}, corrections: "c:10<b:7", want: "ROOT"},
	{name: "the new parent deleted, deleted, moved", tree: "ROOT{A,B}",
		batches: []string{"a:9 A→TRASH", "c:10 B→TRASH", "b:7 B→A"}, corrections: "c:10<b:7 a:9<b:7", want: "ROOT{A{B}}"},
	{name: "moved, deleted, deleted again", tree: "ROOT{A,B}",
		batches: []string{"b:7 B→A", "a:9 B→TRASH", "c:12 B→TRASH"}, corrections: "a:9<b:7", want: "ROOT{A}"},
	{name: "moved, deleted, deleted before", tree: "ROOT{A,B}",
		batches: []string{"b:7 B→A", "c:12 B→TRASH", "a:9 B→TRASH"}, corrections: "c:12<b:7", want: "ROOT{A{B}}"},
	{name: "deleted, deleted again, moved", tree: "ROOT{A,B}",
		batches: []string{"a:9 B→TRASH", "c:12 B→TRASH", "b:7 B→A"}, corrections: "c:12<b:7", want: "ROOT{A{B}}"},
}

func testSessions(t *testing.T, s Suite) {
	for _, session := range sessions {
		t.Run(session.name, func(t *testing.T) { session.run(t, s) })
	}
}

// run delivers the batches; to a replica, where there are corrections, the log that a server makes of them.
func (session session) run(t *testing.T, s Suite) {
	sc := scenario{tree: session.tree, want: session.want, corrections: session.corrections, ordered: true,
		ineffective: session.ineffective, values: session.values, policy: RestoreMoveAndSet}
	setup, _ := sc.parse(t)
	var batches [][]moveop.Op
	for _, text := range session.batches {
		batch, err := parseOps(text, int64(len(setup)))
		if err != nil {
			t.Fatal(err)
		}
		batches = append(batches, batch)
	}
	if !s.server && session.corrections != "" {
		sc.deliverLog(t, s, setup, batches)
		return
	}
	if len(setup) > 0 {
		batches = slices.Insert(batches, 0, setup)
	}
	p := s.newPair(t, RestoreMoveAndSet)
	for _, batch := range batches {
		if err := p.apply(batch); err != nil {
			t.Fatal(err)
		}
	}
	if err := sc.check(p); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := p.repeat(batches...); err != nil {
			t.Fatal(err)
		}
	}
}
