package moveop_test

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"time"

	"github.com/canopysync/canopy/moveop"
)

// An application that creates a node: a timestamp of its clock, a new id, a key behind the last
// sibling.
func Example() {
	replica, err := moveop.NewReplicaID(rand.Reader)
	if err != nil {
		panic(err)
	}
	clock := moveop.NewClock(replica, moveop.Timestamp{}, time.Now)
	ts, err := clock.Next()
	if err != nil {
		panic(err)
	}
	node, err := moveop.NewNodeID(ts.Millis(), rand.Reader)
	if err != nil {
		panic(err)
	}
	key, err := moveop.KeyBetween("a0", "", rand.Reader)
	if err != nil {
		panic(err)
	}
	op := moveop.Op{Kind: moveop.Move, TS: ts, Node: node, Parent: moveop.Root, OrderKey: key}
	fmt.Println(op.Kind, op.Validate(moveop.DefaultLimits), key > "a0")
	// Output: move <nil> true
}

func ExampleOp_UnmarshalJSON() {
	var op moveop.Op
	err := json.Unmarshal([]byte(`{
		"kind": "set",
		"ts": "01934bcd-d180-0001-00a1-b2c3d4e5f607",
		"node": "0192d3a4-5b6c-7d8e-8f90-a1b2c3d4e5f6",
		"key": "tags", "value": [ "a", "b" ],
		"known": 41
	}`), &op)
	fmt.Println(op.Kind, op.TS.Time().UTC(), op.TS.Replica(), op.Key, string(op.Value), op.Known, err)
	// Output: set 2024-11-20 23:00:00 +0000 UTC 00a1b2c3d4e5f607 tags ["a","b"] 41 <nil>
}

func ExampleClock() {
	now := time.UnixMilli(1_000_000)
	clock := moveop.NewClock(0xa, moveop.Timestamp{}, func() time.Time { return now })
	print := func() {
		ts, err := clock.Next()
		fmt.Println(ts, err)
	}
	print()
	print()
	clock.Observe(moveop.NewTimestamp(1_000_005, 7, 0xb)) // from a replica whose clock is ahead
	print()
	now = now.Add(time.Second)
	print()
	// Output:
	// 0000000f-4240-0000-0000-00000000000a <nil>
	// 0000000f-4240-0001-0000-00000000000a <nil>
	// 0000000f-4245-0008-0000-00000000000a <nil>
	// 0000000f-4628-0000-0000-00000000000a <nil>
}

func ExampleKeysBetween() {
	random := mathrand.NewChaCha8([32]byte{}) // crypto/rand.Reader outside of examples
	keys, err := moveop.KeysBetween("a0", "a1", 3, random)
	fmt.Println(keys, err)
	// Output: [a0WWutZZz a0WWutZa1 a0WWutZa2] <nil>
}

// Two siblings have got the same key, on two replicas at the same time. To put a node between them,
// the right-hand one has to move too.
func ExampleKeysAfter() {
	siblings := []string{"a0", "a1", "a1", "a2"}
	keys, rekeyed, err := moveop.KeysAfter(siblings[1], slices.Values(siblings[2:]), 1, rand.Reader)
	if err != nil {
		panic(err)
	}
	fmt.Println(len(rekeyed), "re-keyed;", "a1" < keys[0] && keys[0] < rekeyed[0] && rekeyed[0] < "a2")
	// Output: 1 re-keyed; true
}

func ExampleAppendOps() {
	ops := []moveop.Op{{
		Kind: moveop.Move, TS: moveop.NewTimestamp(1_732_143_600_000, 0, 0xa),
		Node: moveop.NodeID{15: 7}, Parent: moveop.Root, OrderKey: "a0",
	}}
	binary := moveop.AppendOps(nil, ops)
	back, err := moveop.DecodeOps(binary)
	fmt.Println(len(binary), back[0].SameBody(ops[0]), err)
	// Output: 56 true <nil>
}

// The digest does not depend on the order in which ops arrive, and an item can be taken out again.
func ExampleDigest() {
	first, second := moveop.NodeID{15: 7}, moveop.NodeID{15: 8}
	var d moveop.Digest
	d.State ^= moveop.PlacementHash(first, moveop.Root, "a0")
	d.State ^= moveop.PlacementHash(second, first, "a0")
	d.State ^= moveop.PlacementHash(second, first, "a0") // second moves …
	d.State ^= moveop.PlacementHash(second, moveop.Root, "a1")
	fmt.Printf("%016x\n", d.State)
	fmt.Printf("%016x\n", moveop.PlacementHash(second, moveop.Root, "a1")^moveop.PlacementHash(first, moveop.Root, "a0"))
	// Output:
	// cf2967a8ee29a213
	// cf2967a8ee29a213
}
