package realtime_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/pgfuncs/pgtest"
	"github.com/canopysync/canopy/realtime"
	"github.com/canopysync/canopy/realtime/wire"
)

// fakeHints is a transport that the test drives.
type fakeHints struct {
	mu        sync.Mutex // guards published
	published []string
	do        chan func(hear func(string, int64), live func(bool))
}

func newFakeHints() *fakeHints {
	return &fakeHints{do: make(chan func(func(string, int64), func(bool)))}
}

func (f *fakeHints) Publish(room string, head int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.published = append(f.published, fmt.Sprint(room, " ", head))
}

func (f *fakeHints) Run(ctx context.Context, hear func(string, int64), live func(bool)) {
	for {
		select {
		case do := <-f.do:
			do(hear, live)
		case <-ctx.Done():
			return
		}
	}
}

func (f *fakeHints) live(v bool) { f.do <- func(_ func(string, int64), live func(bool)) { live(v) } }

func (f *fakeHints) hear(room string, head int64) {
	f.do <- func(hear func(string, int64), _ func(bool)) { hear(room, head) }
}

func setupHints(t testing.TB) (*service, *fakeHints) {
	hints := newFakeHints()
	return setupPipe(t, func(cfg *realtime.Config) {
		cfg.Hints = hints
		cfg.Timing.HintedPoll, cfg.Timing.Head = time.Minute, time.Minute
	}), hints
}

func TestCommitsArePublished(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, hints := setupHints(t)
		p := s.join("plan", 0xa)
		p.push(2)
		p.push(1)
		p.send(wire.Push{ID: "again", Ops: []moveop.Op{moveBy(0xa, 1)}})
		expect[wire.Ack](p)
		synctest.Wait()
		hints.mu.Lock()
		defer hints.mu.Unlock()
		if got := strings.Join(hints.published, ", "); got != "plan 2, plan 3" {
			t.Errorf("published %s", got)
		}
	})
}

// While hints come through, rooms are read when there is one, and hardly ever otherwise; a hint that
// says nothing new, or is about a room that nobody uses here, costs no read.
func TestHintsReplacePolling(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, hints := setupHints(t)
		s.seed("plan", 1)
		p := s.join("plan", 0xa)
		p.readTo(1)
		hints.live(true)
		time.Sleep(2 * time.Second) // of the bubble's clock: the last short interval
		before := s.reads()
		s.commit("plan", 0xb, 1, 3)
		begin := time.Now()
		hints.hear("plan", 4)
		p.readTo(4)
		if d := time.Since(begin); d != 0 {
			t.Errorf("after %v", d)
		}
		hints.hear("plan", 4)
		hints.hear("plan", 2)
		hints.hear("elsewhere", 9)
		time.Sleep(20 * time.Second)
		if n := s.reads() - before; n != 1 {
			t.Errorf("%d reads", n)
		}
		s.commit("plan", 0xb, 4, 1) // its hint is lost
		p.readTo(5)
		if d := time.Since(begin); d > time.Minute {
			t.Errorf("found after %v", d)
		}
	})
}

// What is committed while hints do not come through is found by polling, and so is what was
// committed before they came through again.
func TestLostHintsCostLatencyOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, hints := setupHints(t)
		s.seed("plan", 1)
		p := s.join("plan", 0xa)
		hints.live(true)
		time.Sleep(5 * time.Second)
		for i, change := range []bool{false, true, false} {
			s.commit("plan", 0xb, i+1, 1)
			hints.live(change)
			begin := time.Now()
			p.readTo(int64(i + 2))
			if d := time.Since(begin); d > time.Second {
				t.Errorf("live %v: found after %v", change, d)
			}
		}
		s.commit("plan", 0xb, 4, 1)
		begin := time.Now()
		p.readTo(5)
		if d := time.Since(begin); d > time.Second {
			t.Errorf("polled after %v", d)
		}
	})
}

// A room that somebody else made has another epoch than the proposed one, and a hint tells at once.
func TestHintOfANewRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, hints := setupHints(t)
		p := s.join("plan", 0xa)
		room := s.seed("plan", 2)
		begin := time.Now()
		hints.hear("plan", 2)
		if got := expect[wire.Resync](p); got.Epoch != room.Epoch || time.Since(begin) != 0 {
			t.Errorf("%+v after %v", got, time.Since(begin))
		}
	})
}

