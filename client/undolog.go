package client

import (
	"cmp"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"github.com/canopysync/canopy/moveop"
)

// undoStep is what one step of Undo did to one thing: a node's placement (Kind Move), or a property
// (Kind Set). Undo and redo are the same exchange: what is there is replaced by Other, and is Other
// afterwards.
//
// A version is named by the operation that made it. The operation that brings an old version back has
// a timestamp of its own, which takes the place of the old name throughout the history; so does one
// that is stamped anew.
type undoStep struct {
	group   int64
	n       int // the order within the group
	kind    moveop.Kind
	node    moveop.NodeID
	key     string
	state   stepState
	created bool // the node was not there before the step

	now   moveop.Timestamp // what the step left behind: it may be exchanged while that is there
	other version
}

// version is a placement or a value as it was once. Without a timestamp it stands for nothing.
type version struct {
	ts     moveop.Timestamp
	parent moveop.NodeID
	text   string // order key or value
}

func (p placement) version() version { return version{p.ts, p.parent, p.orderKey} }

// stepState says whether Undo or Redo is next. A step that Undo had to skip stays done.
type stepState int

const (
	stepDone stepState = iota
	stepUndone
	stepCovered // undone without an operation: what was created above it went away with it
)

type undoOptions struct {
	limit int
	pause time.Duration
}

// history is the size of the undo tables: groups to undo and to redo, and their steps.
type history struct{ undo, redo, steps int64 }

func (h *history) load(s *session) error {
	err := s.once(`SELECT count(*) FILTER (WHERE undone = 0), count(*) FILTER (WHERE undone = 1), coalesce(sum(steps), 0)
		FROM undo_groups`, &h.undo, &h.redo, &h.steps)
	if err != nil {
		return fmt.Errorf("read undo history: %w", err)
	}
	return nil
}

// recorder gathers the steps of one edit.
type recorder struct {
	limit int // 0 records nothing
	steps []undoStep
	index map[undoTarget]int // in steps
	over  bool               // there were more than limit
}

type undoTarget struct {
	kind moveop.Kind
	node moveop.NodeID
	key  string
}

// record notes that op replaces a version.
func (r *recorder) record(op *moveop.Op, was version) {
	if r.limit <= 0 || r.over {
		return
	}
	target := undoTarget{op.Kind, op.Node, op.Key}
	if i, ok := r.index[target]; ok {
		r.steps[i].now = op.TS
		return
	}
	if len(r.steps) == r.limit {
		r.over, r.steps, r.index = true, nil, nil
		return
	}
	if r.index == nil {
		r.index = map[undoTarget]int{}
	}
	r.index[target] = len(r.steps)
	r.steps = append(r.steps, undoStep{
		kind: op.Kind, node: op.Node, key: op.Key, now: op.TS, other: was,
		created: op.Kind == moveop.Move && was.ts.IsZero(),
	})
}

// remember puts what an edit did into the history. What was undone cannot be redone any more.
func (t *txn) remember(r *recorder) error {
	if r.over {
		return t.forget(`1`)
	}
	if len(r.steps) == 0 {
		return nil
	}
	if t.meta.history.redo > 0 {
		if err := t.forget(`undone = 1`); err != nil {
			return err
		}
	}
	group, n, err := t.openGroup(len(r.steps))
	if err != nil {
		return err
	}
	if n > 0 {
		return t.joinSteps(group, n, r.steps)
	}
	args := make([]any, 0, undoBulk.columns*len(r.steps))
	for i := range r.steps {
		r.steps[i].group, r.steps[i].n = group, i
		args = append(args, r.steps[i].args()...)
	}
	t.meta.history.undo++
	t.meta.history.steps += int64(len(r.steps))
	if err := t.execBulk(undoBulk, args); err != nil {
		return err
	}
	return t.trim()
}

// joinSteps adds steps to a group of earlier edits.
func (t *txn) joinSteps(group int64, n int, steps []undoStep) error {
	for i := range steps {
		steps[i].group, steps[i].n = group, n+i
		if err := t.joinStep(&steps[i]); err != nil {
			return err
		}
	}
	_, err := t.exec(`UPDATE undo_groups SET steps = (SELECT count(*) FROM undo WHERE grp = ?1) WHERE grp = ?1`, group)
	if err != nil {
		return err
	}
	if err := t.meta.history.load(t.session); err != nil {
		return err
	}
	return t.trim()
}

