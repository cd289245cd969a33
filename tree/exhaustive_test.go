package tree_test

import (
	"testing"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/proptest"
	"github.com/canopysync/canopy/tree"
)

// TestSmallScope tries every list of four moves over three nodes, Root and Trash, in every order of
// arrival, one by one. Lists that differ only in which node is called what count once: the nodes
// appear in the order of their names.
func TestSmallScope(t *testing.T) {
	t.Parallel()
	orders := permutations(4)
	lists := 0
	for list := range 15 * 15 * 15 * 15 {
		ops := smallMoves(list)
		if !canonical(ops) {
			continue
		}
		lists++
		want := modelState(t, ops)
		for _, order := range orders {
			got := tree.New()
			for _, i := range order {
				if _, err := got.Apply(ops[i]); err != nil {
					t.Fatal(err)
				}
			}
			if !agrees(want, got, ops) {
				t.Fatalf("list %d in order %v: the tree differs from the model", list, order)
			}
		}
	}
	if lists < 15*15*15*15/6 {
		t.Fatalf("only %d lists are canonical", lists)
	}
}

var smallNodes = [5]moveop.NodeID{{0: 1, 1: 'A'}, {0: 1, 1: 'B'}, {0: 1, 1: 'C'}, moveop.Root, moveop.Trash}

// smallMoves returns the list with that number: four moves, at four times, of 3 by 5 kinds each.
func smallMoves(list int) []moveop.Op {
	ops := make([]moveop.Op, 4)
	for i := range ops {
		ops[i] = moveop.Op{
			Kind: moveop.Move, TS: moveop.NewTimestamp(int64(i+1), 0, 1),
			Node: smallNodes[list%3], Parent: smallNodes[list/3%5], OrderKey: "a0",
		}
		list /= 15
	}
	return ops
}

func canonical(ops []moveop.Op) bool {
	next := byte('A')
	for _, op := range ops {
		for _, n := range []moveop.NodeID{op.Node, op.Parent} {
			if n.IsReserved() || n[1] < next {
				continue
			}
			if n[1] > next {
				return false
			}
			next++
		}
	}
	return true
}

func modelState(t *testing.T, ops []moveop.Op) proptest.State {
	t.Helper()
	model := proptest.NewModel()
	if _, err := model.Apply(ops); err != nil {
		t.Fatal(err)
	}
	state, err := model.State()
	if err != nil {
		t.Fatal(err)
	}
	return state
}

func agrees(want proptest.State, got *tree.Tree, ops []moveop.Op) bool {
	for _, op := range ops {
		if effective, ok := got.IsEffective(op.TS); !ok || effective != want.Effective[op.TS] {
			return false
		}
	}
	return got.Digest() == want.Digest
}

// permutations returns all orders of 0 … n-1.
func permutations(n int) (all [][]int) {
	if n == 0 {
		return [][]int{{}}
	}
	for _, p := range permutations(n - 1) {
		for i := range n {
			q := append(append(append([]int{}, p[:i]...), n-1), p[i:]...)
			all = append(all, q)
		}
	}
	return all
}