// process is one of several servers on one database, with connections of its own.
type process struct {
	*service
	db   *pgfuncs.DB
	live chan bool
}

// liveHints lets a test wait for hints to come through.
type liveHints struct {
	*pgfuncs.Hints
	live chan bool
}

func (l liveHints) Run(ctx context.Context, hear func(string, int64), live func(bool)) {
	l.Hints.Run(ctx, hear, func(v bool) {
		live(v)
		l.live <- v
	})
}

// startProcess starts a server that hears of others' commits through hints alone, for as long as they
// come through.
func startProcess(t *testing.T, url string) *process {
	t.Helper()
	db, err := pgfuncs.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	live := make(chan bool, 100)
	hints := liveHints{db.Hints(pgfuncs.HintsConfig{RetryMin: time.Millisecond}), live}
	s := startWith(t, db, l, (&net.Dialer{}).DialContext, fast, func(cfg *realtime.Config) {
		cfg.Hints = hints
		cfg.Timing.HintedPoll, cfg.Timing.Head = time.Hour, time.Hour
	})
	p := &process{s, db, live}
	p.expectLive(true)
	return p
}

func (p *process) expectLive(want bool) {
	p.t.Helper()
	if got := <-p.live; got != want {
		p.t.Fatalf("hints are live: %v", got)
	}
}

// Three processes on one database: what is committed at one reaches the sockets of all, at once while
// hints come through, and at all events while they do not, or while a process is away.
func TestThreeProcesses(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	processes := []*process{startProcess(t, url), startProcess(t, url), startProcess(t, url)}
	authors := make([]*author, len(processes))
	for i, p := range processes {
		authors[i] = newAuthor(p.service, "plan", moveop.ReplicaID(i+1), wire.JSON)
		if i == 0 {
			authors[0].pushOps("first", authors[0].put(node(0), moveop.Root))
		}
	}
	r := &rounds{t: t, head: 1}
	r.play(authors...)

	// Every connection that listens is lost, with commits before, between and after.
	r.play(authors...)
	if n := terminateHints(t, url); n != 3 {
		t.Errorf("%d connections listened", n)
	}
	r.play(authors...)
	for _, p := range processes {
		p.expectLive(false)
		p.expectLive(true)
	}
	r.play(authors...)

	// One is killed and comes back; its author goes on where it was.
	for i := range processes {
		processes[i].kill()
		_ = authors[i].conn.Close()
		r.play(append(append([]*author{}, authors[:i]...), authors[i+1:]...)...)
		processes[i] = startProcess(t, url)
		authors[i].rejoin(processes[i].service)
		r.play(authors...)
	}
	for _, a := range authors {
		if !sameOps(a.log, authors[0].log) {
			t.Errorf("replica %s got another log", a.replica)
		}
	}
}

// terminateHints ends the connections that listen for hints, and returns how many there were.
func terminateHints(t *testing.T, url string) (n int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	err = conn.QueryRow(t.Context(), `
		select count(pg_terminate_backend(pid)) from pg_stat_activity
		where datname = current_database() and application_name = 'canopy hints'`).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// kill ends a process with its database connections gone first: nothing that it still does works.
func (p *process) kill() {
	p.db.Close()
	_ = p.stop() // it says that it could not finish what was under way, if anything was
}

// rejoin says hello on another process with the cursor of the old socket.
func (a *author) rejoin(s *service) {
	a.t.Helper()
	p, _, err := s.socket("plan", a.codec, nil)
	if err != nil {
		a.t.Fatal(err)
	}
	_, stats := get[wire.Stats](s, "/v1/rooms/plan/stats")
	p.hello(a.replica, &stats.Epoch, a.cursor)
	p.log = a.log
	a.peer = p
}

// rounds lets authors commit one after the other; after each commit everybody has to get it.
type rounds struct {
	t    *testing.T
	head int64
}

func (r *rounds) play(authors ...*author) {
	r.t.Helper()
	for i, a := range authors {
		r.head++
		a.pushOps(fmt.Sprint(r.head), a.put(node(i), moveop.Root))
		for _, reader := range authors {
			reader.readTo(r.head)
		}
	}
}
