package tree

import (
	"iter"

	"github.com/canopysync/canopy/moveop"
)

// Placement is a node's position: its last effective move.
type Placement struct {
	Parent   moveop.NodeID
	OrderKey string
	TS       moveop.Timestamp
}

// Placement returns the position of n; ok is false for a node that was never placed, and for Root and
// Trash. A placed node need not be visible: see Ancestors.
func (t *Tree) Placement(n moveop.NodeID) (p Placement, ok bool) {
	i := t.nodes.find(n)
	if i == none || !t.nodes.at(i).placed() {
		return Placement{}, false
	}
	row := t.nodes.at(i)
	return Placement{t.nodes.at(row.parent).id, string(t.keys.get(row.key)), row.ts}, true
}

// Nodes visits every node that an op names, placed or not, except Root and Trash, in unspecified order.
// The tree must not change during the iteration; this holds for all iterators of Tree.
func (t *Tree) Nodes() iter.Seq[moveop.NodeID] {
	return func(yield func(moveop.NodeID) bool) {
		for i := trashIndex + 1; i < t.nodes.count; i++ {
			if !yield(t.nodes.at(i).id) {
				return
			}
		}
	}
}

// Children visits the nodes placed under parent in sibling order, by (order key, id).
func (t *Tree) Children(parent moveop.NodeID) iter.Seq[moveop.NodeID] {
	return func(yield func(moveop.NodeID) bool) {
		children := t.children(t.nodes.find(parent))
		if children == nil {
			return
		}
		for s := range children.from(place{}) {
			if !yield(t.nodes.at(s.node).id) {
				return
			}
		}
	}
}

// NumChildren returns how many nodes are placed under parent.
func (t *Tree) NumChildren(parent moveop.NodeID) int {
	children := t.children(t.nodes.find(parent))
	if children == nil {
		return 0
	}
	return children.len()
}

// children returns the list of nodes under i, or nil.
func (t *Tree) children(i index) *chunked[sibling] {
	if i == none || t.nodes.at(i).more == nil {
		return nil
	}
	return &t.nodes.at(i).more.children
}

// Ancestors visits the nodes above n, nearest first. The last one is Root for a visible node, Trash
// for a deleted one, and otherwise a node that is not placed yet.
func (t *Tree) Ancestors(n moveop.NodeID) iter.Seq[moveop.NodeID] {
	return func(yield func(moveop.NodeID) bool) {
		i := t.nodes.find(n)
		if i == none {
			return
		}
		for i = t.nodes.at(i).parent; i != none; i = t.nodes.at(i).parent {
			if !yield(t.nodes.at(i).id) {
				return
			}
		}
	}
}

// Walk visits every node below top with its depth, which is 1 for the children of top: parents before
// children, siblings in order.
func (t *Tree) Walk(top moveop.NodeID) iter.Seq2[moveop.NodeID, int] {
	return func(yield func(moveop.NodeID, int) bool) {
		type level struct {
			children *chunked[sibling]
			next     place
		}
		var path []level
		descend := func(i index) {
			if c := t.children(i); c != nil && len(c.chunks) > 0 {
				path = append(path, level{children: c})
			}
		}
		for descend(t.nodes.find(top)); len(path) > 0; {
			l := &path[len(path)-1]
			s := l.children.at(l.next)
			if s == nil {
				path = path[:len(path)-1]
				continue
			}
			l.next = l.children.next(l.next)
			if !yield(t.nodes.at(s.node).id, len(path)) {
				return
			}
			descend(s.node)
		}
	}
}

// Op returns the body of the op with that timestamp, if it is in the log.
func (t *Tree) Op(ts moveop.Timestamp) (op moveop.Op, ok bool) {
	e := t.timeline.find(ts)
	if e == nil {
		return moveop.Op{}, false
	}
	return t.op(e), true
}

// Ops visits the bodies of all ops in the log after ts, in timestamp order.
func (t *Tree) Ops(after moveop.Timestamp) iter.Seq[moveop.Op] {
	return func(yield func(moveop.Op) bool) {
		for e := range t.timeline.after(after) {
			if !yield(t.op(e)) {
				return
			}
		}
	}
}

func (t *Tree) op(e *event) moveop.Op {
	row := t.nodes.at(e.about())
	op := moveop.Op{Kind: e.kind(), TS: e.ts, Node: row.id}
	if op.Kind == moveop.Set {
		w := row.more.values.at(e.ts)
		op.Key, op.Value = w.key, w.value
		return op
	}
	m := t.moveAt(row, e.ts)
	op.Parent, op.OrderKey = t.nodes.at(m.parent).id, string(t.keys.get(m.key))
	return op
}

// IsEffective reports whether the move with that timestamp is effective; ok is false if the log has no
// such move.
func (t *Tree) IsEffective(ts moveop.Timestamp) (effective, ok bool) {
	e := t.timeline.find(ts)
	if e == nil || e.kind() != moveop.Move {
		return false, false
	}
	return t.effective(ts, e.about()), true
}
