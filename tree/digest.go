package tree

import "github.com/canopysync/canopy/moveop"

// Digest summarises the log and the state. Hashing is a large part of what a move costs, so a tree
// begins with it only when it is asked for the first time: that call goes through all of the log.
// From then on every change keeps the digest up to date, and asking costs nothing.
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
			row.hash = t.placementHash(row)
			t.digest.State ^= row.hash
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

// placementHash is the hash of the row's placement, 0 as long as nobody wants it.
func (t *Tree) placementHash(row *node) uint64 {
	if !t.hashing {
		return 0
	}
	return moveop.PlacementHash(row.id, t.nodes.at(row.parent).id, string(t.keys.get(row.key)))
}

// countOp counts a new op in.
func (t *Tree) countOp(op *moveop.Op) {
	t.digest.Ops++
	if t.hashing {
		t.digest.Log ^= op.LogHash()
	}
}
