package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/canopysync/canopy/moveop"
)

// Undone is the result of one Undo or Redo. It is empty if there was nothing to undo or redo.
type Undone struct {
	Done    []UndoneChange
	Skipped []UndoneChange
}

// UndoneChange is one change that Undo or Redo reverted or skipped: a node's place or a property.
type UndoneChange struct {
	Node moveop.NodeID
	// Key is the property; empty for a change of the node's place.
	Key string
	// Reason is why the change was skipped; empty if it was not.
	Reason SkipReason
}

// SkipReason says why Undo or Redo skipped a change.
type SkipReason string

const (
	// SkipChanged means that the step's result is no longer current: somebody else, or the server's
	// correction of a delete, has changed it since.
	SkipChanged SkipReason = "changed since"
	// SkipInUse means that the node would go to Trash, but somebody else has since put something below
	// it or written a property in it.
	SkipInUse SkipReason = "in use by others"
	// SkipPlaceGone means that somebody else has since deleted the place to go back to.
	SkipPlaceGone SkipReason = "place was deleted"
	// SkipCycle means that the place to go back to is now below the node.
	SkipCycle SkipReason = "place is below the node"
)

// Undo reverts the last step made here that is not undone yet: one Edit, or several (see
// Options.UndoPause). It makes new operations, which are pushed like any other: nodes go back to where
// they were, with their former order keys, nodes that the step created go to Trash, and properties get
// their former values. It reverts only this replica's own changes, and only those still current; Undone
// gives the reason for each one skipped. A step of which nothing could be undone is dropped. If the step
// had unknowingly overridden somebody else's change, which has arrived since, Undo brings that change
// back instead.
//
// The history is in the file, so it survives a restart, and a copy of the file has a copy of it. See
// Options.UndoLimit for its length.
func (c *Client) Undo(ctx context.Context) (Undone, error) { return c.exchange(ctx, false) }

// Redo reverts the last Undo. If nothing happened in between, the two together change nothing, down to
// ids and order keys. An Edit discards the steps that could be redone.
func (c *Client) Redo(ctx context.Context) (Undone, error) { return c.exchange(ctx, true) }

// CanUndo reports whether there is a step to undo. Undo may still skip all of it.
func (c *Client) CanUndo() bool { return c.store.meta.Load().history.canUndo() }

// CanRedo reports whether there is a step to redo.
func (c *Client) CanRedo() bool { return c.store.meta.Load().history.canRedo() }

func (c *Client) exchange(ctx context.Context, redo bool) (result Undone, err error) {
	err = c.store.update(ctx, Local, func(t *txn) error {
		x := exchange{tx: c.newTx(ctx, t), redo: redo}
		err := x.run()
		result = x.result
		return err
	})
	if err != nil {
		doing := "undo"
		if redo {
			doing = "redo"
		}
		return Undone{}, fmt.Errorf("%s: %w", doing, err)
	}
	c.wake()
	return result, nil
}

// exchange undoes or redoes one group.
type exchange struct {
	tx      *Tx
	redo    bool
	renamed map[moveop.Timestamp]moveop.Timestamp // versions that were brought back
	gone    map[moveop.NodeID]bool                // nodes whose creation was undone
	kept    map[moveop.NodeID]bool                // nodes whose creation had to be kept
	result  Undone
}

func (x *exchange) run() error {
	t := x.tx.t
	group, ok, err := x.group()
	if err != nil || !ok {
		return err
	}
	steps, err := t.groupSteps(group, x.redo)
	if err != nil {
		return err
	}
	x.renamed = map[moveop.Timestamp]moveop.Timestamp{}
	x.gone, x.kept = map[moveop.NodeID]bool{}, map[moveop.NodeID]bool{}
	if err := x.steps(steps); err != nil {
		return err
	}
	if err := t.renameVersions(x.renamed); err != nil {
		return err
	}
	for _, step := range steps {
		if err := t.saveStep(step); err != nil {
			return err
		}
	}
	return x.finish(group)
}

// group returns the group whose turn it is.
func (x *exchange) group() (group int64, ok bool, err error) {
	h := &x.tx.t.meta.history
	query := `SELECT grp FROM undo WHERE grp <= ? ORDER BY grp DESC LIMIT 1`
	if x.redo {
		query = `SELECT grp FROM undo WHERE grp > ? ORDER BY grp LIMIT 1`
	}
	ok, err = x.tx.t.row(query, []any{h.next}, &group)
	return group, ok, err
}

