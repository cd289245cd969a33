package proptest

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/canopysync/canopy/moveop"
)

// smallScopeLists are the lists of four moves over three nodes, Root and Trash, by number. Lists that
// differ only in which node is called what count once: the nodes appear in the order of their names.
func smallScopeLists() (lists []int) {
	for list := range smallMoves * smallMoves * smallMoves * smallMoves {
		if canonical(smallList(list)) {
			lists = append(lists, list)
		}
	}
	return lists
}

// smallMoves is how many moves there are: any of three nodes, under any of five.
const smallMoves = 3 * 5

var smallNodes = [5]moveop.NodeID{node("A"), node("B"), node("C"), moveop.Root, moveop.Trash}

// smallList returns the list with that number: four moves at four times, each by its own replica, so
// that a server takes them in any order too.
func smallList(number int) []moveop.Op {
	ops := make([]moveop.Op, 4)
	for i := range ops {
		n, parent := smallNodes[number%3], smallNodes[number/3%5]
		ops[i] = moveop.Op{
			Kind: moveop.Move, TS: moveop.NewTimestamp(int64(i+1), 0, replica("abcd"[i])),
			Node: n, Parent: parent, OrderKey: orderKey(nodeName(n)),
		}
		number /= smallMoves
	}
	return ops
}

func canonical(ops []moveop.Op) bool {
	next := 0
	for _, op := range ops {
		for _, n := range []moveop.NodeID{op.Node, op.Parent} {
			i := slices.Index(smallNodes[:3], n)
			if i > next {
				return false
			}
			if i == next {
				next++
			}
		}
	}
	return true
}

// testSmallScope tries some of the lists, or all, in every order of arrival, one by one, and compares
// the results with the model's. No delete is corrected here, so that one result does for all orders.
func testSmallScope(t *testing.T, s Suite) {
	lists := smallScopeLists()
	limit := cmp.Or(s.SmallScope, 50)
	if limit < 0 {
		limit = len(lists)
	}
	limit = envInt(t, "CANOPY_SMALL_SCOPE", limit/thin)
	if limit < 0 || limit > len(lists) {
		limit = len(lists)
	}
	for _, i := range s.part(limit) {
		list := lists[i*len(lists)/limit]
		ops := smallList(list)
		want := replayAll(ops)
		for _, order := range orders(ops, false, 0) {
			if err := s.trySmall(t, order, want); err != nil {
				t.Fatalf("list %d in order\n%s%v", list, opsText(order), err)
			}
		}
	}
}

func (s Suite) trySmall(t *testing.T, order []moveop.Op, want State) error {
	return s.withPair(t, RestoreNever, func(p *pair) error {
		for _, op := range order {
			if _, err := p.engine.Apply([]moveop.Op{op}); err != nil {
				return err
			}
		}
		got, err := p.engine.State()
		if err != nil {
			return fmt.Errorf("state: %w", err)
		}
		if err := got.Check(); err != nil {
			return err
		}
		if diff := Diff(want, got); diff != "" {
			return errors.New("the engine differs from the model:\n" + diff)
		}
		return nil
	})
}
