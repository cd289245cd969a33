package tree_test

import (
	"fmt"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/tree"
)

// Two replicas, one after the other, put each other's node under their own: the later move would
// close a circle and is not effective. A third move, made earlier but arriving last, changes that.
func Example() {
	a, b := moveop.NodeID{15: 0xa}, moveop.NodeID{15: 0xb}
	move := func(ms int64, replica moveop.ReplicaID, node, parent moveop.NodeID) moveop.Op {
		return moveop.Op{
			Kind: moveop.Move, TS: moveop.NewTimestamp(ms, 0, replica),
			Node: node, Parent: parent, OrderKey: "a0",
		}
	}
	room := tree.New()
	statuses, err := room.Apply(
		move(1, 1, a, moveop.Root),
		move(2, 1, b, moveop.Root),
		move(5, 1, a, b),
		move(6, 2, b, a),
	)
	fmt.Println(statuses, err)

	statuses, err = room.Apply(move(5, 3, a, moveop.Root))
	fmt.Println(statuses, err)
	for node, depth := range room.Walk(moveop.Root) {
		fmt.Println(depth, node)
	}
	// Output:
	// [applied applied applied ineffective] <nil>
	// [applied] <nil>
	// 1 00000000-0000-0000-0000-00000000000a
	// 2 00000000-0000-0000-0000-00000000000b
}
