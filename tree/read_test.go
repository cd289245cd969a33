package tree_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/tree"
)

// named makes nodes from single letters; . is Root, - is Trash.
func named(letter byte) moveop.NodeID {
	switch letter {
	case '.':
		return moveop.Root
	case '-':
		return moveop.Trash
	}
	return moveop.NodeID{0: 1, 15: letter}
}

// setup returns a tree made by moves like "A." (A under Root), at the times 1, 2, …
func setup(t *testing.T, moves ...string) *tree.Tree {
	t.Helper()
	room := tree.New()
	for i, m := range moves {
		op := moveop.Op{
			Kind: moveop.Move, TS: moveop.NewTimestamp(int64(i+1), 0, 1),
			Node: named(m[0]), Parent: named(m[1]), OrderKey: "a" + m[2:],
		}
		if _, err := room.Apply(op); err != nil {
			t.Fatal(err)
		}
	}
	return room
}

func letters(nodes []moveop.NodeID) string {
	var b strings.Builder
	for _, n := range nodes {
		switch n {
		case moveop.Root:
			b.WriteByte('.')
		case moveop.Trash:
			b.WriteByte('-')
		default:
			b.WriteByte(n[15])
		}
	}
	return b.String()
}

func TestReads(t *testing.T) {
	t.Parallel()
	// Root has C (first by key), then A and B (equal keys); E is deleted, F under a node without a place.
	room := setup(t, "A.1", "B.1", "C.0", "DA1", "E.5", "E-5", "FG1", "HD1")
	for n, want := range map[byte]string{'.': "CAB", 'A': "D", 'D': "H", 'H': "", '-': "E", 'G': "F", 'Z': ""} {
		if got := letters(slices.Collect(room.Children(named(n)))); got != want {
			t.Errorf("children of %c: want %s, got %s", n, want, got)
		}
		if got := room.NumChildren(named(n)); got != len(want) {
			t.Errorf("want %d children of %c, got %d", len(want), n, got)
		}
	}
	for n, want := range map[byte]string{'H': "DA.", 'E': "-", 'F': "G", 'G': "", '.': "", 'Z': ""} {
		if got := letters(slices.Collect(room.Ancestors(named(n)))); got != want {
			t.Errorf("ancestors of %c: want %s, got %s", n, want, got)
		}
	}
	for n, want := range map[byte]string{'.': "C1 A1 D2 H3 B1", 'A': "D1 H2", 'H': "", '-': "E1", 'Z': ""} {
		var got []string
		for node, depth := range room.Walk(named(n)) {
			got = append(got, fmt.Sprintf("%c%d", node[15], depth))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("below %c: want %s, got %s", n, want, got)
		}
	}
	if _, ok := room.Placement(named('G')); ok {
		t.Error("G has a place")
	}
	if p, ok := room.Placement(named('E')); !ok || p.Parent != moveop.Trash || p.OrderKey != "a5" {
		t.Errorf("E is at %v, %t", p, ok)
	}
}

// TestIteratorsStop leaves every iterator after one element.
func TestIteratorsStop(t *testing.T) {
	t.Parallel()
	room := setup(t, "A.1", "B.1", "CA1", "DC1")
	set := moveop.Op{Kind: moveop.Set, TS: moveop.NewTimestamp(9, 0, 1), Node: named('A'), Key: "k", Value: []byte("1")}
	other := moveop.Op{Kind: moveop.Set, TS: moveop.NewTimestamp(10, 0, 1), Node: named('A'), Key: "l", Value: []byte("null")}
	if _, err := room.Apply(set, other); err != nil {
		t.Fatal(err)
	}
	steps := 0
	for range room.Nodes() {
		steps++
		break
	}
	for range room.Children(moveop.Root) {
		steps++
		break
	}
	for range room.Ancestors(named('D')) {
		steps++
		break
	}
	for range room.Walk(moveop.Root) {
		steps++
		break
	}
	for range room.Ops(moveop.Timestamp{}) {
		steps++
		break
	}
	for v := range room.Values(named('A')) {
		if v.Key != "k" || v.Cleared() {
			t.Errorf("first value is %v", v)
		}
		steps++
		break
	}
	if steps != 6 {
		t.Errorf("%d iterators began", steps)
	}
}

