package tree

import (
	"iter"
	"slices"
	"sort"

	"github.com/canopysync/canopy/moveop"
)

// pastMove is a move that is not its node's placement: superseded, or not effective.
type pastMove struct {
	ts        moveop.Timestamp
	key       keyRef
	parent    index
	before    pastRef // in the chain that it is part of
	effective bool
}

func newMove(ts moveop.Timestamp, key keyRef, parent index, effective bool) pastMove {
	return pastMove{ts: ts, key: key, parent: parent, before: noPast, effective: effective}
}

// pasts holds the past moves of all nodes, in the order in which they became past. So a move in order,
// which supersedes one, writes at the end of it and to rows that it has at hand already, and to no
// memory that was last touched when its node moved last.
type pasts struct {
	pages []*[pageLen]pastMove
	count pastRef
	free  pastRef // chain of those that became placements again
}

// pastRef is the number of a past move.
type pastRef int32

const noPast pastRef = -1

func (p *pasts) at(r pastRef) *pastMove { return &p.pages[r>>pageShift][r&(pageLen-1)] }

func (p *pasts) add(m pastMove) pastRef {
	r := p.free
	if r != noPast {
		p.free = p.at(r).before
	} else {
		if r = p.count; r&(pageLen-1) == 0 {
			p.pages = append(p.pages, new([pageLen]pastMove))
		}
		p.count++
	}
	*p.at(r) = m
	return r
}

func (p *pasts) drop(r pastRef) {
	p.at(r).before = p.free
	p.free = r
}

// keep puts m among the node's past moves.
func (t *Tree) keep(row *node, m pastMove) {
	m.before = row.recent
	row.recent = t.pasts.add(m)
}

// past visits the node's past moves in no useful order.
func (t *Tree) past(row *node) iter.Seq[*pastMove] {
	return func(yield func(*pastMove) bool) {
		for r := row.recent; r != noPast; r = t.pasts.at(r).before {
			if !yield(t.pasts.at(r)) {
				return
			}
		}
		if row.more == nil {
			return
		}
		for _, r := range row.more.past {
			if !yield(t.pasts.at(r)) {
				return
			}
		}
	}
}

// history is a node's past moves by timestamp.
type history struct {
	moves *pasts
	refs  []pastRef
}

// history returns the node's past moves by timestamp. Those that became past since it was last wanted
// are put in order now: each of them once, so that the cost is that of having moved so often.
func (t *Tree) history(row *node) history {
	if row.recent == noPast {
		if row.more == nil {
			return history{}
		}
		return history{&t.pasts, row.more.past}
	}
	more := row.extend()
	h := history{&t.pasts, more.past}
	ordered := len(h.refs)
	for r := row.recent; r != noPast; r = t.pasts.at(r).before {
		h.refs = append(h.refs, r)
	}
	row.recent = noPast
	late := h.refs[ordered:]
	slices.Reverse(late)
	for i, r := range late {
		h.refs = h.refs[:ordered+i]
		h.insert(r)
	}
	more.past = h.refs
	return h
}

func (h history) len() int { return len(h.refs) }

func (h history) at(i int) *pastMove { return h.moves.at(h.refs[i]) }

// first returns the position of the first move that is not before ts.
func (h history) first(ts moveop.Timestamp) int {
	return sort.Search(len(h.refs), func(i int) bool { return !h.at(i).ts.Before(ts) })
}

// insert puts a move where it belongs; the newest ones, most of all, belong at the end.
func (h *history) insert(r pastRef) {
	i := len(h.refs)
	if ts := h.moves.at(r).ts; i > 0 && ts.Before(h.at(i-1).ts) {
		i = h.first(ts)
	}
	h.refs = slices.Insert(h.refs, i, r)
}

// take removes the i-th of the node's past moves and returns it.
func (t *Tree) take(row *node, i int) pastMove {
	r := row.more.past[i]
	m := *t.pasts.at(r)
	row.more.past = slices.Delete(row.more.past, i, i+1)
	t.pasts.drop(r)
	return m
}
