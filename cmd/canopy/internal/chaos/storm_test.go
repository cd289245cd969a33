//go:build unix

package chaos_test

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"
)

// rounds is the environment variable that says how long TestKilledAtRandom goes on: a number of rounds, or
// a duration.
const rounds = "CANOPY_CHAOS"

// defaultRounds are what CI has time for.
const defaultRounds = 12

// goesOn returns whether there is another round.
func goesOn(t *testing.T) func(round int) bool {
	text := os.Getenv(rounds)
	if text == "" {
		return func(round int) bool { return round <= defaultRounds }
	}
	if n, err := strconv.Atoi(text); err == nil {
		return func(round int) bool { return round <= n }
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("%s is %q, neither a number of rounds nor a duration", rounds, text)
	}
	end := time.Now().Add(d)
	return func(int) bool { return time.Now().Before(end) }
}

func TestKilledAtRandom(t *testing.T) {
	t.Parallel()
	w := setup(t)
	more := goesOn(t)
	for n := 1; more(n); n++ {
		passed := t.Run(fmt.Sprintf("round=%d", n), func(t *testing.T) {
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("with %s=%d", rounds, n)
				}
			})
			w.play(t, 3, (*round).storm)
		})
		if !passed {
			return
		}
	}
}

// storm is a round in which everybody edits while things go wrong one after the other. It may begin at a
// named point.
func (r *round) storm() {
	if r.rng.IntN(3) == 0 {
		p := points[r.rng.IntN(len(points))]
		victim := p.victims[r.rng.IntN(len(p.victims))]
		r.Logf("%s: %s", p.name, victim)
		release := p.reach(r)
		r.destroy(victim)
		release()
	}
	r.healPostgres() // to begin with
	for range 3 + r.rng.IntN(5) {
		for _, p := range r.people {
			if p.run.alive() && p.pending == 0 {
				p.send(order{Do: "edit", N: 10 + r.rng.IntN(20), Size: 400, Pause: 20 * time.Millisecond})
			}
		}
		m := mishaps[r.rng.IntN(len(mishaps))]
		r.Logf("%s", m.name)
		m.happens(r)
		r.pause(150 * time.Millisecond)
	}
}

// mishap is something that goes wrong at no point in particular. What it leaves broken heal makes whole.
type mishap struct {
	name    string
	happens func(r *round)
}

var mishaps = []mishap{
	{"a person is killed", func(r *round) { r.person().kill() }},
	{"a person is killed and comes back", func(r *round) {
		p := r.person()
		p.kill()
		p.start(death{})
	}},
	{"a person comes back to die at some transaction", func(r *round) {
		p := r.person()
		p.kill()
		p.start(death{
			Stage: stages[r.rng.IntN(len(stages))], Nth: 1 + r.rng.Int64N(30),
			Row: r.rng.Int64N(3), Bytes: r.rng.Int64N(9000),
		})
	}},
	{"somebody new comes", func(r *round) {
		if len(r.people) < 6 {
			r.newPerson().start(death{})
		}
	}},
	{"a service is killed", func(r *round) { r.service().kill() }},
	{"a service is killed and comes back", func(r *round) {
		s := r.service()
		s.kill()
		r.restart(s)
	}},
	{"a realtime service is told to stop and comes back", func(r *round) {
		s := r.world.realtime[r.rng.IntN(2)]
		s.database.heal() // it waits for what is under way
		if s.process().alive() {
			if code, err := s.terminate(); code != 0 || err != nil {
				r.Errorf("%s ends with code %d, %v\n%s", s.name, code, err, tail(s.log))
			}
		}
		r.restart(s)
	}},
	{"Postgres is killed", func(r *round) {
		r.killPostgres()
		r.pause(100 * time.Millisecond)
		r.healPostgres()
	}},
	{"connections are cut", func(r *round) { r.proxy().cut() }},
	{"connections are half closed", func(r *round) { r.proxy().halfClose() }},
	{"connections stall and go on", func(r *round) {
		g := r.gate()
		g.hold(r.rng.IntN(5000))
		r.pause(300 * time.Millisecond)
		g.release()
	}},
	{"connections stall and are cut", func(r *round) {
		p := r.proxy()
		p.up.hold(r.rng.IntN(5000))
		p.down.hold(r.rng.IntN(5000))
		r.pause(300 * time.Millisecond)
		p.cut()
		p.up.release()
		p.down.release()
	}},
	{"connections stall", func(r *round) { r.gate().hold(r.rng.IntN(5000)) }},
	{"connections are refused", func(r *round) {
		p := r.proxy()
		p.refuse(true)
		p.cut()
	}},
	{"bad weather", func(r *round) {
		p := r.proxy()
		p.setWeather(&weather{seed: r.rng.Uint64(), mean: 500 + r.rng.IntN(20_000)})
		p.cut()
	}},
	{"a clock jumps", func(r *round) {
		p := r.person()
		p.clock = time.Duration(r.rng.Int64N(int64(4*time.Hour))) - 2*time.Hour
		if r.rng.IntN(4) == 0 {
			p.clock *= 10_000
		}
		p.send(order{Do: "clock", Clock: p.clock})
	}},
	{"a disk is full for a while", func(r *round) {
		p := r.person()
		p.send(order{Do: "disk", Disk: r.rng.Int64N(300_000)})
		p.send(order{Do: "edit", N: 5, Size: 5000})
		p.send(order{Do: "disk", Disk: -1})
	}},
}

func (r *round) person() *person { return r.people[r.rng.IntN(len(r.people))] }

func (r *round) service() *service {
	all := r.services()
	return all[r.rng.IntN(len(all))]
}

func (r *round) restart(s *service) {
	r.Helper()
	s.database.heal() // or it may not come up
	if err := s.heal(); err != nil {
		r.Fatalf("%v\n%s", err, tail(s.log))
	}
}

// proxy is one of all.
func (r *round) proxy() *proxy {
	switch p := r.person(); r.rng.IntN(4) {
	case 0:
		return r.service().database
	case 1:
		return p.bootstrap
	default:
		return p.realtime
	}
}

func (r *round) gate() *gate {
	p := r.proxy()
	if r.rng.IntN(2) == 0 {
		return &p.up
	}
	return &p.down
}

// pause lets things take their course, for half of most to most.
func (r *round) pause(most time.Duration) {
	timer := time.NewTimer(most/2 + time.Duration(r.rng.Int64N(int64(most/2))))
	defer timer.Stop()
	<-timer.C
}
