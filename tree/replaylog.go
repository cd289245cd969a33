package tree

import "github.com/canopysync/canopy/moveop"

// effective reports whether the logged move of n at ts is.
func (t *Tree) effective(ts moveop.Timestamp, n index) bool {
	row := t.nodes.at(n)
	if row.ts == ts {
		return true
	}
	h := t.history(row)
	return h.at(h.first(ts)).effective
}

// replayLog is a Tree as Replay sees it. It never fails.
type replayLog struct{ t *Tree }

func (l replayLog) row(n moveop.NodeID) *node {
	i := l.t.nodes.find(n)
	if i == none {
		return nil
	}
	return l.t.nodes.at(i)
}

func (l replayLog) Newest() (moveop.Timestamp, error) { return l.t.newestMove, nil }

// A Tree has the whole log.
func (l replayLog) Horizon() (none moveop.Timestamp) { return none }

func (l replayLog) NamedAsParent(n moveop.NodeID) (bool, error) {
	row := l.row(n)
	return row != nil && row.named(), nil
}

func (l replayLog) ParentBefore(n moveop.NodeID, t moveop.Timestamp) (moveop.NodeID, bool, error) {
	row := l.row(n)
	if row == nil || !row.placed() {
		return moveop.NodeID{}, false, nil
	}
	if row.ts.Before(t) {
		return l.t.nodes.at(row.parent).id, true, nil
	}
	h := l.t.history(row)
	for i := h.first(t) - 1; i >= 0; i-- {
		if m := h.at(i); m.effective {
			return l.t.nodes.at(m.parent).id, true, nil
		}
	}
	return moveop.NodeID{}, false, nil
}

func (l replayLog) NextEffective(n moveop.NodeID, t moveop.Timestamp) (moveop.Timestamp, error) {
	row := l.row(n)
	if row == nil || !t.Before(row.ts) {
		return moveop.MaxTimestamp, nil
	}
	h := l.t.history(row)
	for i := h.first(t); i < h.len(); i++ {
		if m := h.at(i); m.effective && t.Before(m.ts) {
			return m.ts, nil
		}
	}
	return row.ts, nil
}

func (l replayLog) MovesOf(dst []Move, n moveop.NodeID, from, to moveop.Timestamp) ([]Move, error) {
	row := l.row(n)
	if row == nil {
		return dst, nil
	}
	current := row.placed() && from.Before(row.ts) && row.ts.Before(to)
	h := l.t.history(row)
	for i := h.first(from); i < h.len(); i++ {
		m := h.at(i)
		if !m.ts.Before(to) {
			break
		}
		if current && row.ts.Before(m.ts) {
			dst, current = append(dst, l.move(row, row.placement())), false
		}
		if from.Before(m.ts) {
			dst = append(dst, l.move(row, *m))
		}
	}
	if current {
		dst = append(dst, l.move(row, row.placement()))
	}
	return dst, nil
}

func (l replayLog) MovesIn(dst []Move, from, to moveop.Timestamp, limit int) ([]Move, error) {
	for e := range l.t.timeline.after(from) {
		if limit == 0 || !e.ts.Before(to) {
			break
		}
		if e.kind() == moveop.Move {
			row := l.t.nodes.at(e.about())
			dst = append(dst, l.move(row, l.t.moveAt(row, e.ts)))
			limit--
		}
	}
	return dst, nil
}

// moveAt returns the node's move with that timestamp, which must be in the log.
func (t *Tree) moveAt(row *node, ts moveop.Timestamp) pastMove {
	if row.ts == ts {
		return row.placement()
	}
	h := t.history(row)
	return *h.at(h.first(ts))
}

func (l replayLog) move(row *node, m pastMove) Move {
	return Move{TS: m.ts, Node: row.id, Parent: l.t.nodes.at(m.parent).id, Effective: m.effective}
}

func (l replayLog) Add(op moveop.Op, effective bool) error {
	n, p := l.t.nodes.intern(op.Node), l.t.nodes.intern(op.Parent)
	l.t.log(op.TS, n, p)
	l.t.settle(n, newMove(op.TS, l.t.keys.add(op.OrderKey), p, effective))
	return nil
}

func (l replayLog) SetEffective(m Move, effective bool) error {
	n := l.t.nodes.find(m.Node)
	row := l.t.nodes.at(n)
	if row.ts == m.TS {
		l.t.revoke(n)
		return nil
	}
	h := l.t.history(row)
	i := h.first(m.TS)
	if !effective || m.TS.Before(row.ts) {
		h.at(i).effective = effective
		return nil
	}
	move := l.t.take(row, i)
	move.effective = true
	l.t.settle(n, move)
	return nil
}

// settle puts a move where it belongs: it becomes the placement if it is the node's last effective
// one, else it joins the past.
func (t *Tree) settle(n index, m pastMove) {
	row := t.nodes.at(n)
	if !m.effective || m.ts.Before(row.ts) {
		t.keep(row, m)
		return
	}
	if row.placed() {
		t.keep(row, row.placement())
	}
	t.place(n, m)
}

// revoke makes the node's placement an ineffective move of the past; the effective move before it,
// if there is one, takes its place.
func (t *Tree) revoke(n index) {
	row := t.nodes.at(n)
	old := row.placement()
	old.effective = false
	h := t.history(row)
	i := h.first(old.ts) - 1
	for i >= 0 && !h.at(i).effective {
		i--
	}
	if i < 0 {
		t.unplace(n)
	} else {
		t.place(n, t.take(row, i))
	}
	t.keep(row, old)
}
