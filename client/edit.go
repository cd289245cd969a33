package client

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/canopysync/canopy/moveop"
)

// Tx is an edit in progress. Its reads are those of View, and see its own changes. It is valid only inside
// the function it was passed to, and not safe for concurrent use.
type Tx struct {
	View
	t    *txn
	undo recorder
	seen moveop.NodeID // is there; saves asking again
}

// Edit runs fn in one transaction. When Edit returns, all of fn's changes are visible and durable (see
// Options.Synchronous), or none of them if fn returned an error. It needs no network: the operations are
// pushed when there is one. Edits run one after the other, so fn must not block, least of all on the
// Client: see "Concurrency" in the package comment.
func (c *Client) Edit(ctx context.Context, fn func(tx *Tx) error) error {
	var tx *Tx
	defer func() { tx.end() }()
	err := c.store.update(ctx, Local, func(t *txn) error {
		tx = c.newTx(ctx, t)
		tx.undo.limit = c.opts.UndoLimit
		if err := fn(tx); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		return t.remember(&tx.undo)
	})
	if err == nil {
		c.wake()
	}
	return err
}

// end makes sure that nothing is written or read through a Tx whose transaction is over.
func (tx *Tx) end() {
	if tx != nil {
		tx.s, tx.t.session = ended(), ended()
	}
}

func (c *Client) newTx(ctx context.Context, t *txn) *Tx {
	return &Tx{View: View{t.session, ctx, c, t}, t: t}
}

// Create makes a new node under parent and returns its id.
func (tx *Tx) Create(parent moveop.NodeID, at Position) (moveop.NodeID, error) {
	nodes, err := tx.CreateRun(parent, at, 1)
	if err != nil {
		return moveop.NodeID{}, err
	}
	return nodes[0], nil
}

// CreateRun makes n adjacent new nodes under parent and returns their ids in order. They stay together
// even if others concurrently insert at the same place.
func (tx *Tx) CreateRun(parent moveop.NodeID, at Position, n int) ([]moveop.NodeID, error) {
	if n <= 0 {
		return nil, nil
	}
	if err := tx.mustExist(parent); err != nil {
		return nil, err
	}
	gap, err := tx.gap(parent, at, moveop.NodeID{})
	if err != nil {
		return nil, err
	}
	keys, err := tx.makeRoom(gap, n)
	if err != nil {
		return nil, err
	}
	nodes := make([]moveop.NodeID, n)
	for i := range nodes {
		if nodes[i], err = moveop.NewNodeID(tx.t.store.now().UnixMilli(), tx.t.store.random); err != nil {
			return nil, err
		}
		if err := tx.put(nodes[i], parent, keys[i], placement{}); err != nil {
			return nil, err
		}
	}
	tx.seen = nodes[n-1]
	return nodes, nil
}

// Move moves a node, with everything below it, to a position under parent. Moving it to where it is
// does nothing. The error is ErrCycle if parent is the node itself or below it.
func (tx *Tx) Move(id, parent moveop.NodeID, at Position) error {
	now, err := tx.movable(id)
	if err != nil {
		return err
	}
	return tx.move(id, now, parent, at)
}

// move is Move of a node of which it is known where it is.
func (tx *Tx) move(id moveop.NodeID, now placement, parent moveop.NodeID, at Position) error {
	if now.parent != parent {
		if err := tx.mustExist(parent); err != nil {
			return err
		}
		if err := tx.mustNotBeAbove(id, parent); err != nil {
			return err
		}
	}
	gap, err := tx.gap(parent, at, id)
	if err != nil || now.parent == parent && gap.holds(Cursor{now.orderKey, id}) {
		return err
	}
	keys, err := tx.makeRoom(gap, 1)
	if err != nil {
		return err
	}
	return tx.put(id, parent, keys[0], now)
}

// Reorder moves a node to another position under its parent.
func (tx *Tx) Reorder(id moveop.NodeID, at Position) error {
	now, err := tx.movable(id)
	if err != nil {
		return err
	}
	return tx.move(id, now, now.parent, at)
}

// Delete moves a node, with everything below it, to the end of Trash. Deleting a child of Trash does
// nothing. A replica never empties Trash. The server may purge old nodes; replicas made later lack them.
func (tx *Tx) Delete(id moveop.NodeID) error {
	now, err := tx.movable(id)
	if err != nil || now.parent == moveop.Trash {
		return err
	}
	return tx.move(id, now, moveop.Trash, Last)
}

