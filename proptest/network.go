package proptest

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/leanovate/gopter"
	"github.com/leanovate/gopter/gen"

	"github.com/canopysync/canopy/moveop"
)

// step is one thing that one client of a history does, and how the op in the same place of the log
// reaches a replica.
type step struct {
	Edit     edit // Edit.Author is the client
	Action   action
	Elapsed  int64 // ms since the step before: few, so that clocks often agree
	Ops      int   // of a push: how many ops of the outbox
	Delivery delivery
}

type action int

const (
	actEdit     action = iota // makes an op and keeps it in the outbox
	actPush                   // pushes some of the outbox and learns the answer
	actPushLost               // the same, but never gets the answer, and will push again
	actPushAll                // everybody pushes at once, and the server makes one batch of it
	actPull                   // learns what happened
)

// delivery says how an op of the log reaches a replica.
type delivery struct {
	Delay int  // how many later ops may arrive before it
	Again int  // if > 0, it arrives a second time, so much later
	Cut   bool // a batch ends behind it
}

// historyLen is the most steps of a history.
const historyLen = 60

// genHistory draws the steps of a history.
func genHistory(params *gopter.GenParameters) *gopter.GenResult {
	steps := make([]step, 1+params.Rng.Intn(historyLen))
	for i := range steps {
		steps[i] = genStep(params)
	}
	return gopter.NewGenResult(steps, gen.SliceShrinker(gopter.NoShrinker))
}

func genStep(params *gopter.GenParameters) step {
	rng := params.Rng
	actions := []action{actEdit, actEdit, actEdit, actEdit, actEdit, actPush, actPush, actPushLost, actPushAll, actPull}
	s := step{
		Edit: genEdit(params), Action: actions[rng.Intn(len(actions))],
		Elapsed: rng.Int63n(3), Ops: 1 + rng.Intn(6),
	}
	s.Delivery.Cut = rng.Intn(3) > 0
	if rng.Intn(2) == 0 {
		s.Delivery.Delay = rng.Intn(historyLen)
	}
	if rng.Intn(5) == 0 {
		s.Delivery.Again = rng.Intn(historyLen)
	}
	return s
}

// edit is what a random step does to the tree, by small numbers, so that much of it collides.
type edit struct {
	Author int // 0 …
	Set    bool
	Node   int // 0 … editNodes-1
	Parent int // the same, then Root, then Trash
	Key    int
}

const (
	editNodes   = 5
	editAuthors = 3
	editKeys    = 3
)

func genEdit(params *gopter.GenParameters) edit {
	rng := params.Rng
	return edit{
		Author: rng.Intn(editAuthors),
		Set:    rng.Intn(6) == 0,
		Node:   rng.Intn(editNodes),
		Parent: rng.Intn(editNodes + 2),
		Key:    rng.Intn(editKeys),
	}
}

// op is the edit made at ts.
func (e edit) op(ts moveop.Timestamp) moveop.Op {
	name := func(i int) string {
		return [editNodes + 2]string{"A", "B", "C", "D", "E", rootName, trashName}[i]
	}
	n := node(name(e.Node))
	if e.Set {
		value := []string{`"x"`, `null`, `{"n":1}`}[e.Parent%3]
		return moveop.Op{Kind: moveop.Set, TS: ts, Node: n, Key: fmt.Sprintf("k%d", e.Key), Value: []byte(value)}
	}
	return moveop.Op{
		Kind: moveop.Move, TS: ts, Node: n, Parent: node(name(e.Parent)),
		OrderKey: orderKey([editKeys]string{"A", "b", "C"}[e.Key]), // not in a dictionary's order
	}
}

// client is a client of the simulated network: an outbox, a clock and a cursor.
type client struct {
	id     moveop.ReplicaID
	skew   int64 // ms that its clock is ahead
	last   moveop.Timestamp
	known  int64
	outbox []moveop.Op
}

// stamp returns a timestamp newer than the client's last one.
func (c *client) stamp(now int64) moveop.Timestamp {
	ts := moveop.NewTimestamp(now+c.skew, 0, c.id)
	if !c.last.Before(ts) {
		ts = moveop.NewTimestamp(c.last.Millis(), c.last.Counter()+1, c.id)
	}
	c.last = ts
	return ts
}

// network is clients in front of one server, which alone knows what they can have seen.
type network struct {
	server  *Server
	apply   func(batch []moveop.Op) error // pushes to the server, and to what is tested next to it
	clients []*client
	now     int64
	pushed  [][]moveop.Op
}

func newNetwork(server *Server, apply func(batch []moveop.Op) error) *network {
	n := &network{server: server, apply: apply}
	for i := range editAuthors {
		n.clients = append(n.clients, &client{id: replica("abc"[i]), skew: 4 * int64(i)})
	}
	return n
}

// run takes all steps, then pushes all that is left.
func (n *network) run(steps []step) error {
	for _, s := range steps {
		if err := n.step(s); err != nil {
			return err
		}
	}
	for _, c := range n.clients {
		for len(c.outbox) > 0 {
			if err := n.push(len(c.outbox), false, c); err != nil {
				return err
			}
		}
	}
	return nil
}

func (n *network) step(s step) error {
	n.now += s.Elapsed
	c := n.clients[s.Edit.Author]
	switch s.Action {
	case actEdit:
		op := s.Edit.op(c.stamp(n.now))
		op.Known = c.known
		c.outbox = append(c.outbox, op)
	case actPush:
		return n.push(s.Ops, false, c)
	case actPushLost:
		return n.push(s.Ops, true, c)
	case actPushAll:
		return n.push(s.Ops, false, n.clients...)
	case actPull:
		c.known = int64(len(n.server.log))
	}
	return nil
}

// push applies up to so many ops of each client's outbox, as one batch.
func (n *network) push(ops int, lost bool, clients ...*client) error {
	var batch []moveop.Op
	for _, c := range clients {
		batch = append(batch, c.outbox[:min(ops, len(c.outbox))]...)
	}
	if len(batch) == 0 {
		return nil
	}
	err := n.apply(batch)
	if errors.Is(err, ErrTooOld) {
		for _, c := range clients {
			c.rebase(n.server, n.now)
		}
		return nil
	}
	if errors.Is(err, ErrPurged) {
		return nil // what named them is out of the outboxes
	}
	n.pushed = append(n.pushed, batch)
	if err != nil || lost {
		return err
	}
	for _, c := range clients {
		c.outbox = c.outbox[min(ops, len(c.outbox)):]
	}
	return nil
}

// deliveries are the ops of a log as they reach a replica: in any order, cut anyhow into batches, some
// of them twice.
func deliveries(log []moveop.Op, steps []step) (batches [][]moveop.Op) {
	type arrival struct {
		rank int
		cut  bool
		op   moveop.Op
	}
	var arrivals []arrival
	for i, op := range log {
		d := steps[i%len(steps)].Delivery
		arrivals = append(arrivals, arrival{i + d.Delay, d.Cut, op})
		if d.Again > 0 {
			arrivals = append(arrivals, arrival{i + d.Delay + d.Again, d.Cut, op})
		}
	}
	slices.SortStableFunc(arrivals, func(a, b arrival) int { return cmp.Compare(a.rank, b.rank) })
	var batch []moveop.Op
	for i, a := range arrivals {
		batch = append(batch, a.op)
		if a.cut || i == len(arrivals)-1 {
			batches, batch = append(batches, batch), nil
		}
	}
	return batches
}
