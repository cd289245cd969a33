package proptest

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/leanovate/gopter"
	"github.com/leanovate/gopter/gen"
	"github.com/leanovate/gopter/prop"

	"github.com/canopysync/canopy/moveop"
)

// historyLen is one more than the most steps of a history.
const historyLen = 60

// newSeed returns the seed from CANOPY_SEED or a fresh one, and a source of randomness made from it.
func newSeed(t testing.TB) (int64, *rand.Rand) {
	t.Helper()
	seed := time.Now().UnixNano()
	if text := os.Getenv("CANOPY_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseInt(text, 10, 64); err != nil {
			t.Fatalf("CANOPY_SEED: %v", err)
		}
	}
	return seed, rand.New(rand.NewPCG(uint64(seed), 0))
}

// histories returns how many histories to try.
func (s Suite) histories(t testing.TB) int {
	t.Helper()
	return envInt(t, "CANOPY_HISTORIES", cmp.Or(s.Histories, 200))
}

// envInt returns the number in an environment variable, or the default.
func envInt(t testing.TB, name string, byDefault int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return byDefault
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// testHistories tries random histories and shrinks one that fails.
func testHistories(t *testing.T, s Suite) {
	seed, _ := newSeed(t)
	t.Logf("repeat with CANOPY_SEED=%d", seed)
	params := gopter.DefaultTestParametersWithSeed(seed)
	params.MinSuccessfulTests = s.histories(t)
	params.MaxSize = historyLen
	property := replicaProperty(t, s)
	if _, ok := s.New(t, RestoreMoveAndSet).(ServerEngine); ok {
		property = serverProperty(t, s)
	}
	result := property.Check(params)
	if result.Passed() {
		return
	}
	t.Errorf("history %d with CANOPY_SEED=%d: %s", result.Succeeded, seed, result.Status)
	if result.Error != nil {
		t.Errorf("shrunk to: %v\n%s", result.Error, result.ErrorStack)
	}
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
		Kind: moveop.Move, TS: ts, Node: n, Parent: node(name(e.Parent)), OrderKey: orderKey(name(e.Key)),
	}
}

// replicaStep is one op of a history and how it is delivered.
type replicaStep struct {
	Edit   edit
	Millis int64 // few, so that many ops share one
	Delay  int   // how many later ops may arrive before it
	Again  int   // if > 0, it arrives a second time, so much later
	Cut    bool  // a batch ends behind it
}

func genReplicaStep(params *gopter.GenParameters) *gopter.GenResult {
	rng := params.Rng
	step := replicaStep{Edit: genEdit(params), Millis: rng.Int63n(12), Cut: rng.Intn(3) > 0}
	if rng.Intn(2) == 0 {
		step.Delay = rng.Intn(historyLen)
	}
	if rng.Intn(5) == 0 {
		step.Again = rng.Intn(historyLen)
	}
	return gopter.NewGenResult(step, gopter.NoShrinker)
}

