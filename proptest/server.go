package proptest

import (
	"fmt"
	"slices"

	"github.com/canopysync/canopy/moveop"
)

// Server is the reference model of the server: a Model that numbers ops and corrects deletes whose authors did not
// know what they deleted.
type Server struct {
	model    *Model
	log      []moveop.Op // by Seq: log[i].Seq == i+1
	policy   Policy
	versions map[moveop.ReplicaID]moveop.Timestamp
}

// NewServer returns an empty room with the given restore_on policy.
func NewServer(restoreOn Policy) *Server {
	return &Server{
		model:    NewModel(),
		policy:   restoreOn,
		versions: make(map[moveop.ReplicaID]moveop.Timestamp),
	}
}

// Log implements ServerEngine.
func (s *Server) Log() ([]moveop.Op, error) { return slices.Clone(s.log), nil }

// State implements Engine.
func (s *Server) State() (State, error) { return s.model.State() }

// Apply implements Engine. It numbers the whole batch first, then the corrections.
func (s *Server) Apply(ops []moveop.Op) ([]Result, error) {
	if err := s.checkOrder(ops); err != nil {
		return nil, err
	}
	fresh, err := s.model.admit(ops)
	if err != nil {
		return nil, err
	}
	var batch []moveop.Op
	for i, op := range ops {
		if fresh[i] {
			batch = append(batch, s.number(op))
		}
	}
	effective := s.model.replay().Effective
	results := make([]Result, len(ops))
	for i, op := range ops {
		results[i] = Result{statusOf(op, fresh[i], effective), s.model.ops[op.TS].Seq}
	}
	slices.SortFunc(batch, func(a, b moveop.Op) int { return a.TS.Compare(b.TS) })
	for _, op := range batch {
		s.correctFor(op)
	}
	return results, nil
}

// checkOrder refuses a batch in which, or by which, a replica goes back in time, other than by
// repeating what is in the log.
func (s *Server) checkOrder(ops []moveop.Op) error {
	last := make(map[moveop.ReplicaID]moveop.Op)
	for _, op := range ops {
		r := op.TS.Replica()
		if !r.Valid() {
			return fmt.Errorf("%w: %s is not a replica's", ErrInvalid, opTime(op.TS))
		}
		if prev, ok := last[r]; ok && !prev.TS.Before(op.TS) {
			if prev.TS == op.TS && !prev.SameBody(op) {
				return fmt.Errorf("%w: %s", ErrConflict, opTime(op.TS))
			}
			return fmt.Errorf("%w: %s", ErrOutOfOrder, opTime(op.TS))
		}
		last[r] = op
		if _, known := s.model.ops[op.TS]; !known && !s.versions[r].Before(op.TS) {
			return fmt.Errorf("%w: %s", ErrOutOfOrder, opTime(op.TS))
		}
	}
	return nil
}

// number appends an admitted op to the log.
func (s *Server) number(op moveop.Op) moveop.Op {
	op.Seq = int64(len(s.log)) + 1
	s.log = append(s.log, op)
	s.model.ops[op.TS], s.model.state = op, nil
	if r := op.TS.Replica(); r.Valid() && s.versions[r].Before(op.TS) {
		s.versions[r] = op.TS
	}
	return op
}

// correctFor makes the corrections that a newly logged op calls for: for what it does itself, and,
// if it is a delete, for what its author did not know.
func (s *Server) correctFor(op moveop.Op) {
	if d, ok := s.deleteAbove(op.Node); ok && s.rescues(op, d) {
		s.lift(op.Node, op)
	}
	if !s.holds(op) {
		return
	}
	for _, o := range slices.Clone(s.log) {
		if o.Seq > op.Known && o.TS.Replica() != op.TS.Replica() && s.rescues(o, op) {
			s.lift(op.Node, o)
			return
		}
	}
}

// lift corrects the delete that holds n, then the one that holds what n went back under, and so on,
// as long as neither author knew of the other's op.
func (s *Server) lift(n moveop.NodeID, o moveop.Op) {
	for {
		d, ok := s.deleteAbove(n)
		if !ok || !s.concurrent(o, d) || !s.correct(d, o) {
			return
		}
		n = d.Node
	}
}

// deleteAbove returns the delete that n is in the Trash by: its own or one of a node above it.
func (s *Server) deleteAbove(n moveop.NodeID) (moveop.Op, bool) {
	state := s.model.replay()
	for {
		p, ok := state.Nodes[n]
		if !ok {
			return moveop.Op{}, false
		}
		if p.Parent == moveop.Trash {
			return s.model.ops[p.TS], true
		}
		n = p.Parent
	}
}

// holds reports whether op is a delete that is in force.
func (s *Server) holds(op moveop.Op) bool {
	return op.Kind == moveop.Move && op.Parent == moveop.Trash && s.model.replay().Nodes[op.Node].TS == op.TS
}

// rescues reports whether o is a reason to correct the delete d, which is in force: it survives
// inside d's node, or put that node where d took it from, and neither author knew of the other's op.
func (s *Server) rescues(o, d moveop.Op) bool {
	if s.policy == RestoreNever || o.TS.IsCorrection() || !s.concurrent(o, d) {
		return false
	}
	state := s.model.replay()
	if o.Kind == moveop.Set {
		return s.policy == RestoreMoveAndSet && state.inside(o.Node, d.Node) &&
			state.Values[Property{o.Node, o.Key}].TS == o.TS
	}
	if o.Node == d.Node {
		before, ok := s.placeBefore(d)
		return ok && before.TS == o.TS
	}
	return state.inside(o.Node, d.Node) && state.Nodes[o.Node].TS == o.TS
}

func (s *Server) concurrent(x, y moveop.Op) bool { return !s.knew(x, y) && !s.knew(y, x) }

// knew reports whether y's author knew of x.
func (s *Server) knew(x, y moveop.Op) bool {
	return x.Seq <= y.Known || x.TS.Replica() == y.TS.Replica() && x.TS.Before(y.TS)
}

// placeBefore is the last effective move of d's node before d that was not into the Trash.
func (s *Server) placeBefore(d moveop.Op) (last moveop.Op, ok bool) {
	effective := s.model.replay().Effective
	for _, op := range s.model.Ops() {
		if op.Kind == moveop.Move && op.Node == d.Node && op.TS.Before(d.TS) &&
			op.Parent != moveop.Trash && effective[op.TS] {
			last, ok = op, true
		}
	}
	return last, ok
}

// correct logs the correction of d for the sake of o, unless it is there already.
func (s *Server) correct(d, o moveop.Op) bool {
	c := moveop.Op{
		Kind: moveop.Move, TS: d.TS.Correction(), Node: d.Node, Parent: moveop.Root, OrderKey: d.OrderKey,
		Known: d.Seq, Cause: o.TS,
	}
	if _, ok := s.model.ops[c.TS]; ok {
		return false
	}
	if before, ok := s.placeBefore(d); ok {
		c.OrderKey = before.OrderKey
		if !s.stateBefore(c.TS).inside(before.Parent, c.Node) {
			c.Parent = before.Parent
		}
	}
	s.number(c)
	return true
}

// stateBefore is the tree as the moves before t make it.
func (s *Server) stateBefore(t moveop.Timestamp) State {
	var before []moveop.Op
	for _, op := range s.model.Ops() {
		if op.TS.Before(t) {
			before = append(before, op)
		}
	}
	return replayAll(before)
}
