package client

import (
	"cmp"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"github.com/canopysync/canopy/moveop"
)

// undoStep is the change of one undo step to one item: a node's placement (Kind Move) or a property (Kind Set). Undo
// and redo are the same exchange: the current version is replaced by other, and becomes other.
//
// A version is named by the timestamp of the operation that made it. The operation that brings an old version back
// has a new timestamp, which replaces the old name throughout the history; so does stamping anew.
type undoStep struct {
	group   int64
	n       int // the order within the group
	kind    moveop.Kind
	node    moveop.NodeID
	key     string
	state   stepState
	created bool // the node was not there before the step

	now   moveop.Timestamp // the version that the step left behind: the exchange needs it to be current
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

// history is where Undo and Redo are among the groups: those up to next can be undone, the last one
// first, those behind it can be redone. Next and ended are in the row of meta.
type history struct {
	next  int64
	ended int64 // when the last edit went into next, in Unix milliseconds; 0 closes the group

	first, last int64 // groups that there are; 0 where there are none
	steps       int64 // of all groups
}

func (h *history) canUndo() bool { return h.steps > 0 && h.first <= h.next }

func (h *history) canRedo() bool { return h.steps > 0 && h.last > h.next }

// load counts what is there.
func (h *history) load(s *session) error {
	if _, err := s.row(`SELECT count(*) FROM undo`, nil, &h.steps); err != nil {
		return fmt.Errorf("read undo history: %w", err)
	}
	return h.bounds(s)
}

// bounds looks up the first and the last group.
func (h *history) bounds(s *session) error {
	_, err := s.row(`SELECT coalesce((SELECT min(grp) FROM undo), 0), coalesce((SELECT max(grp) FROM undo), 0)`, nil,
		&h.first, &h.last)
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
	alone bool               // the edit shares its group with no other one
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
	h := &t.meta.history
	if r.over {
		return t.forget(h.first, h.last)
	}
	if len(r.steps) == 0 {
		return nil
	}
	if h.canRedo() {
		if err := t.forget(h.next+1, h.last); err != nil {
			return err
		}
	}
	now := t.store.now().UnixMilli()
	join := !r.alone && h.canUndo() && t.store.undo.joins(h.ended, now)
	if h.ended = now; r.alone {
		h.ended = 0
	}
	if join {
		return t.joinSteps(r.steps)
	}
	h.next++
	if h.last = h.next; h.steps == 0 {
		h.first = h.next
	}
	args := make([]any, 0, undoBulk.columns*len(r.steps))
	for i := range r.steps {
		r.steps[i].group, r.steps[i].n = h.next, i
		args = append(args, r.steps[i].args()...)
	}
	h.steps += int64(len(r.steps))
	if err := t.execBulk(undoBulk, args); err != nil {
		return err
	}
	return t.trim()
}

// joins reports whether an edit goes into the group of an earlier one.
func (o undoOptions) joins(ended, now int64) bool {
	pause := o.pause.Milliseconds()
	return pause > 0 && ended <= now && now-ended <= pause
}

// joinSteps adds steps to the last group.
func (t *txn) joinSteps(steps []undoStep) error {
	group, n := t.meta.history.next, 0
	if _, err := t.row(`SELECT max(n) + 1 FROM undo WHERE grp = ?`, []any{group}, &n); err != nil {
		return err
	}
	for i := range steps {
		steps[i].group, steps[i].n = group, n+i
		if err := t.joinStep(&steps[i]); err != nil {
			return err
		}
	}
	return t.trim()
}

// joinStep adds a step. If the group has one for the same item, the two become one that goes back to the version
// before the first, unless somebody else has changed the item in between.
func (t *txn) joinStep(step *undoStep) error {
	earlier, ok, err := t.loadStep(step)
	if err != nil {
		return err
	}
	if !ok {
		t.meta.history.steps++
	} else if earlier.now == step.other.ts {
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

// trimSlack is the part of the limit that is trimmed in addition to the excess, so that a long history is not trimmed
// with every edit.
const trimSlack = 16

// groundUndo completes steps that were made during the first load, without knowing the version that they overwrote.
func (t *txn) groundUndo() error {
	_, err := t.exec(`UPDATE undo SET (other_ts, other_text) = (SELECT ts, value FROM ops o
			WHERE o.node = undo.node AND o.key = undo.key AND o.ts < undo.ts ORDER BY o.ts DESC LIMIT 1)
		WHERE kind = 2 AND other_ts IS NULL AND state = ?`, int(stepDone))
	return err
}

// trim forgets the oldest groups beyond the limit.
func (t *txn) trim() error {
	h, limit := &t.meta.history, int64(max(t.store.undo.limit, 0))
	over := h.steps - limit
	if over <= 0 {
		return nil
	}
	upTo, err := t.groupAt(over + limit/trimSlack)
	if err == nil && upTo == h.last { // the newest one does not go for the slack only
		upTo, err = t.groupAt(over)
	}
	if err != nil {
		return err
	}
	return t.forget(h.first, upTo)
}

// groupAt returns the group that the n-th step from the oldest belongs to.
func (t *txn) groupAt(n int64) (group int64, err error) {
	_, err = t.row(`SELECT grp FROM undo ORDER BY grp LIMIT 1 OFFSET ?`, []any{n - 1}, &group)
	return group, err
}

// forget drops the groups from one to another.
func (t *txn) forget(from, to int64) error {
	n, err := t.exec(`DELETE FROM undo WHERE grp BETWEEN ? AND ?`, from, to)
	if err != nil {
		return err
	}
	t.meta.history.steps -= n
	return t.meta.history.bounds(t.session)
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
