package proptest

import (
	"fmt"
	"maps"
	"slices"

	"github.com/canopysync/canopy/moveop"
)

// Model is the reference model of a replica: the set of ops, replayed from the beginning for the first query after a
// change. Keep it simple rather than fast.
type Model struct {
	ops   map[moveop.Timestamp]moveop.Op
	state *State // what ops make; nil until somebody asks
}

// NewModel returns an empty model.
func NewModel() *Model { return &Model{ops: make(map[moveop.Timestamp]moveop.Op)} }

// Apply implements Engine.
func (m *Model) Apply(ops []moveop.Op) ([]Result, error) {
	fresh, err := m.admit(ops)
	if err != nil {
		return nil, err
	}
	effective := m.replay().Effective
	results := make([]Result, len(ops))
	for i, op := range ops {
		results[i].Status = statusOf(op, fresh[i], effective)
	}
	return results, nil
}

func statusOf(op moveop.Op, fresh bool, effective map[moveop.Timestamp]bool) Status {
	switch {
	case !fresh:
		return StatusDuplicate
	case op.Kind == moveop.Set || effective[op.TS]:
		return StatusApplied
	}
	return StatusIneffective
}

// admit adds a batch to the set, or none of it, and says which ops were not in it yet.
func (m *Model) admit(ops []moveop.Op) (fresh []bool, err error) {
	all := maps.Clone(m.ops)
	for _, op := range ops {
		if op.Kind == moveop.Move && op.Node.IsReserved() {
			return nil, fmt.Errorf("%w: %s moves %s", ErrInvalid, opTime(op.TS), nodeName(op.Node))
		}
		old, ok := all[op.TS]
		if ok && !old.SameBody(op) {
			return nil, fmt.Errorf("%w: %s", ErrConflict, opTime(op.TS))
		}
		fresh = append(fresh, !ok)
		if !ok {
			all[op.TS] = op
		}
	}
	m.ops, m.state = all, nil
	return fresh, nil
}

// State implements Engine.
func (m *Model) State() (State, error) { return m.replay(), nil }

// Ops returns the set in timestamp order.
func (m *Model) Ops() []moveop.Op {
	return slices.SortedFunc(maps.Values(m.ops), func(a, b moveop.Op) int { return a.TS.Compare(b.TS) })
}

func (m *Model) replay() State {
	if m.state == nil {
		state := replayAll(m.Ops())
		m.state = &state
	}
	return *m.state
}

// replayAll is the specification of the tree: the moves in timestamp order, each one effective
// unless its node is its parent or an ancestor of its parent.
func replayAll(ops []moveop.Op) State {
	s := State{
		Nodes:     make(map[moveop.NodeID]Placement),
		Values:    make(map[Property]Write),
		Effective: make(map[moveop.Timestamp]bool),
		Version:   make(map[moveop.ReplicaID]moveop.Timestamp),
	}
	for _, op := range ops {
		s.Digest.Ops++
		s.Digest.Log ^= op.LogHash()
		s.Version[op.TS.Replica()] = op.TS
		if op.Kind == moveop.Set {
			s.Values[Property{op.Node, op.Key}] = Write{string(op.Value), op.TS}
			continue
		}
		s.Effective[op.TS] = !s.inside(op.Parent, op.Node)
		if s.Effective[op.TS] {
			s.Nodes[op.Node] = Placement{op.Parent, op.OrderKey, op.TS}
		}
	}
	s.Digest.State = s.hash()
	return s
}

// inside reports whether n is top or below top.
func (s State) inside(n, top moveop.NodeID) bool {
	for {
		if n == top {
			return true
		}
		p, ok := s.Nodes[n]
		if !ok {
			return false
		}
		n = p.Parent
	}
}
