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
	"github.com/leanovate/gopter/prop"

	"github.com/canopysync/canopy/moveop"
)

// newSeed returns the seed from CANOPY_SEED or that of this hour, and a source of randomness made from
// it. Test processes that run side by side so try the same histories, each with its own engine: what
// agrees with the model in all of them agrees with one another.
func newSeed(t testing.TB) (int64, *rand.Rand) {
	t.Helper()
	seed := time.Now().Truncate(time.Hour).UnixNano()
	if text := os.Getenv("CANOPY_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseInt(text, 10, 64); err != nil {
			t.Fatalf("CANOPY_SEED: %v", err)
		}
	}
	return seed, rand.New(rand.NewPCG(uint64(seed), 0))
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

// part returns this suite's part of the numbers below n.
func (s Suite) part(n int) (numbers []int) {
	parts := max(s.Parts, 1)
	for i := range n {
		if n < parts || i%parts == s.Part {
			numbers = append(numbers, i)
		}
	}
	return numbers
}

// testHistories tries random histories, each by a seed of its own, and shrinks one that fails.
func testHistories(t *testing.T, s Suite) {
	seed, _ := newSeed(t)
	numbers := s.part(envInt(t, "CANOPY_HISTORIES", cmp.Or(s.Histories, 200)/thin))
	t.Logf("%d histories, CANOPY_SEED=%d", len(numbers), seed)
	property := prop.ForAll(func(steps []step) (bool, error) {
		err := s.tryHistory(t, steps)
		return err == nil, err
	}, genHistory)
	for _, i := range numbers {
		params := gopter.DefaultTestParametersWithSeed(seed + int64(i))
		params.MinSuccessfulTests = 1
		result := property.Check(params)
		if result.Passed() {
			continue
		}
		t.Errorf("repeat with CANOPY_SEED=%d CANOPY_HISTORIES=1: %s", seed+int64(i), result.Status)
		if result.Error != nil {
			t.Errorf("shrunk to: %v\n%s", result.Error, result.ErrorStack)
		}
		return
	}
}

// tryHistory lets clients edit with skewed clocks, know what they pulled, and push in pieces, some of
// them twice. A server that is tested takes the pushes next to the model, and is where the model is
// after every one. A replica takes the log that the model makes of them, corrections and all.
func (s Suite) tryHistory(t *testing.T, steps []step) error {
	policy := []Policy{RestoreMoveAndSet, RestoreMoveAndSet, RestoreMove, RestoreNever}[len(steps)%4]
	return s.withPair(t, policy, func(p *pair) error {
		if s.server {
			return p.tryServer(steps)
		}
		return p.tryReplica(NewServer(policy), steps)
	})
}

func (p *pair) tryServer(steps []step) error {
	n := newNetwork(p.model.(*Server), p.apply)
	err := n.run(steps)
	if err == nil {
		err = cmp.Or(p.repeat(n.pushed...), checkLog(p.engine.(ServerEngine)))
	}
	if err != nil {
		return fmt.Errorf("pushed\n%s%w", opsText(slices.Concat(n.pushed...)), err)
	}
	return nil
}

// tryReplica delivers the log of a history: in any order, cut anyhow, any number of times, it leaves
// the replica where the model is after every batch, and in the end where the server is.
func (p *pair) tryReplica(server *Server, steps []step) error {
	n := newNetwork(server, func(batch []moveop.Op) error {
		_, err := server.Apply(batch)
		return err
	})
	if err := n.run(steps); err != nil {
		return err
	}
	var all []moveop.Op
	for _, batch := range deliveries(server.log, steps) {
		all = append(all, batch...)
		if err := p.apply(batch); err != nil {
			return fmt.Errorf("delivered\n%s%w", opsText(all), err)
		}
	}
	if err := p.repeat(all); err != nil {
		return fmt.Errorf("delivered\n%s%w", opsText(all), err)
	}
	want, _ := server.State()
	got, err := p.engine.State()
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	if diff := Diff(want, got); diff != "" {
		return fmt.Errorf("delivered\n%sthe replica differs from the server:\n%s", opsText(all), diff)
	}
	return nil
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
