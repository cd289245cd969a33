package client

import (
	"errors"
	"fmt"
	"iter"

	"github.com/canopysync/canopy/moveop"
)

// Position is where a node goes among the children of a parent. The zero value is Last.
type Position struct {
	at  end
	ref moveop.NodeID
}

type end uint8

const (
	atLast end = iota
	atFirst
	beforeRef
	afterRef
)

var (
	// Last is after all other children.
	Last = Position{at: atLast}
	// First is before all other children.
	First = Position{at: atFirst}
)

// Before is the position right before a sibling.
func Before(sibling moveop.NodeID) Position { return Position{beforeRef, sibling} }

// After is the position right after a sibling.
func After(sibling moveop.NodeID) Position { return Position{afterRef, sibling} }

// gap is a place between two neighbouring siblings; the zero Cursor stands for none. Without is the
// node that is about to move into it, and counts as not there.
type gap struct {
	parent      moveop.NodeID
	left, right Cursor
	without     moveop.NodeID
}

// holds reports whether a sibling between the neighbours is already where the gap is.
func (g gap) holds(n Cursor) bool {
	return (g.left == Cursor{} || g.left.Compare(n) < 0) && (g.right == Cursor{} || n.Compare(g.right) < 0)
}

// gap finds the neighbours of a position.
func (tx *Tx) gap(parent moveop.NodeID, p Position, without moveop.NodeID) (g gap, err error) {
	g = gap{parent: parent, without: without}
	var ref Cursor
	if p.at == atFirst || p.at == atLast {
		if err := tx.fetch(parent, ref, tx.needed(parent, p)); err != nil {
			return g, err
		}
	}
	if p.at == beforeRef || p.at == afterRef {
		if ref, err = tx.sibling(parent, p.ref); err != nil {
			return g, err
		}
		if err := tx.fetch(parent, ref, 2); err != nil { // one of them may be the node that moves
			return g, err
		}
	}
	switch {
	case p.at == atFirst:
		g.right, err = tx.next(g, Cursor{})
	case p.at == atLast:
		g.left, err = tx.previous(g, nil)
	case p.ref == without: // next to itself: where it is
		if g.left, err = tx.previous(g, &ref); err == nil {
			g.right, err = tx.next(g, ref)
		}
	case p.at == beforeRef:
		g.right = ref
		g.left, err = tx.previous(g, &ref)
	default:
		g.left = ref
		g.right, err = tx.next(g, ref)
	}
	return g, err
}

// needed is how many children must be here to find a position at an end. For the end of very many children, or of
// Trash, those that are here must do.
func (tx *Tx) needed(parent moveop.NodeID, p Position) int {
	if p.at == atLast && parent != moveop.Trash {
		return previewLast
	}
	return 2 // one of them may be the node that moves
}

func (tx *Tx) sibling(parent, id moveop.NodeID) (Cursor, error) {
	n, err := tx.Node(id)
	if err == nil && n.Parent != parent {
		err = fmt.Errorf("%w: %s is a child of %s", ErrNotSibling, id, n.Parent)
	}
	return n.Cursor(), err
}

// next returns the first sibling behind after.
func (tx *Tx) next(g gap, after Cursor) (c Cursor, err error) {
	_, err = tx.t.row(`SELECT order_key, node FROM nodes
		WHERE parent = ? AND (order_key, node) > (?, ?) AND node <> ? ORDER BY order_key, node LIMIT 1`,
		[]any{g.parent[:], after.OrderKey, after.Node[:], g.without[:]}, &c.OrderKey, (*blob)(&c.Node))
	return c, err
}

// previous returns the last sibling in front of before, or the last of all where that is nil.
func (tx *Tx) previous(g gap, before *Cursor) (c Cursor, err error) {
	if before == nil {
		_, err = tx.t.row(`SELECT order_key, node FROM nodes
			WHERE parent = ? AND node <> ? ORDER BY order_key DESC, node DESC LIMIT 1`,
			[]any{g.parent[:], g.without[:]}, &c.OrderKey, (*blob)(&c.Node))
		return c, err
	}
	_, err = tx.t.row(`SELECT order_key, node FROM nodes
		WHERE parent = ? AND (order_key, node) < (?, ?) AND node <> ? ORDER BY order_key DESC, node DESC LIMIT 1`,
		[]any{g.parent[:], before.OrderKey, before.Node[:], g.without[:]}, &c.OrderKey, (*blob)(&c.Node))
	return c, err
}

// makeRoom returns n order keys for the gap. Where there is no room, siblings to the right are moved
// to new keys first, in order.
func (tx *Tx) makeRoom(g gap, n int) ([]string, error) {
	var right []moveop.NodeID
	var failed error
	following := tx.following(g, &right, &failed)
	keys, rekeyed, err := moveop.KeysAfter(g.left.OrderKey, following, n, tx.t.store.random)
	if failed != nil {
		return nil, failed
	}
	if errors.Is(err, moveop.ErrNoRoom) {
		return tx.rekeyAll(g, n)
	}
	if err != nil {
		return nil, err
	}
	for i, key := range rekeyed {
		if err := tx.place(right[i], g.parent, key); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

// following yields the order keys of the siblings right of the gap, noting whose they are.
func (tx *Tx) following(g gap, nodes *[]moveop.NodeID, failed *error) iter.Seq[string] {
	return func(yield func(string) bool) {
		for at := g.right; at != (Cursor{}); {
			*nodes = append(*nodes, at.Node)
			if !yield(at.OrderKey) {
				return
			}
			if at, *failed = tx.next(g, at); *failed != nil {
				return
			}
		}
	}
}

// rekeyAll gives all siblings new keys, and returns those in the gap.
func (tx *Tx) rekeyAll(g gap, n int) ([]string, error) {
	var left, right []moveop.NodeID
	for at := (Cursor{}); ; {
		next, err := tx.next(g, at)
		if err != nil {
			return nil, err
		}
		if next == (Cursor{}) {
			break
		}
		if at = next; g.right != (Cursor{}) && at.Compare(g.right) >= 0 {
			right = append(right, at.Node)
		} else {
			left = append(left, at.Node)
		}
	}
	keys, err := moveop.KeysBetween("", "", len(left)+n+len(right), tx.t.store.random)
	if err != nil {
		return nil, err
	}
	middle := keys[len(left) : len(left)+n]
	for i, node := range append(left, right...) {
		if i >= len(left) {
			i += n
		}
		if err := tx.place(node, g.parent, keys[i]); err != nil {
			return nil, err
		}
	}
	return middle, nil
}