func TestLog(t *testing.T) {
	t.Parallel()
	room := setup(t, "A.1", "BA1", "AB1", "A-1")
	var got []string
	for op := range room.Ops(moveop.NewTimestamp(1, 0, 1)) {
		same, ok := room.Op(op.TS)
		if !ok || !same.SameBody(op) {
			t.Errorf("op %s reads as %v", op.TS, same)
		}
		effective, ok := room.IsEffective(op.TS)
		got = append(got, fmt.Sprintf("%s %t %t", letters([]moveop.NodeID{op.Node, op.Parent}), effective, ok))
	}
	if want := []string{"BA true true", "AB false true", "A- true true"}; !slices.Equal(got, want) {
		t.Errorf("want %q, got %q", want, got)
	}
	if _, ok := room.Op(moveop.NewTimestamp(9, 0, 1)); ok {
		t.Error("an op that never was is in the log")
	}
	if _, ok := room.IsEffective(moveop.NewTimestamp(9, 0, 1)); ok {
		t.Error("an op that never was has a flag")
	}
}

func TestApplyRefuses(t *testing.T) {
	t.Parallel()
	good := moveop.Op{Kind: moveop.Move, TS: moveop.NewTimestamp(5, 0, 1), Node: named('A'), Parent: named('.'), OrderKey: "a0"}
	for name, change := range map[string]func(op *moveop.Op){
		"zero time":     func(op *moveop.Op) { op.TS = moveop.Timestamp{} },
		"last time":     func(op *moveop.Op) { op.TS = moveop.MaxTimestamp },
		"unknown kind":  func(op *moveop.Op) { op.Kind = 3 },
		"Root moved":    func(op *moveop.Op) { op.Node = moveop.Root },
		"endless key":   func(op *moveop.Op) { op.OrderKey = strings.Repeat("a", moveop.MaxOrderKeyBytes+1) },
		"Trash moved":   func(op *moveop.Op) { op.Node = moveop.Trash },
		"missing kind":  func(op *moveop.Op) { op.Kind = 0 },
		"Root in Trash": func(op *moveop.Op) { op.Node, op.Parent = moveop.Root, moveop.Trash },
	} {
		room, bad := tree.New(), good
		bad.TS = moveop.NewTimestamp(6, 0, 1)
		change(&bad)
		if _, err := room.Apply(good, bad); !errors.Is(err, moveop.ErrInvalidOp) {
			t.Errorf("%s: want ErrInvalidOp, got %v", name, err)
		}
		if d := room.Digest(); d != (moveop.Digest{}) {
			t.Errorf("%s: half applied: %v", name, d)
		}
	}
	if statuses, err := tree.New().Apply(); err != nil || len(statuses) != 0 {
		t.Errorf("an empty batch answers %v, %v", statuses, err)
	}
}

// TestManySiblings compares a parent of many children, moved in and out at random, with a sorted list.
func TestManySiblings(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(5, 6))
	room, keys := tree.New(), make(map[moveop.NodeID]string)
	for i := range 20_000 {
		n := moveop.NodeID{0: 1, 14: byte(rng.IntN(32)), 15: byte(rng.IntN(256))}
		op := moveop.Op{
			Kind: moveop.Move, TS: moveop.NewTimestamp(int64(i+1), 0, 1), Node: n, Parent: moveop.Root,
			OrderKey: fmt.Sprintf("a%02dV", rng.IntN(100)),
		}
		keys[n] = op.OrderKey
		if rng.IntN(3) == 0 {
			op.Parent = moveop.Trash
			delete(keys, n)
		}
		if _, err := room.Apply(op); err != nil {
			t.Fatal(err)
		}
	}
	var want []moveop.NodeID
	for n := range keys {
		want = append(want, n)
	}
	slices.SortFunc(want, func(a, b moveop.NodeID) int {
		if c := strings.Compare(keys[a], keys[b]); c != 0 {
			return c
		}
		return a.Compare(b)
	})
	if !slices.Equal(slices.Collect(room.Children(moveop.Root)), want) {
		t.Error("the children are not those that should be there, or not in order")
	}
}
