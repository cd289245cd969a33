package tree

import (
	"container/heap"
	"fmt"
	"slices"

	"github.com/canopysync/canopy/moveop"
)

// Move is a move as the log holds it.
type Move struct {
	TS        moveop.Timestamp
	Node      moveop.NodeID
	Parent    moveop.NodeID
	Effective bool
}

// Log is the interface of Replay to a replica's move log. All times are exclusive bounds. An error comes
// from the storage and ends the replay; a storage that can fail runs the replay in a transaction.
type Log interface {
	// Newest returns the greatest timestamp of any move in the log, effective or not; zero if none.
	Newest() (moveop.Timestamp, error)
	// Horizon returns the time up to which the log is compacted: of the moves at or before it, the log
	// has only those that later moves need, and their flags never change. Zero if the log is complete.
	Horizon() moveop.Timestamp
	// NamedAsParent reports whether any move in the log, effective or not, has n as its parent.
	// A wrong true costs only time.
	NamedAsParent(n moveop.NodeID) (bool, error)
	// ParentBefore returns the parent in n's last effective move before t; ok is false if there is none.
	ParentBefore(n moveop.NodeID, t moveop.Timestamp) (parent moveop.NodeID, ok bool, err error)
	// NextEffective returns the timestamp of n's first effective move after t, or moveop.MaxTimestamp.
	NextEffective(n moveop.NodeID, t moveop.Timestamp) (moveop.Timestamp, error)
	// MovesOf appends every move of n between from and to, effective or not, in timestamp order.
	MovesOf(dst []Move, n moveop.NodeID, from, to moveop.Timestamp) ([]Move, error)
	// MovesIn appends the first moves of the whole log between from and to, in timestamp order, at most
	// limit.
	MovesIn(dst []Move, from, to moveop.Timestamp, limit int) ([]Move, error)
	// Add logs a new move with the given flag and records that its parent was named. If the move is its
	// node's newest effective move, Add makes it the node's current placement.
	Add(op moveop.Op, effective bool) error
	// SetEffective flips the flag of the logged move (m.Node, m.TS), whose old flag is m.Effective, and
	// keeps the node's current placement its last effective move. A node without one has no placement.
	SetEffective(m Move, effective bool) error
}

// CycleError reports recorded parents that form a cycle: this package did not write the log, or the log
// was damaged. It says nothing about the moves being applied.
type CycleError struct {
	Node moveop.NodeID    // a node of the cycle
	At   moveop.Timestamp // the parents are those just before this time
}

func (e *CycleError) Error() string {
	return fmt.Sprintf("damaged log: the parents of node %s just before %s form a cycle", e.Node, e.At)
}