// steps goes through a group: what was moved first, so that the nodes that were created are empty when
// they go; these from the top, so that one move takes along what was created below; properties last,
// but for those of nodes that are gone, or that have to stay because others use them.
func (x *exchange) steps(steps []*undoStep) error {
	var moves, created, sets []*undoStep
	for _, step := range steps {
		switch {
		case step.kind == moveop.Set:
			sets = append(sets, step)
		case step.created && !x.redo:
			created = append(created, step)
		default:
			moves = append(moves, step)
		}
	}
	if !x.redo {
		slices.Reverse(moves)
		slices.Reverse(sets)
	}
	if err := x.moves(moves); err != nil {
		return err
	}
	for _, step := range created {
		reason, err := x.uncreate(step)
		if err != nil {
			return err
		}
		x.kept[step.node] = reason == SkipInUse
		x.note(step, reason)
	}
	for _, step := range sets {
		reason, err := x.set(step)
		if err != nil {
			return err
		}
		x.note(step, reason)
	}
	return nil
}

// moves exchanges placements. One that would make a cycle, or whose place is gone, may have to wait
// for another one.
func (x *exchange) moves(todo []*undoStep) error {
	for progress := true; progress && len(todo) > 0; {
		progress = false
		var waiting []*undoStep
		for _, step := range todo {
			reason, err := x.move(step)
			if err != nil {
				return err
			}
			if reason == SkipCycle || reason == SkipPlaceGone {
				waiting = append(waiting, step)
				continue
			}
			progress = true
			x.note(step, reason)
		}
		todo = waiting
	}
	for _, step := range todo {
		reason, err := x.move(step)
		if err != nil {
			return err
		}
		x.note(step, reason)
	}
	return nil
}

func (x *exchange) note(step *undoStep, reason SkipReason) {
	change := UndoneChange{step.node, step.key, reason}
	if reason != "" {
		x.result.Skipped = append(x.result.Skipped, change)
		return
	}
	x.result.Done = append(x.result.Done, change)
	switch {
	case x.redo:
		step.state = stepDone
	case step.state == stepDone:
		step.state = stepUndone
	}
}

// move exchanges a placement, unless there is a reason not to.
func (x *exchange) move(step *undoStep) (SkipReason, error) {
	t := x.tx.t
	now, _, err := t.placement(step.node)
	if err != nil {
		return "", err
	}
	if now.ts != step.now {
		return SkipChanged, nil
	}
	if step.state == stepCovered {
		return "", nil
	}
	target, late := step.other, false
	if !x.redo {
		if target, late, err = t.overridden(step, now.known); err != nil {
			return "", err
		}
	}
	reason, err := x.obstacle(step.node, target.parent, now.known)
	if err != nil || reason != "" {
		return reason, err
	}
	return "", x.place(step, now, target, late)
}

// place brings a version of a node's placement back.
func (x *exchange) place(step *undoStep, now placement, target version, late bool) error {
	if err := x.tx.put(step.node, target.parent, target.text, now); err != nil {
		return err
	}
	x.exchanged(step, now.version(), late)
	return nil
}

// exchanged notes that the step's other version is there now, in place of was. A late one is not what
// the steps before it know.
func (x *exchange) exchanged(step *undoStep, was version, late bool) {
	issued := x.tx.t.meta.issued
	if !late && !step.other.ts.IsZero() {
		x.renamed[step.other.ts] = issued
	}
	step.now, step.other = issued, was
}

// obstacle returns what is in the way of a node's going back to a parent.
func (x *exchange) obstacle(node, parent moveop.NodeID, known int64) (SkipReason, error) {
	if parent == moveop.Trash {
		used, err := x.tx.t.usedByOthers(node, known)
		if used {
			return SkipInUse, err
		}
		return "", err
	}
	if err := x.tx.mustNotBeAbove(node, parent); err != nil {
		if errors.Is(err, ErrCycle) {
			return SkipCycle, nil
		}
		return "", err
	}
	if there, err := x.tx.reachable(parent); err != nil || there {
		return "", err
	}
	gone, err := x.tx.t.deletedByOthers(parent, known)
	if gone {
		return SkipPlaceGone, err
	}
	return "", err
}

// uncreate takes a node that the step created to Trash.
func (x *exchange) uncreate(step *undoStep) (SkipReason, error) {
	t := x.tx.t
	now, placed, err := t.placement(step.node)
	if err != nil {
		return "", err
	}
	if !placed || now.ts != step.now {
		return SkipChanged, nil
	}
	if x.gone[now.parent] || now.parent == moveop.Trash {
		step.state, x.gone[step.node] = stepCovered, true
		return "", nil
	}
	used, err := t.usedByOthers(step.node, 0)
	if err != nil || used {
		return SkipInUse, err
	}
	if _, late, err := t.overridden(step, now.known); err != nil || late {
		return SkipInUse, err
	}
	target := step.other
	if target.ts.IsZero() { // else it was redone, and goes back to where it was in Trash
		if target, err = x.trash(step.node); err != nil {
			return "", err
		}
	}
	x.gone[step.node] = true
	return "", x.place(step, now, target, false)
}

