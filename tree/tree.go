package tree

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/canopysync/canopy/moveop"
)

// ErrConflict is wrapped by the error of Tree.Apply if another op with the same timestamp but another
// body exists.
var ErrConflict = errors.New("another operation has this timestamp")

// Status is the outcome of an op.
type Status uint8

const (
	// Applied is a new set, or a new move that is effective.
	Applied Status = iota + 1
	// Ineffective is a new move that would make a cycle. It is in the log, and a later arrival may
	// make it effective.
	Ineffective
	// Duplicate is an op that was already in the log, or earlier in the batch.
	Duplicate
)

// String returns the status as the wire protocol spells it.
func (s Status) String() string {
	switch s {
	case Applied:
		return "applied"
	case Ineffective:
		return "ineffective"
	case Duplicate:
		return "duplicate"
	}
	return fmt.Sprintf("status(%d)", uint8(s))
}

// Tree is a replica in memory: the log of a room and the tree that it makes. It keeps only the body of an
// op, not Known, Seq and Cause. It also keeps the op's Value itself, so the caller must not change it
// afterwards. A Tree is not safe for concurrent use.
type Tree struct {
	nodes    nodes
	keys     keys
	pasts    pasts
	timeline timeline
	version  map[moveop.ReplicaID]*moveop.Timestamp
	author   author // of the last op
	digest   moveop.Digest
	hashing  bool // digest has more than the count
	hashes   hashes

	newest     moveop.Timestamp // of all ops
	newestMove moveop.Timestamp

	fresh []int // of check, kept for its memory
}

// author is a replica and its entry in the version vector.
type author struct {
	replica moveop.ReplicaID
	last    *moveop.Timestamp
}

// New returns an empty tree: Root and Trash, and nothing below them.
func New() *Tree {
	return &Tree{nodes: newNodes(), pasts: pasts{free: noPast}, version: make(map[moveop.ReplicaID]*moveop.Timestamp)}
}

// Apply applies a batch and returns the status of each op, as of the end of the batch. Ops may come in
// any order and any number of times. If an op cannot be stored (moveop.ErrInvalidOp) or contradicts the
// log (ErrConflict), Apply refuses the whole batch and changes nothing. It checks only what the tree needs
// to stay sound: pass ops from outside to moveop.Op.Validate first.
func (t *Tree) Apply(ops ...moveop.Op) ([]Status, error) {
	statuses := make([]Status, len(ops))
	fresh, err := t.check(ops, statuses)
	if err != nil {
		return nil, err
	}
	late, err := t.applyLate(ops, fresh)
	if err != nil {
		return nil, err
	}
	for _, i := range fresh {
		op := &ops[i]
		t.advance(op)
		switch {
		case op.Kind == moveop.Set:
			t.applySet(op)
			statuses[i] = Applied
		case late > 0:
			late--
			statuses[i] = statusOf(t.effective(op.TS, t.nodes.find(op.Node)))
		default:
			statuses[i] = statusOf(t.applyNewest(op))
		}
	}
	return statuses, nil
}

func statusOf(effective bool) Status {
	if effective {
		return Applied
	}
	return Ineffective
}

// check returns the positions of the ops that are new, in timestamp order, and marks the others as
// duplicates.
func (t *Tree) check(ops []moveop.Op, statuses []Status) (fresh []int, err error) {
	fresh = slices.Grow(t.fresh[:0], len(ops))
	t.fresh = fresh
	sorted := true
	for i := range ops {
		if err := checkOp(&ops[i]); err != nil {
			return nil, err
		}
		fresh = append(fresh, i)
		sorted = sorted && (i == 0 || ops[i-1].TS.Before(ops[i].TS))
	}
	if !sorted {
		slices.SortStableFunc(fresh, func(i, j int) int { return ops[i].TS.Compare(ops[j].TS) })
	} else if len(ops) == 0 || t.newest.Before(ops[0].TS) {
		return fresh, nil
	}
	kept := fresh[:0]
	for k, i := range fresh {
		op := &ops[i]
		same, ok := moveop.Op{}, k > 0 && op.TS == ops[fresh[k-1]].TS
		if ok {
			same = ops[fresh[k-1]]
		} else {
			same, ok = t.Op(op.TS)
		}
		switch {
		case !ok:
			kept = append(kept, i)
		case same.SameBody(*op):
			statuses[i] = Duplicate
		default:
			return nil, fmt.Errorf("apply %s: %w", op.TS, ErrConflict)
		}
	}
	return kept, nil
}

func checkOp(op *moveop.Op) error {
	switch {
	case op.TS.IsZero() || op.TS == moveop.MaxTimestamp:
		return fmt.Errorf("apply %s: %w: reserved timestamp", op.TS, moveop.ErrInvalidOp)
	case op.Kind == moveop.Move && op.Node.IsReserved():
		return fmt.Errorf("apply %s: %w: Root and Trash cannot be moved", op.TS, moveop.ErrInvalidOp)
	case len(op.OrderKey) > moveop.MaxOrderKeyBytes:
		return fmt.Errorf("apply %s: %w: order key of %d bytes", op.TS, moveop.ErrInvalidOp, len(op.OrderKey))
	case op.Kind != moveop.Move && op.Kind != moveop.Set:
		return fmt.Errorf("apply %s: %w: unknown kind %d", op.TS, moveop.ErrInvalidOp, op.Kind)
	}
	return nil
}

