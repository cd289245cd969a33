//go:build unix

package chaos_test

import (
	"os"
	"slices"
	"testing"
	"time"
)

var stages = []stage{stageRow, stageCommit, stageTorn, stageWritten}

// A client process is killed at its first transaction, at its second, and so on through all of them: making
// the file, loading the snapshot, applying what others do, editing, taking acks, and stamping the outbox
// anew when the clock was wrong. In CI the stages take turns; with CANOPY_CHAOS each has its own turn at
// every transaction.
func TestKilledAroundEveryClientTransaction(t *testing.T) {
	t.Parallel()
	w := setup(t)
	if os.Getenv(rounds) == "" {
		t.Run("in turn", func(t *testing.T) {
			w.play(t, 2, func(r *round) { r.killAtEach(stages...) })
		})
		return
	}
	for _, s := range stages {
		t.Run(string(s), func(t *testing.T) {
			w.play(t, 2, func(r *round) { r.killAtEach(s) })
		})
	}
}

// fewest is how many transactions a newcomer makes at least, and how many of its deaths have to come about:
// a row may be planned that the transaction does not have, and a frame that fits into the log's old end.
const (
	fewest     = 15
	fewestDied = fewest * 2 / 3
)

func (r *round) killAtEach(stages ...stage) {
	died := 0
	first := r.rng.IntN(len(stages))
	for nth := int64(1); ; nth++ {
		at := death{Stage: stages[(first+int(nth))%len(stages)], Nth: nth, Row: r.rng.Int64N(3), Bytes: r.rng.Int64N(9000)}
		p := r.newPerson()
		made, done := r.liveUntil(p, at)
		if !done {
			died++
		}
		p.heal()
		r.check()
		r.dismiss(p)
		if r.Failed() {
			r.Fatalf("after the death of %s at %+v", p.plan.Name, at)
		}
		if done && made < nth {
			if nth <= fewest || died < fewestDied {
				r.Errorf("only %d transactions, at which it died %d times", made, died)
			}
			r.Logf("%d transactions, died at %d", made, died)
			return
		}
	}
}

// liveUntil lets somebody live who dies at a point; done is set, and the number of transactions told, where
// that did not come about.
func (r *round) liveUntil(p *person, at death) (made int64, done bool) {
	r.author().must(order{Do: "edit", N: 2, Size: 100})
	p.start(at)
	for _, o := range []order{
		{Do: "sync"},
		{Do: "edit", N: 3, Size: 100},
		{Do: "sync"},
		{Do: "clock", Clock: time.Hour},
		{Do: "edit", N: 1, Size: 100},
		{Do: "sync"},
	} {
		if o.Do == "clock" {
			p.clock = o.Clock
		}
		got, ok := p.ask(o)
		if !ok {
			return 0, false
		}
		// A torn write fails before the process is gone.
		if got.What != "done" && at.Stage != stageTorn {
			r.Fatalf("%s, told to %s: %+v\n%s", p.plan.Name, o.Do, got, tail(p.log))
		}
		made = got.Commits
	}
	return made, true
}

// dismiss has somebody leave who is not needed any more.
func (r *round) dismiss(p *person) {
	p.must(order{Do: "close"})
	<-p.run.exited
	r.people = slices.DeleteFunc(r.people, func(other *person) bool { return other == p })
	r.dismissed++
}
