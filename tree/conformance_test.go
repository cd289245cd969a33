package tree_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/proptest"
	"github.com/canopysync/canopy/tree"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	proptest.Conformance(t, proptest.Suite{
		New:        func(testing.TB, proptest.Policy) proptest.Engine { return engine{tree.New()} },
		Histories:  4000,
		SmallScope: -1,
	})
}

// engine is a Tree in the suite's terms.
type engine struct{ tree *tree.Tree }

func (e engine) Apply(ops []moveop.Op) ([]proptest.Result, error) {
	statuses, err := e.tree.Apply(ops...)
	switch {
	case errors.Is(err, tree.ErrConflict):
		return nil, fmt.Errorf("%w: %w", proptest.ErrConflict, err)
	case errors.Is(err, moveop.ErrInvalidOp):
		return nil, fmt.Errorf("%w: %w", proptest.ErrInvalid, err)
	case err != nil:
		return nil, err
	}
	results := make([]proptest.Result, len(statuses))
	for i, s := range statuses {
		results[i].Status = proptest.Status(s.String())
	}
	return results, nil
}

func (e engine) State() (proptest.State, error) {
	s := proptest.State{
		Nodes:     make(map[moveop.NodeID]proptest.Placement),
		Values:    make(map[proptest.Property]proptest.Write),
		Effective: make(map[moveop.Timestamp]bool),
		Digest:    e.tree.Digest(),
		Version:   e.tree.Version(),
	}
	for n := range e.tree.Nodes() {
		if p, ok := e.tree.Placement(n); ok {
			s.Nodes[n] = proptest.Placement(p)
		}
		for v := range e.tree.Values(n) {
			s.Values[proptest.Property{Node: n, Key: v.Key}] = proptest.Write{JSON: string(v.JSON), TS: v.TS}
		}
	}
	for op := range e.tree.Ops(moveop.Timestamp{}) {
		if effective, ok := e.tree.IsEffective(op.TS); ok {
			s.Effective[op.TS] = effective
		}
	}
	return s, nil
}

func (e engine) Children(parent moveop.NodeID) ([]moveop.NodeID, error) {
	children := slices.Collect(e.tree.Children(parent))
	if n := e.tree.NumChildren(parent); n != len(children) {
		return nil, fmt.Errorf("%d children are counted, %d are listed", n, len(children))
	}
	return children, nil
}