// openGroup returns the group that an edit goes to, and the number of its next step: the last group,
// where that is young enough to be joined, or a new one for so many steps, from 0.
func (t *txn) openGroup(steps int) (group int64, n int, err error) {
	now := t.store.now().UnixMilli()
	var ended int64
	found, err := t.row(`SELECT grp, ended FROM undo_groups ORDER BY grp DESC LIMIT 1`, nil, &group, &ended)
	if err != nil {
		return 0, 0, err
	}
	if pause := t.store.undo.pause.Milliseconds(); !found || pause <= 0 || now-ended > pause || now < ended {
		group++
		_, err = t.exec(`INSERT INTO undo_groups VALUES (?, 0, ?, ?)`, group, now, steps)
		return group, 0, err
	}
	if _, err := t.exec(`UPDATE undo_groups SET ended = ? WHERE grp = ?`, now, group); err != nil {
		return 0, 0, err
	}
	_, err = t.row(`SELECT max(n) + 1 FROM undo WHERE grp = ?`, []any{group}, &n)
	return group, n, err
}

// joinStep adds a step. Where the group has one for the same thing, they become one, that goes back to
// what was there before the first, unless somebody else had a hand in it in between.
func (t *txn) joinStep(step *undoStep) error {
	earlier, ok, err := t.loadStep(step)
	if err != nil {
		return err
	}
	if ok && earlier.now == step.other.ts {
		step.other, step.created = earlier.other, earlier.created
	}
	return t.saveStep(step)
}

const undoColumns = `grp, n, kind, node, key, state, created, ts, other_ts, other_parent, coalesce(other_text, '')`

func (step *undoStep) scan() []any {
	return []any{
		&step.group, &step.n, &step.kind, (*blob)(&step.node), &step.key, &step.state, &step.created,
		(*blob)(&step.now), (*blob)(&step.other.ts), (*blob)(&step.other.parent), &step.other.text,
	}
}

// loadStep returns the step of the same group for the same thing.
func (t *txn) loadStep(like *undoStep) (step undoStep, ok bool, err error) {
	ok, err = t.row(`SELECT `+undoColumns+` FROM undo WHERE grp = ? AND kind = ? AND node = ? AND key = ?`,
		[]any{like.group, int(like.kind), like.node[:], like.key}, step.scan()...)
	return step, ok, err
}

func (t *txn) saveStep(step *undoStep) error { return t.execBulk(undoBulk, step.args()) }

var undoBulk = newBulk(`INSERT OR REPLACE INTO undo
	(grp, n, kind, node, key, state, created, ts, other_ts, other_parent, other_text) VALUES `, 11, "")

// args is a row of undo, for undoBulk.
func (step *undoStep) args() []any {
	var text any
	if !step.other.ts.IsZero() {
		text = step.other.text
	}
	return []any{
		step.group, step.n, int(step.kind), step.node[:], step.key, int(step.state), step.created,
		step.now[:], orNull(step.other.ts), orNull(step.other.parent), text,
	}
}

// groupSteps returns the steps of a group that are done, or those that are not, in order.
func (t *txn) groupSteps(group int64, undone bool) (steps []*undoStep, err error) {
	err = t.each(`SELECT `+undoColumns+` FROM undo WHERE grp = ? AND (state > 0) = ?`, []any{group, undone},
		func(rows *sql.Rows) error {
			step := &undoStep{}
			steps = append(steps, step)
			return rows.Scan(step.scan()...)
		})
	slices.SortFunc(steps, func(a, b *undoStep) int { return cmp.Compare(a.n, b.n) })
	return steps, err
}

// trim forgets the oldest groups beyond the limit.
func (t *txn) trim() error {
	for t.meta.history.steps > int64(max(t.store.undo.limit, 0)) {
		if err := t.forget(`grp = (SELECT min(grp) FROM undo_groups)`); err != nil {
			return err
		}
	}
	return nil
}

// forget drops the groups for which a condition holds.
func (t *txn) forget(condition string, args ...any) error {
	_, err := t.exec(`DELETE FROM undo WHERE grp IN (SELECT grp FROM undo_groups WHERE `+condition+`)`, args...)
	if err != nil {
		return err
	}
	if _, err := t.exec(`DELETE FROM undo_groups WHERE `+condition, args...); err != nil {
		return err
	}
	return t.meta.history.load(t.session)
}

// renameVersions follows operations that were given other timestamps, or were repeated under them.
// Cost: the length of the history.
func (t *txn) renameVersions(renamed map[moveop.Timestamp]moveop.Timestamp) error {
	if len(renamed) == 0 {
		return nil
	}
	var changed []undoStep
	err := t.each(`SELECT `+undoColumns+` FROM undo`, nil, func(rows *sql.Rows) error {
		var step undoStep
		if err := rows.Scan(step.scan()...); err != nil {
			return err
		}
		now, isNow := renamed[step.now]
		other, isOther := renamed[step.other.ts]
		if isNow {
			step.now = now
		}
		if isOther {
			step.other.ts = other
		}
		if isNow || isOther {
			changed = append(changed, step)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i := range changed {
		if err := t.saveStep(&changed[i]); err != nil {
			return err
		}
	}
	return nil
}