// Replay adds moves to the log, in any order, and brings the effective flags up to date: afterwards
// a move is effective iff, in the state made by the effective moves before it, its node is neither
// its parent nor above it. The moves must not be in the log and must have distinct timestamps.
//
// Replay judges moves in timestamp order, so everything before the current one is final. When a flag
// changes, the tree differs from that time until the node's next effective move, and Replay judges again
// only the moves that this can affect (see affected). Cost: the depth of the tree for a move newer than
// all others; O(1) for a node that was never named as a parent, however late; otherwise the depth plus the
// number of moves that can flip, independent of how many moves came after.
//
// In a compacted log, a new move at or before the horizon is the correction of a delete that holds its
// node: it is effective, and affects only moves after the horizon.
func Replay(log Log, moves []moveop.Op) error {
	newest, err := log.Newest()
	if err != nil {
		return err
	}
	if !slices.IsSortedFunc(moves, byTime) {
		moves = slices.SortedFunc(slices.Values(moves), byTime)
	}
	r := replay{log: log, newest: newest, horizon: log.Horizon()}
	for len(moves) > 0 || len(r.queue) > 0 {
		if len(r.queue) > 0 && (len(moves) == 0 || r.queue[0].TS.Before(moves[0].TS)) {
			err = r.recheck(heap.Pop(&r.queue).(Move))
		} else {
			err = r.add(moves[0])
			moves = moves[1:]
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func byTime(a, b moveop.Op) int { return a.TS.Compare(b.TS) }

// replay is the state of one Replay call.
type replay struct {
	log    Log
	newest moveop.Timestamp // of all moves in the log

	horizon moveop.Timestamp

	queue  moveQueue // logged moves to look at again, all later than the one at hand
	queued map[moveop.Timestamp]struct{}
	buf    []Move
}

// add judges a new move and logs it.
func (r *replay) add(op moveop.Op) error {
	m := Move{TS: op.TS, Node: op.Node, Parent: op.Parent}
	effective, named, err := r.judge(m)
	if err != nil {
		return err
	}
	late := op.TS.Before(r.newest)
	if !late {
		r.newest = op.TS
	}
	if effective && named && late {
		if err := r.affected(m); err != nil {
			return err
		}
	}
	return r.log.Add(op, effective)
}

// recheck judges a logged move again.
func (r *replay) recheck(m Move) error {
	effective, named, err := r.judge(m)
	if err != nil || effective == m.Effective {
		return err
	}
	if named {
		if err := r.affected(m); err != nil {
			return err
		}
	}
	return r.log.SetEffective(m, effective)
}

// judge reports whether m is effective given the moves before it, and whether its node was ever
// named as a parent: if not, it is above nobody, so m is effective and nobody depends on it.
func (r *replay) judge(m Move) (effective, named bool, err error) {
	if m.Parent == m.Node {
		return false, true, nil
	}
	if named, err = r.log.NamedAsParent(m.Node); err != nil || !named || !r.horizon.Before(m.TS) {
		return true, named, err
	}
	inside, err := r.isAbove(m.Node, m.Parent, m.TS)
	return !inside, true, err
}

// isAbove walks the parents just before t up from below and reports whether it meets n. Brent's
// algorithm ends the walk on a circle.
func (r *replay) isAbove(n, below moveop.NodeID, t moveop.Timestamp) (bool, error) {
	mark, steps, limit := below, 0, 64
	for v := below; v != n; {
		parent, ok, err := r.log.ParentBefore(v, t)
		if err != nil || !ok {
			return false, err
		}
		if parent == mark {
			return false, &CycleError{Node: parent, At: t}
		}
		if steps++; steps == limit {
			mark, steps, limit = parent, 0, 2*limit
		}
		v = parent
	}
	return true, nil
}

// span is a node and a time, open at both ends, in which it is above a node of interest.
type span struct {
	node     moveop.NodeID
	from, to moveop.Timestamp
}

// affected queues the moves whose answer can change with m's flag. m takes node n from its parent q
// just before to p, or leaves it at q, until n's next effective move. A move (x → r) in between is
// answered by whether x is among r and the nodes above it; that changes only if n is one of them and
// x is above n through p or through q. So: follow p and q upwards through the time between, each
// parent for as long as it was one, and take every move of what is met while it was above.
//
// The flags that this reads may still be wrong after m's time, and the parents may even run in
// circles there. It is enough all the same: every change of a flag comes through here, so at any
// moment each move outside the queue agrees with the flags as they are.
func (r *replay) affected(m Move) error {
	q, ok, err := r.log.ParentBefore(m.Node, m.TS)
	if err != nil || ok && q == m.Parent {
		return err
	}
	end, err := r.log.NextEffective(m.Node, m.TS)
	if err != nil {
		return err
	}
	from := m.TS
	if from.Before(r.horizon) {
		from = r.horizon
	}
	todo := []span{{m.Parent, from, end}}
	if ok {
		todo = append(todo, span{q, from, end})
	}
	// n itself is above through neither: its own answer depends on what is above its new parent.
	seen := coverage{m.Node: {{m.Node, moveop.Timestamp{}, moveop.MaxTimestamp}}}
	work, budget := 0, 64
	for len(todo) > 0 {
		s := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, s := range seen.add(s) {
			if todo, err = r.follow(todo, s); err != nil {
				return err
			}
			work += 1 + len(r.buf)
		}
		if work >= budget {
			budget = 2 * work
			if done, err := r.queueAll(from, end, work); done || err != nil {
				return err
			}
		}
	}
	return nil
}

// follow queues the moves of s.node within s and appends its parents in that time to todo.
func (r *replay) follow(todo []span, s span) (_ []span, err error) {
	if r.buf, err = r.log.MovesOf(r.buf[:0], s.node, s.from, s.to); err != nil {
		return todo, err
	}
	parent, ok, err := r.log.ParentBefore(s.node, s.from)
	if err != nil {
		return todo, err
	}
	from := s.from
	for _, m := range r.buf {
		r.push(m)
		if !m.Effective {
			continue
		}
		if ok {
			todo = append(todo, span{parent, from, m.TS})
		}
		parent, ok, from = m.Parent, true, m.TS
	}
	if ok {
		todo = append(todo, span{parent, from, s.to})
	}
	return todo, nil
}

// queueAll queues everything between from and to if that is fewer moves than limit: then looking at
// all of them is cheaper than finding out which ones matter.
func (r *replay) queueAll(from, to moveop.Timestamp, limit int) (done bool, err error) {
	if r.buf, err = r.log.MovesIn(r.buf[:0], from, to, limit); err != nil || len(r.buf) == limit {
		return false, err
	}
	for _, m := range r.buf {
		r.push(m)
	}
	return true, nil
}

func (r *replay) push(m Move) {
	if _, ok := r.queued[m.TS]; ok {
		return
	}
	if r.queued == nil {
		r.queued = make(map[moveop.Timestamp]struct{})
	}
	r.queued[m.TS] = struct{}{}
	heap.Push(&r.queue, m)
}

// coverage is the time that has been followed already, by node: disjoint spans.
type coverage map[moveop.NodeID][]span

// add marks s as followed and returns the parts of it that were not yet.
func (c coverage) add(s span) []span {
	parts := []span{s}
	for _, old := range c[s.node] {
		var left []span
		for _, p := range parts {
			if !p.from.Before(old.to) || !old.from.Before(p.to) {
				left = append(left, p)
				continue
			}
			if p.from.Before(old.from) {
				left = append(left, span{p.node, p.from, old.from})
			}
			if old.to.Before(p.to) {
				left = append(left, span{p.node, old.to, p.to})
			}
		}
		parts = left
	}
	c[s.node] = append(c[s.node], parts...)
	return parts
}

// moveQueue is a heap.Interface ordered by timestamp.
type moveQueue []Move

func (q moveQueue) Len() int           { return len(q) }
func (q moveQueue) Less(i, j int) bool { return q[i].TS.Before(q[j].TS) }
func (q moveQueue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *moveQueue) Push(m any)        { *q = append(*q, m.(Move)) }
func (q *moveQueue) Pop() any {
	old := *q
	last := old[len(old)-1]
	*q = old[:len(old)-1]
	return last
}