// applyLate replays the new moves that are older than the newest move in the log and returns how
// many there were: the first ones of fresh.
func (t *Tree) applyLate(ops []moveop.Op, fresh []int) (int, error) {
	var late []moveop.Op
	for _, i := range fresh {
		if !ops[i].TS.Before(t.newestMove) {
			break
		}
		if ops[i].Kind == moveop.Move {
			late = append(late, ops[i])
		}
	}
	if len(late) == 0 {
		return 0, nil
	}
	return len(late), Replay(replayLog{t}, late)
}

// advance counts a new op in.
func (t *Tree) advance(op *moveop.Op) {
	t.countOp(op)
	if t.newest.Before(op.TS) {
		t.newest = op.TS
	}
	if last := t.last(op.TS.Replica()); last.Before(op.TS) {
		*last = op.TS
	}
}

// last is the replica's entry in the version vector. Ops come in runs of one replica's.
func (t *Tree) last(r moveop.ReplicaID) *moveop.Timestamp {
	if t.author.last == nil || t.author.replica != r {
		last := t.version[r]
		if last == nil {
			last = new(moveop.Timestamp)
			t.version[r] = last
		}
		t.author = author{r, last}
	}
	return t.author.last
}

// applyNewest applies a move that is newer than all in the log: one walk over current parents
// decides, and nothing else can change.
func (t *Tree) applyNewest(op *moveop.Op) (effective bool) {
	n, p := t.nodes.intern(op.Node), t.nodes.intern(op.Parent)
	row := t.nodes.at(n)
	effective = n != p && !(row.named() && t.isAbove(n, p))
	t.log(op.TS, n, p)
	t.settle(n, newMove(op.TS, t.keys.add(op.OrderKey), p, effective))
	return effective
}

// isAbove reports whether n is p or above p now.
func (t *Tree) isAbove(n, p index) bool {
	for p != n {
		if p = t.nodes.at(p).parent; p == none {
			return false
		}
	}
	return true
}

// log records a move in the timeline and in what is known of its parent.
func (t *Tree) log(ts moveop.Timestamp, n, p index) {
	t.timeline.add(ts, n, moveop.Move)
	if n != p {
		t.nodes.at(p).extend().named = true
	}
	if t.newestMove.Before(ts) {
		t.newestMove = ts
	}
}

// placement is the node's current placement as a move.
func (n *node) placement() pastMove { return newMove(n.ts, n.key, n.parent, true) }

// place makes m the node's placement. Only place and unplace change a placement, so that the
// siblings and the digest always agree with it.
func (t *Tree) place(n index, m pastMove) {
	t.unplace(n)
	row := t.nodes.at(n)
	row.ts, row.key, row.parent = m.ts, m.key, m.parent
	row.prefix = t.keys.prefix(m.key)
	t.hashPlacement(n, row)
	siblings := &t.nodes.at(m.parent).extend().children
	siblings.insert(t.sibling(siblings, n, row), sibling{row.prefix, n})
}

// unplace takes the node out of the tree.
func (t *Tree) unplace(n index) {
	row := t.nodes.at(n)
	if !row.placed() {
		return
	}
	siblings := &t.nodes.at(row.parent).more.children
	siblings.remove(t.sibling(siblings, n, row))
	t.unhashPlacement(n)
	row.ts, row.key, row.prefix, row.parent = moveop.Timestamp{}, 0, 0, none
}

// sibling is the place among siblings where n is or belongs. Most keys differ in their prefixes, and
// then the list alone answers.
func (t *Tree) sibling(siblings *chunked[sibling], n index, row *node) place {
	p := seek(siblings, row.prefix)
	if s := siblings.at(p); s == nil || s.prefix != row.prefix || s.node == n {
		return p
	}
	return siblings.search(func(s *sibling) bool {
		if s.prefix != row.prefix {
			return s.prefix < row.prefix
		}
		return s.node != n && t.isLeftOf(t.nodes.at(s.node), row)
	})
}

// isLeftOf orders siblings.
func (t *Tree) isLeftOf(a, b *node) bool {
	if c := bytes.Compare(t.keys.get(a.key), t.keys.get(b.key)); c != 0 {
		return c < 0
	}
	return a.id.Compare(b.id) < 0
}

// Version returns the version vector: each replica's newest timestamp in the log. Corrections count for
// a replica id of their own, the one with the top bit set.
func (t *Tree) Version() map[moveop.ReplicaID]moveop.Timestamp {
	version := make(map[moveop.ReplicaID]moveop.Timestamp, len(t.version))
	for r, last := range t.version {
		version[r] = *last
	}
	return version
}
