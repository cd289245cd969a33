package realtime_test

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/pgfuncs/pgtest"
	"github.com/canopysync/canopy/realtime"
	"github.com/canopysync/canopy/realtime/nats"
	"github.com/canopysync/canopy/realtime/wire"
)

// process is one of several servers on one database, with connections of its own.
type process struct {
	*service
	db   *pgfuncs.DB
	live chan bool
}

// liveTransport lets a test wait for messages to come through.
type liveTransport struct {
	realtime.Transport
	live chan bool
}

func (l liveTransport) Listen(ctx context.Context, hear func(string, []byte), live func(bool)) {
	l.Transport.Listen(ctx, hear, func(v bool) {
		live(v)
		l.live <- v
	})
}

// startProcess starts a server that hears of others' commits through its transport alone, for as long as
// that works: Postgres, or NATS where there is an address.
func startProcess(t *testing.T, url string, natsAddress ...string) *process {
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
	var transport realtime.Transport = db.Transport(pgfuncs.TransportConfig{RetryMin: time.Millisecond})
	for _, address := range natsAddress {
		overNATS, err := nats.Open(nats.Config{URL: address})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(overNATS.Close)
		transport = overNATS
	}
	s := startWith(t, db, l, (&net.Dialer{}).DialContext, fast, func(cfg *realtime.Config) {
		cfg.Transport = liveTransport{transport, live}
		cfg.Timing.HintedPoll, cfg.Timing.Head = time.Hour, time.Hour
		cfg.Timing.Heartbeat = time.Second
	})
	p := &process{s, db, live}
	p.expectLive(true)
	return p
}

func (p *process) expectLive(want bool) {
	p.t.Helper()
	if got := <-p.live; got != want {
		p.t.Fatalf("live: %v", got)
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
	if n := terminateListeners(t, url); n != 3 {
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

// The same for who is there and what they show; and a replica has one socket at all three.
func TestPeopleAtThreeProcesses(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	processes := []*process{startProcess(t, url), startProcess(t, url), startProcess(t, url)}
	a, b, c := processes[0].watch("plan", 0xa), processes[1].watch("plan", 0xb), processes[2].watch("plan", 0xc)
	all := []*watcher{a, b, c}
	everybody := func(here, shown string) {
		t.Helper()
		for _, w := range all {
			w.awaitHere(here)
			w.awaitShown(shown)
		}
	}
	for i, w := range all {
		w.show(fmt.Sprint(i))
	}
	everybody("a b c", "a0 b1 c2")
	again := processes[2].watch("plan", 0xa)
	again.awaitEnd()
	again.expectInUse()

	// Who comes and goes while nothing comes through is known when something does.
	if n := terminateListeners(t, url); n != 3 {
		t.Errorf("%d connections listened", n)
	}
	d := processes[1].watch("plan", 0xd)
	d.show("3")
	a.show("4")
	for _, p := range processes {
		p.expectLive(false)
		p.expectLive(true)
	}
	everybody("a b c d", "a4 b1 c2 d3")

	// Who was at a process that was killed comes back elsewhere; whoever else was there is gone.
	processes[1].kill()
	all = []*watcher{a, c, processes[2].watch("plan", 0xb)}
	everybody("a b c", "a4 c2")
}

// The same over NATS, whose server is away for a while.
func TestThreeProcessesOnNATS(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	address, stop := startNATS(t, server.RANDOM_PORT)
	var processes []*process
	var authors []*author
	var people []*watcher
	for i := range 3 {
		p := startProcess(t, url, address)
		a := newAuthor(p.service, "plan", moveop.ReplicaID(i+1), wire.JSON)
		if i == 0 {
			a.pushOps("first", a.put(node(0), moveop.Root))
		}
		processes, authors = append(processes, p), append(authors, a)
		people = append(people, p.watch("talk", moveop.ReplicaID(0xa+i)))
	}
	r := &rounds{t: t, head: 1}
	r.play(authors...)
	for i, w := range people {
		w.show(fmt.Sprint(i))
	}
	for _, w := range people {
		w.awaitHere("a b c")
		w.awaitShown("a0 b1 c2")
	}
	if got := processes[0].metric("canopy_realtime_transport_ops_total"); got == "0" {
		t.Error("no ops went along")
	}

	stop()
	r.play(authors...)
	for _, p := range processes {
		p.expectLive(false)
	}
	r.play(authors...)
	people[0].show("3")
	people = append(people, processes[1].watch("talk", 0xd))
	startNATS(t, portOf(t, address))
	r.play(authors...)
	for _, p := range processes {
		p.expectLive(true)
	}
	r.play(authors...)
	for _, w := range people {
		w.awaitHere("a b c d")
		w.awaitShown("a3 b1 c2")
	}
	again := processes[2].watch("talk", 0xa)
	again.awaitEnd()
	again.expectInUse()
	for _, a := range authors {
		if !sameOps(a.log, authors[0].log) {
			t.Errorf("replica %s got another log", a.replica)
		}
	}
}

// startNATS runs a NATS server until the test ends, or stop is called.
func startNATS(t *testing.T, port int) (address string, stop func()) {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	stop = func() {
		s.Shutdown()
		s.WaitForShutdown()
	}
	t.Cleanup(stop)
	return s.ClientURL(), stop
}

func portOf(t *testing.T, address string) int {
	t.Helper()
	_, text, err := net.SplitHostPort(strings.TrimPrefix(address, "nats://"))
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// terminateListeners ends the connections that listen, and returns how many there were.
func terminateListeners(t *testing.T, url string) (n int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	err = conn.QueryRow(t.Context(), `
		select count(pg_terminate_backend(pid)) from pg_stat_activity
		where datname = current_database() and application_name = 'canopy listen'`).Scan(&n)
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