// Restore moves a deleted node back to where it was, or to the end of Root if that place is itself
// deleted or gone. Restoring a node that is not deleted does nothing. The error is ErrInsideDeleted if
// only a node above it was deleted, and ErrPartial while this replica does not know where it was.
func (tx *Tx) Restore(id moveop.NodeID) error {
	now, err := tx.movable(id)
	if err != nil {
		return err
	}
	if now.parent != moveop.Trash {
		deleted, err := tx.IsDeleted(id)
		if err == nil && deleted {
			err = fmt.Errorf("%w: %s", ErrInsideDeleted, id)
		}
		return err
	}
	var was Place
	ok, err := tx.t.row(`SELECT parent, order_key FROM ops WHERE node = ? AND key = '' AND effective AND parent <> ?
		ORDER BY ts DESC LIMIT 1`, []any{id[:], moveop.Trash[:]}, (*blob)(&was.Parent), &was.OrderKey)
	if err != nil {
		return err
	}
	if !ok && tx.t.meta.partial {
		return fmt.Errorf("%w: the former place of %s", ErrPartial, id)
	}
	if ok {
		if ok, err = tx.reachable(was.Parent); err != nil {
			return err
		}
	}
	if !ok {
		return tx.move(id, now, moveop.Root, Last)
	}
	return tx.put(id, was.Parent, was.OrderKey, now)
}

// reachable reports whether a node is in the visible tree. Nothing below a deleted node is.
func (tx *Tx) reachable(id moveop.NodeID) (bool, error) {
	if id == moveop.Root {
		return true, nil
	}
	return tx.t.isAbove(moveop.Root, id)
}

// Set writes a property of a node, or of Root. Value is a json.RawMessage, or anything that encoding/json
// can marshal; nil and null clear the property. Writing the current value does nothing.
func (tx *Tx) Set(id moveop.NodeID, key string, value any) error {
	if err := tx.mustExist(id); err != nil {
		return err
	}
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("%w: value of %q: %w", moveop.ErrInvalidOp, key, err)
	}
	compact, err := moveop.CompactValue(text)
	if err != nil {
		return err
	}
	now, written, err := tx.t.write(id, key)
	if err != nil || written && string(now.Value) == string(compact) || !written && string(compact) == "null" {
		return err
	}
	return tx.write(&now, written, compact)
}

// IsolateUndo makes this edit an undo step of its own: Options.UndoPause joins it with neither the edits
// before it nor those after it. Use it to let a pause join typing but leave each command alone.
func (tx *Tx) IsolateUndo() { tx.undo.alone = true }

// write makes the set operation; now is the property's current write, if there is one.
func (tx *Tx) write(now *moveop.Op, written bool, value json.RawMessage) error {
	op := moveop.Op{Kind: moveop.Set, Node: now.Node, Key: now.Key, Value: value}
	if err := tx.stamp(&op); err != nil {
		return err
	}
	tx.undo.record(&op, version{ts: now.TS, text: string(now.Value)})
	if written {
		return tx.t.supersede(now, &op)
	}
	tx.t.count(&op)
	return tx.t.putValue(&op)
}

// place makes the move operation for a node that may have a place. The caller has checked that it
// makes no cycle.
func (tx *Tx) place(id, parent moveop.NodeID, orderKey string) error {
	now, _, err := tx.t.placement(id)
	if err != nil {
		return err
	}
	return tx.put(id, parent, orderKey, now)
}

// put is place for a node of which it is known where it is.
func (tx *Tx) put(id, parent moveop.NodeID, orderKey string, now placement) error {
	op := moveop.Op{Kind: moveop.Move, Node: id, Parent: parent, OrderKey: orderKey}
	if err := tx.stamp(&op); err != nil {
		return err
	}
	tx.undo.record(&op, now.version())
	return moveLog{tx.t}.append(&op, now)
}

// stamp completes an operation, checks it and puts it into the outbox. The clock is ahead of
// everything in the log, so it is the newest one there.
func (tx *Tx) stamp(op *moveop.Op) (err error) {
	if err := tx.ctx.Err(); err != nil {
		return err
	}
	if op.TS, err = tx.t.store.clock.Next(); err != nil {
		return err
	}
	op.Known = tx.t.meta.seq
	if err := op.Validate(moveop.DefaultLimits); err != nil {
		return err
	}
	return tx.t.queue(op)
}

// movable returns where a node is that may be moved.
func (tx *Tx) movable(id moveop.NodeID) (placement, error) {
	if id.IsReserved() {
		return placement{}, ErrReserved
	}
	now, ok, err := tx.t.placement(id)
	if err == nil && !ok {
		err = tx.unknown(id)
	}
	return now, err
}

func (tx *Tx) mustExist(id moveop.NodeID) error {
	if id.IsReserved() || id == tx.seen {
		return nil
	}
	if _, err := tx.Node(id); err != nil {
		return err
	}
	tx.seen = id
	return nil
}

// mustNotBeAbove lets through what can be, without a walk where nothing is below id.
func (tx *Tx) mustNotBeAbove(id, below moveop.NodeID) error {
	above := id == below
	if !above {
		parent, err := tx.t.isParent(id)
		if err == nil && parent {
			above, err = tx.t.isAbove(id, below)
		}
		if err != nil {
			return err
		}
	}
	if above {
		return fmt.Errorf("%w: %s below %s", ErrCycle, id, below)
	}
	return nil
}
