package tree

import "github.com/canopysync/canopy/moveop"

// Digest summarises the log and the state. Hashing is a large part of the cost of a move, so the tree
// starts it only with the first call of Digest, which goes through the whole log. From then on every
// change updates the digest, and Digest is O(1).
func (t *Tree) Digest() moveop.Digest {
	if !t.hashing {
		t.hashing = true
		t.hashAll()
	}
	return t.digest
}

func (t *Tree) hashAll() {
	for i := range t.nodes.count {
		row := t.nodes.at(i)
		if row.placed() {
			t.hashPlacement(i, row)
			t.hashMove(row, row.placement())
		}
		for m := range t.past(row) {
			t.hashMove(row, *m)
		}
		if row.more == nil || row.more.values == nil {
			continue
		}
		for _, w := range row.more.values.current {
			t.hashWrite(row.id, w)
			t.hashSet(row.id, w)
		}
		for _, w := range row.more.values.past {
			t.hashSet(row.id, w)
		}
	}
}

// hashMove and hashSet put an op of the log into the digest.
func (t *Tree) hashMove(row *node, m pastMove) {
	op := moveop.Op{Kind: moveop.Move, TS: m.ts, Node: row.id, Parent: t.nodes.at(m.parent).id, OrderKey: string(t.keys.get(m.key))}
	t.digest.Log ^= op.LogHash()
}

func (t *Tree) hashSet(n moveop.NodeID, w write) {
	op := moveop.Op{Kind: moveop.Set, TS: w.ts, Node: n, Key: w.key, Value: w.value}
	t.digest.Log ^= op.LogHash()
}

// hashWrite puts the current write of a property into the digest, or takes it out.
func (t *Tree) hashWrite(n moveop.NodeID, w write) {
	if t.hashing {
		t.digest.State ^= moveop.ValueHash(n, w.key, w.ts)
	}
}

// hashes are the hashes of the placements in the digest, by node, so that they can be taken out of it
// again. It has pages as nodes has, once somebody wants digests.
type hashes []*[pageLen]uint64

func (h *hashes) at(i index) *uint64 {
	for int(i>>pageShift) >= len(*h) {
		*h = append(*h, new([pageLen]uint64))
	}
	return &(*h)[i>>pageShift][i&(pageLen-1)]
}

// hashPlacement puts the row's placement into the digest.
func (t *Tree) hashPlacement(n index, row *node) {
	if t.hashing {
		hash := moveop.PlacementHash(row.id, t.nodes.at(row.parent).id, string(t.keys.get(row.key)))
		*t.hashes.at(n) = hash
		t.digest.State ^= hash
	}
}

// unhashPlacement takes the node's placement out of the digest.
func (t *Tree) unhashPlacement(n index) {
	if t.hashing {
		t.digest.State ^= *t.hashes.at(n)
	}
}

// countOp counts a new op in.
func (t *Tree) countOp(op *moveop.Op) {
	t.digest.Ops++
	if t.hashing {
		t.digest.Log ^= op.LogHash()
	}
}