// replicaBatches are the ops of a history as they arrive.
func replicaBatches(steps []replicaStep) (batches [][]moveop.Op) {
	type arrival struct {
		rank int
		cut  bool
		op   moveop.Op
	}
	type reading struct{ millis, author int64 }
	var arrivals []arrival
	taken := make(map[reading]uint16)
	for i, step := range steps {
		at := reading{step.Millis, int64(step.Edit.Author)}
		op := step.Edit.op(moveop.NewTimestamp(step.Millis, taken[at], replica("abc"[step.Edit.Author])))
		taken[at]++
		arrivals = append(arrivals, arrival{i + step.Delay, step.Cut, op})
		if step.Again > 0 {
			arrivals = append(arrivals, arrival{i + step.Delay + step.Again, step.Cut, op})
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

// replicaProperty: ops in any order, cut anyhow into batches, any number of times, leave the engine
// where the model is after every batch.
func replicaProperty(t *testing.T, s Suite) gopter.Prop {
	return prop.ForAll(func(steps []replicaStep) (bool, error) {
		p := s.newPair(t, RestoreMoveAndSet)
		var all []moveop.Op
		for _, batch := range replicaBatches(steps) {
			all = append(all, batch...)
			if err := p.apply(batch); err != nil {
				return false, fmt.Errorf("delivered\n%s%w", opsText(all), err)
			}
		}
		if err := p.repeat(all); err != nil {
			return false, fmt.Errorf("delivered\n%s%w", opsText(all), err)
		}
		return true, nil
	}, gen.SliceOf(genReplicaStep))
}

// serverStep is one thing that one client does.
type serverStep struct {
	Edit    edit // Edit.Author is the client
	Action  action
	Elapsed int64 // ms since the step before
	Ops     int   // of a push: how many ops of the outbox
}

type action int

const (
	actEdit     action = iota // makes an op and keeps it in the outbox
	actPush                   // pushes some of the outbox and learns the answer
	actPushLost               // the same, but never gets the answer, and will push again
	actPull                   // learns what happened
)

func genServerStep(params *gopter.GenParameters) *gopter.GenResult {
	rng := params.Rng
	actions := []action{actEdit, actEdit, actEdit, actEdit, actPush, actPush, actPushLost, actPull}
	return gopter.NewGenResult(serverStep{
		Edit: genEdit(params), Action: actions[rng.Intn(len(actions))],
		Elapsed: rng.Int63n(3), Ops: 1 + rng.Intn(6),
	}, gopter.NoShrinker)
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

// network is clients in front of one server.
type network struct {
	pair    *pair
	clients []*client
	now     int64
	pushed  [][]moveop.Op
}

func newNetwork(p *pair) *network {
	n := &network{pair: p}
	for i := range editAuthors {
		n.clients = append(n.clients, &client{id: replica("abc"[i]), skew: 4 * int64(i)})
	}
	return n
}

func (n *network) step(s serverStep) error {
	n.now += s.Elapsed
	c := n.clients[s.Edit.Author]
	switch s.Action {
	case actEdit:
		op := s.Edit.op(c.stamp(n.now))
		op.Known = c.known
		c.outbox = append(c.outbox, op)
	case actPush:
		return n.push(c, s.Ops, false)
	case actPushLost:
		return n.push(c, s.Ops, true)
	case actPull:
		head, err := n.head()
		c.known = head
		return err
	}
	return nil
}

func (n *network) push(c *client, ops int, lost bool) error {
	batch := c.outbox[:min(ops, len(c.outbox))]
	if len(batch) == 0 {
		return nil
	}
	n.pushed = append(n.pushed, batch)
	if err := n.pair.apply(batch); err != nil || lost {
		return err
	}
	c.outbox = c.outbox[len(batch):]
	return nil
}

func (n *network) head() (int64, error) {
	log, err := n.pair.model.(ServerEngine).Log()
	return int64(len(log)), err
}

// settle pushes all that is left, then everything once more.
func (n *network) settle() error {
	for _, c := range n.clients {
		if err := n.push(c, len(c.outbox), false); err != nil {
			return err
		}
	}
	for _, batch := range n.pushed {
		if err := n.pair.repeat(batch); err != nil {
			return err
		}
	}
	return nil
}

// serverProperty: clients that edit with skewed clocks, know what they pulled, and push in pieces,
// some of them twice, find the engine where the model is after every push; and its log alone says it
// all.
func serverProperty(t *testing.T, s Suite) gopter.Prop {
	policies := []Policy{RestoreMoveAndSet, RestoreMoveAndSet, RestoreMove, RestoreNever}
	return prop.ForAll(func(steps []serverStep) (bool, error) {
		n := newNetwork(s.newPair(t, policies[len(steps)%len(policies)]))
		run := func() error {
			for _, step := range steps {
				if err := n.step(step); err != nil {
					return err
				}
			}
			return errors.Join(n.settle(), checkLog(n.pair.engine.(ServerEngine)))
		}
		if err := run(); err != nil {
			return false, fmt.Errorf("pushed\n%s%w", opsText(slices.Concat(n.pushed...)), err)
		}
		return true, nil
	}, gen.SliceOf(genServerStep))
}

// checkLog checks what holds of every server, without the model: sequence numbers without a gap, at
// most one correction of a delete, made for an op that is concurrent to it, and a log that leads any
// replica to the server's state.
func checkLog(e ServerEngine) error {
	log, err := e.Log()
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	replica, byTime := NewModel(), make(map[moveop.Timestamp]moveop.Op)
	for i, op := range log {
		if op.Seq != int64(i)+1 {
			return fmt.Errorf("op %d of the log has number %d", i+1, op.Seq)
		}
		byTime[op.TS] = op
	}
	if len(byTime) != len(log) {
		return fmt.Errorf("a log of %d ops has %d timestamps", len(log), len(byTime))
	}
	for _, op := range log {
		if op.TS.IsCorrection() {
			if err := checkCorrection(op, byTime); err != nil {
				return err
			}
		}
	}
	if _, err := replica.Apply(log); err != nil {
		return fmt.Errorf("replay the log: %w", err)
	}
	want, _ := replica.State()
	got, err := e.State()
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	if diff := Diff(want, got); diff != "" {
		return errors.New("the log leads a replica elsewhere:\n" + diff)
	}
	return nil
}

func checkCorrection(c moveop.Op, byTime map[moveop.Timestamp]moveop.Op) error {
	ts := c.TS
	ts[8] &^= 0x80
	d, ok := byTime[ts]
	cause, hasCause := byTime[c.Cause]
	if !ok || d.Parent != moveop.Trash || d.Node != c.Node || c.Parent == moveop.Trash {
		return fmt.Errorf("%s corrects no delete", opText(c))
	}
	if !hasCause || cause.TS.IsCorrection() || cause.Seq <= d.Known || d.Seq <= cause.Known ||
		cause.TS.Replica() == d.TS.Replica() {
		return fmt.Errorf("%s is for the sake of an op that is not concurrent with %s", opText(c), opText(d))
	}
	return nil
}
