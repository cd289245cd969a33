//go:build unix

package chaos_test

import (
	"encoding/json"
	"strings"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/proptest"
	"github.com/canopysync/canopy/realtime/wire"
	"github.com/canopysync/canopy/tree"
)

// check gets everybody in step, and checks what was promised: that it works at all (no outbox is stuck),
// that everybody and the services have one digest, that it is the digest of the log replayed from
// nothing, that the log has no holes, and that every edit that was kept is in it, once.
func (r *round) check() {
	r.Helper()
	r.sync()
	log := r.readLog()
	want := r.replay(log)
	for _, s := range r.services() {
		if stats := r.stats(s); stats.Digest != want || stats.Head != int64(len(log)) {
			r.Errorf("%s has %+v, the log has %d operations that make %+v", s.name, stats, len(log), want)
		}
	}
	for _, p := range r.people {
		got := p.must(order{Do: "doctor"})
		if got.Digest != want || got.Seq != int64(len(log)) || got.Pending != 0 || got.Refused != 0 || got.Mismatches != 0 {
			r.Errorf("%s is left with %+v, the log has %d operations that make %+v", p.plan.Name, got, len(log), want)
		}
		r.checkJournal(p, got.Edits, log)
	}
}

// stats asks a service for the room's. Connections that Postgres' death broke may fail it at first.
func (r *round) stats(s *service) (stats wire.Stats) {
	r.Helper()
	await(r, s.name+" says how the room is", func() bool {
		text, err := s.get("/v1/rooms/" + r.room + "/stats")
		return err == nil && json.Unmarshal([]byte(text), &stats) == nil
	})
	return stats
}

// readLog returns the room's log, which must be numbered from 1 on without a hole.
func (r *round) readLog() (log []moveop.Op) {
	r.Helper()
	db := r.db(r)
	defer db.Close()
	for {
		ops, err := db.OpsAfter(r.Context(), r.room, int64(len(log)), 10_000)
		if err != nil {
			r.Fatal(err)
		}
		if len(ops) == 0 {
			return log
		}
		for _, op := range ops {
			if log = append(log, op); op.Seq != int64(len(log)) {
				r.Fatalf("seq %d follows %d", op.Seq, len(log)-1)
			}
		}
	}
}

// modelLimit is the length of a log that the reference model, which is slow, still replays.
const modelLimit = 5000

// replay returns the digest of what the log makes in memory.
func (r *round) replay(log []moveop.Op) moveop.Digest {
	r.Helper()
	memory := tree.New()
	if _, err := memory.Apply(log...); err != nil {
		r.Fatalf("replay the log: %v", err)
	}
	if memory.Digest().Ops != int64(len(log)) {
		r.Errorf("of the log's %d operations %d are different", len(log), memory.Digest().Ops)
	}
	if len(log) > modelLimit {
		return memory.Digest()
	}
	model := proptest.NewModel()
	if _, err := model.Apply(log); err != nil {
		r.Fatalf("replay the log through the model: %v", err)
	}
	state, err := model.State()
	if err == nil {
		err = state.Check()
	}
	if err != nil || state.Digest != memory.Digest() {
		r.Errorf("the log makes %+v in memory, %+v in the model: %v", memory.Digest(), state.Digest, err)
	}
	return state.Digest
}

// checkJournal checks that the log has the edits of a person, each once and in order: those that were kept
// are not lost, none is there twice, and of none that was not kept there is a trace.
func (r *round) checkJournal(p *person, edits int64, log []moveop.Op) {
	r.Helper()
	p.mu.Lock()
	kept := p.kept
	p.mu.Unlock()
	if edits < kept {
		r.Errorf("%s has %d edits, and was told that %d were kept", p.plan.Name, edits, kept)
	}
	var n int64
	for i := range log {
		if log[i].Kind != moveop.Set || log[i].Node != moveop.Root || log[i].Key != journalKey(p.plan.Name) {
			continue
		}
		var line entry
		if err := json.Unmarshal(log[i].Value, &line); err != nil || line.N != n+1 {
			r.Errorf("edit %d of %s follows %d in the log: %v", line.N, p.plan.Name, n, err)
		}
		n = line.N
	}
	if n != edits {
		r.Errorf("the log has %d edits of %s, its file %d", n, p.plan.Name, edits)
	}
}

// othersSQL counts the connections of anybody but the one who asks.
const othersSQL = `
	select count(*)
	  from pg_stat_activity
	 where backend_type = 'client backend'
	   and pid <> pg_backend_pid()`

// checkNothingLeft checks that when nobody uses the services they have no sockets, no goroutines beyond
// those of a service at rest, and no transaction, and that Postgres has no connection that nobody holds.
func (r *round) checkNothingLeft() {
	r.Helper()
	for _, p := range r.people {
		await(r, "no connection of "+p.plan.Name, func() bool { return p.realtime.count()+p.bootstrap.count() == 0 })
	}
	for _, s := range r.world.realtime {
		await(r, s.name+" has no socket", func() bool { return r.metric(s, "canopy_realtime_sockets") == 0 })
		if n := r.metric(s, "canopy_realtime_panics_total"); n != 0 {
			r.Errorf("%s has panicked %g times", s.name, n)
		}
	}
	for _, s := range r.services() {
		r.checkGoroutines(s)
	}
	await(r, "no transaction is left", func() bool { return r.number(r, othersSQL+" and state <> 'idle'") == 0 })
	await(r, "as many connections as are held", func() bool {
		held := 0
		for _, s := range r.services() {
			held += s.database.count()
		}
		return r.number(r, othersSQL) == int64(held)
	})
}

// roomGoroutines is how many goroutines a room in memory has.
const roomGoroutines = 2

func (r *round) checkGoroutines(s *service) {
	r.Helper()
	rooms := func() float64 { return 0 }
	if strings.HasPrefix(s.name, "realtime") {
		rooms = func() float64 { return r.metric(s, "canopy_realtime_rooms") }
	}
	await(r, s.name+" has no goroutine too many", func() bool {
		return r.metric(s, "go_goroutines")-roomGoroutines*rooms() <= restGoroutines
	})
}

// restGoroutines is how many goroutines a service that nobody uses has at most: 8 to 13 were counted, in which
// the request for the count is one.
const restGoroutines = 16

func (r *round) metric(s *service, name string) float64 {
	r.Helper()
	value, err := s.metric(name)
	if err != nil {
		r.Fatalf("%v\n%s", err, tail(s.log))
	}
	return value
}