// trash is the end of Trash.
func (x *exchange) trash(node moveop.NodeID) (v version, err error) {
	gap, err := x.tx.gap(moveop.Trash, Last, node)
	if err != nil {
		return v, err
	}
	keys, err := x.tx.makeRoom(gap, 1)
	if err != nil {
		return v, err
	}
	return version{parent: moveop.Trash, text: keys[0]}, nil
}

// set exchanges a value.
func (x *exchange) set(step *undoStep) (SkipReason, error) {
	t := x.tx.t
	now, written, err := t.write(step.node, step.key)
	if err != nil {
		return "", err
	}
	if !written || now.TS != step.now {
		return SkipChanged, nil
	}
	if step.state == stepCovered {
		return "", nil
	}
	if x.kept[step.node] {
		return SkipInUse, nil
	}
	if x.gone[step.node] {
		step.state = stepCovered
		return "", nil
	}
	target, late := step.other, false
	if !x.redo {
		if target, late, err = t.overridden(step, now.Known); err != nil {
			return "", err
		}
	}
	if target.ts.IsZero() {
		target.text = "null"
	}
	if err := x.tx.write(&now, true, json.RawMessage(target.text)); err != nil {
		return "", err
	}
	x.exchanged(step, version{ts: now.TS, text: string(now.Value)}, late)
	return "", nil
}

// finish moves the group to the other side. The next edit begins a group of its own.
func (x *exchange) finish(group int64) error {
	h := &x.tx.t.meta.history
	h.ended = 0
	if len(x.result.Done) == 0 {
		return x.tx.t.forget(group, group)
	}
	if h.next = group; !x.redo {
		h.next--
	}
	return nil
}

// overridden returns what is to be there once a step is undone: the other version, unless somebody
// else's change has turned up between the two, unknown when the step was done.
func (t *txn) overridden(step *undoStep, known int64) (v version, late bool, err error) {
	const unknown = ` AND seq > ? AND substr(ts, 9) NOT IN (SELECT replica FROM own) ORDER BY ts DESC LIMIT 1`
	if step.kind == moveop.Move {
		late, err = t.row(`SELECT ts, parent, order_key FROM ops
			WHERE node = ? AND key = '' AND ts > ? AND ts < ? AND effective`+unknown,
			[]any{step.node[:], step.other.ts[:], step.now[:], known}, (*blob)(&v.ts), (*blob)(&v.parent), &v.text)
	} else {
		late, err = t.row(`SELECT ts, value FROM ops
			WHERE node = ? AND key = ? AND ts > ? AND ts < ?`+unknown,
			[]any{step.node[:], step.key, step.other.ts[:], step.now[:], known}, (*blob)(&v.ts), &v.text)
	}
	if err != nil || late {
		return v, late, err
	}
	return step.other, false, nil
}

// usedByOthers reports whether somebody else has put something below a node, or written a property
// there or in it, after a seq. Cost: what is below it; the cross joins keep the planner from going
// through everything instead.
func (t *txn) usedByOthers(node moveop.NodeID, after int64) (used bool, err error) {
	_, err = t.row(`WITH RECURSIVE down (node) AS (
			SELECT ?1 UNION SELECT n.node FROM down CROSS JOIN nodes n ON n.parent = down.node)
		SELECT EXISTS (SELECT 1 FROM down CROSS JOIN nodes n ON n.parent = down.node
				WHERE n.seq > ?2 AND substr(n.ts, 9) NOT IN (SELECT replica FROM own))
			OR EXISTS (SELECT 1 FROM down CROSS JOIN vals v ON v.node = down.node
				WHERE v.seq > ?2 AND substr(v.ts, 9) NOT IN (SELECT replica FROM own))`,
		[]any{node[:], after}, &used)
	return used, err
}

// deletedByOthers reports whether a node that is not in the visible tree is not there because of what
// somebody else did after a seq.
func (t *txn) deletedByOthers(node moveop.NodeID, after int64) (deleted bool, err error) {
	found, err := t.row(`WITH RECURSIVE up (node) AS (
			SELECT ?1 UNION SELECT n.parent FROM up CROSS JOIN nodes n ON n.node = up.node)
		SELECT n.seq > ?2 AND substr(n.ts, 9) NOT IN (SELECT replica FROM own)
		FROM up CROSS JOIN nodes n ON n.node = up.node WHERE n.parent = ?3`,
		[]any{node[:], after, moveop.Trash[:]}, &deleted)
	return deleted || !found, err
}
