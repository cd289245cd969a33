package tree

import (
	"iter"

	"github.com/canopysync/canopy/moveop"
)

// timeline orders all ops of the log by timestamp and says which node each is about. The ops
// themselves are kept with their nodes.
type timeline struct {
	events chunked[event]
}

// event is one op: of a node's moves if node >= 0, else of the sets of the node ^node.
type event struct {
	ts   moveop.Timestamp
	node index
}

func (e event) kind() moveop.Kind {
	if e.node < 0 {
		return moveop.Set
	}
	return moveop.Move
}

func (e event) about() index {
	if e.node < 0 {
		return ^e.node
	}
	return e.node
}

func (tl *timeline) add(ts moveop.Timestamp, n index, kind moveop.Kind) {
	if kind == moveop.Set {
		n = ^n
	}
	if last := tl.last(); last == nil || last.ts.Before(ts) {
		tl.events.push(event{ts, n})
		return
	}
	tl.events.insert(tl.search(ts), event{ts, n})
}

// search returns the place of the first event not before ts.
func (tl *timeline) search(ts moveop.Timestamp) place {
	return tl.events.search(func(e *event) bool { return e.ts.Before(ts) })
}

// find returns the event at ts, or nil.
func (tl *timeline) find(ts moveop.Timestamp) *event {
	if e := tl.events.at(tl.search(ts)); e != nil && e.ts == ts {
		return e
	}
	return nil
}

// after visits the events after ts.
func (tl *timeline) after(ts moveop.Timestamp) iter.Seq[*event] {
	return tl.events.from(tl.events.search(func(e *event) bool { return !ts.Before(e.ts) }))
}

func (tl *timeline) last() *event {
	k := len(tl.events.chunks) - 1
	if k < 0 {
		return nil
	}
	chunk := tl.events.chunks[k]
	return &chunk[len(chunk)-1]
}
