//go:build unix

package chaos_test

import (
	"testing"
	"time"
)

// point is a place at which things can end. Reach brings a round to it, and returns when it is there;
// what it returns lets go on what is still alive.
type point struct {
	name    string
	reach   func(r *round) (release func())
	victims []string
}

// The author is the first person, whose push is under way; the reader is the second one.
var points = []point{
	{"before the lock", (*round).reachLock, []string{"author", "realtime", "postgres", "backend"}},
	{"after the insert", (*round).reachInsert, []string{"author", "realtime", "postgres", "backend"}},
	{"before commit", (*round).reachCommit, []string{"author", "realtime", "postgres", "backend"}},
	{"after commit", (*round).reachCommitted, []string{"author", "realtime", "postgres", "database connection"}},
	{"before ack", (*round).reachAck, []string{"author", "realtime", "postgres", "author's connection"}},
	{"in ack", (*round).reachInAck, []string{"author", "realtime", "author's connection"}},
	{"mid fan-out", (*round).reachFanOut, []string{"author", "reader", "realtime", "postgres", "reader's connection"}},
	{"mid COPY", (*round).reachCopy, []string{"newcomer", "bootstrap", "postgres", "newcomer's connection", "copy connection"}},
	{"mid snapshot", (*round).reachSnapshot, []string{"newcomer", "bootstrap", "postgres", "newcomer's connection"}},
}

func TestKilledAtNamedPoints(t *testing.T) {
	t.Parallel()
	w := setup(t)
	for _, p := range points {
		for _, victim := range p.victims {
			t.Run(p.name+"/"+victim, func(t *testing.T) {
				w.play(t, 3, func(r *round) {
					release := p.reach(r)
					r.destroy(victim)
					release()
				})
			})
		}
	}
}

// author is the one whose push is to get to a point. The reader uses the same realtime service, the second
// person the other one.
func (r *round) author() *person   { return r.people[0] }
func (r *round) authors() *service { return r.world.realtime[0] }
func (r *round) reader() *person   { return r.people[1] }
func (r *round) newcomer() *person { return r.people[len(r.people)-1] }
func (r *round) head() int64 {
	return r.number(r, "select head from canopy.rooms where name = $1", r.room)
}

// write has the author make an edit, and does not wait.
func (r *round) write() { r.author().must(order{Do: "edit", N: 3, Size: 300}) }

func (r *round) reachLock() func() {
	lock := r.blockRoom()
	r.write()
	r.applying()
	return func() { unblock(lock) }
}

func (r *round) reachInsert() func() {
	lock := r.blockGate(afterInsert)
	r.write()
	r.applying()
	return func() { unblock(lock) }
}

func (r *round) reachCommit() func() {
	lock := r.blockGate(beforeCommit)
	r.write()
	r.applying()
	return func() { unblock(lock) }
}

// reachCommitted stops where the transaction is committed and the realtime service does not know.
func (r *round) reachCommitted() func() {
	head := r.head()
	lock := r.blockGate(beforeCommit)
	r.write()
	r.applying()
	answer := r.authors().database.down.hold(0)
	unblock(lock)
	await(r, "the transaction is committed", func() bool { return r.head() > head })
	held(r, "the answer to the transaction", answer)
	return r.authors().database.down.release
}

// reachAck stops where the realtime service has answered and the author has not heard it.
func (r *round) reachAck() func() { return r.reachAckAfter(0) }

// reachInAck stops some bytes further, in the frame of the ack or of the operations.
func (r *round) reachInAck() func() { return r.reachAckAfter(1 + r.rng.IntN(120)) }

func (r *round) reachAckAfter(bytes int) func() {
	head := r.head()
	ack := r.author().realtime.down.hold(bytes)
	r.write()
	await(r, "the push is committed", func() bool { return r.head() > head })
	held(r, "the ack", ack)
	return r.author().realtime.down.release
}

// reachFanOut stops where one socket of a service got all of a large batch, and another one the beginning.
func (r *round) reachFanOut() func() {
	ops := r.reader().realtime.down.hold(1 + r.rng.IntN(4000))
	r.author().must(order{Do: "grow", N: 100, Size: 50})
	r.author().must(order{Do: "sync"})
	held(r, "the operations", ops)
	return r.reader().realtime.down.release
}

// fill makes the room too large for the buffers between Postgres and a client.
func (r *round) fill() {
	r.author().must(order{Do: "grow", N: 25, Size: 60_000})
	r.author().must(order{Do: "sync"})
}

// reachCopy stops in the middle of what Postgres sends the bootstrap service.
func (r *round) reachCopy() func() {
	r.fill()
	p := r.newPerson()
	var gates []<-chan struct{}
	for _, s := range r.world.bootstrap {
		gates = append(gates, s.database.down.hold(20_000+r.rng.IntN(500_000)))
	}
	p.start(death{})
	select {
	case <-gates[0]:
	case <-gates[1]:
	case <-time.After(patience):
		r.Fatal("no COPY comes so far")
	}
	const copying = othersSQL + " and state = 'active' and query ilike 'copy%'"
	await(r, "a COPY is under way", func() bool { return r.number(r, copying) > 0 })
	return func() {
		for _, s := range r.world.bootstrap {
			s.database.down.release()
		}
	}
}

// reachSnapshot stops in the middle of what the bootstrap service sends a newcomer.
func (r *round) reachSnapshot() func() {
	r.fill()
	p := r.newPerson()
	gate := p.bootstrap.down.hold(1 + r.rng.IntN(500_000))
	p.start(death{})
	held(r, "the snapshot", gate)
	return p.bootstrap.down.release
}

// destroy ends something. Processes that are not clients are started again at once.
func (r *round) destroy(victim string) {
	r.Helper()
	switch victim {
	case "author":
		r.author().kill()
	case "reader":
		r.reader().kill()
	case "newcomer":
		r.newcomer().kill()
	case "realtime":
		r.authors().kill()
	case "bootstrap":
		for _, s := range r.world.bootstrap {
			s.kill()
		}
	case "postgres":
		r.killPostgres()
	case "backend":
		const terminate = "select count(pg_terminate_backend(pid)) from (" +
			"select pid from pg_stat_activity where wait_event_type = 'Lock' and query like '%canopy.apply%(%') as waiting"
		if r.number(r, terminate) == 0 {
			r.Error("there is no backend to end")
		}
	case "database connection":
		r.authors().database.cut()
	case "copy connection":
		for _, s := range r.world.bootstrap {
			s.database.cut()
		}
	case "author's connection":
		r.author().realtime.cut()
	case "reader's connection":
		r.reader().realtime.cut()
	case "newcomer's connection":
		r.newcomer().bootstrap.cut()
	default:
		r.Fatalf("there is no %s", victim)
	}
}
