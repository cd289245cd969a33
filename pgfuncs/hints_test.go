package pgfuncs_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/pgfuncs/pgtest"
)

// ear is a running Hints with what it heard.
type ear struct {
	*pgfuncs.Hints
	t     *testing.T
	heard chan string
	live  chan bool
	stop  func()
}

func listen(t *testing.T, url string, cfg pgfuncs.HintsConfig) *ear {
	t.Helper()
	db, err := pgfuncs.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	e := &ear{Hints: db.Hints(cfg), t: t, heard: make(chan string, 10_000), live: make(chan bool, 100)}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		e.Run(ctx, func(room string, head int64) { e.heard <- fmt.Sprint(room, " ", head) }, func(live bool) { e.live <- live })
	})
	e.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		db.Close()
	})
	t.Cleanup(e.stop)
	return e
}

// expect waits until the newest of the hints is the wanted one.
func (e *ear) expect(want string) {
	e.t.Helper()
	for {
		select {
		case got := <-e.heard:
			if got == want {
				return
			}
		case <-e.t.Context().Done():
			e.t.Fatalf("no %q", want)
		}
	}
}

func (e *ear) expectLive(want bool) {
	e.t.Helper()
	if got := <-e.live; got != want {
		e.t.Fatalf("live is %v", got)
	}
}

func TestHintsReachEverybody(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	a, b := listen(t, url, pgfuncs.HintsConfig{}), listen(t, url, pgfuncs.HintsConfig{})
	elsewhere := listen(t, pgtest.New(t), pgfuncs.HintsConfig{})
	for _, e := range []*ear{a, b, elsewhere} {
		e.expectLive(true)
	}
	a.Publish("plan", 7)
	a.expect("plan 7")
	b.expect("plan 7")
	b.Publish("other.room", 1)
	a.expect("other.room 1")
	if n := len(elsewhere.heard); n != 0 {
		t.Errorf("%d hints in another database", n)
	}
}

// Hints that come faster than they may be sent become one, with the greatest head.
func TestHintsAreCoalesced(t *testing.T) {
	t.Parallel()
	e := listen(t, pgtest.New(t), pgfuncs.HintsConfig{Interval: 50 * time.Millisecond})
	e.expectLive(true)
	for i := range int64(5000) {
		e.Publish("plan", i+1)
		e.Publish("other", 5000-i)
	}
	heard := map[string]int{}
	for last := false; !last; {
		got := <-e.heard
		heard[got]++
		last = got == "plan 5000"
	}
	if len(heard) > 40 {
		t.Errorf("%d notifications", len(heard))
	}
}

// What was published last goes out though Run is told to stop.
func TestHintsAreFlushed(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	other := listen(t, url, pgfuncs.HintsConfig{})
	other.expectLive(true)
	e := listen(t, url, pgfuncs.HintsConfig{Interval: time.Hour})
	e.expectLive(true)
	e.Publish("plan", 3)
	e.stop()
	other.expect("plan 3")
}

// The connection that listens may be lost at any time: that is told, and so is the new one.
func TestHintsReconnect(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	db, err := pgfuncs.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	e := listen(t, url, pgfuncs.HintsConfig{RetryMin: time.Millisecond})
	e.expectLive(true)
	for i := range int64(3) {
		if n, err := db.TerminateHints(t.Context()); err != nil || n != 1 {
			t.Fatalf("terminated %d connections: %v", n, err)
		}
		e.expectLive(false)
		e.expectLive(true)
		e.Publish("plan", i+1)
		e.expect(fmt.Sprint("plan ", i+1))
	}
}

// A connection may die without an end: whatever is sent over it is lost in silence.
func TestHintsNoticeSilence(t *testing.T) {
	t.Parallel()
	hole := newSinkhole(t, pgtest.New(t))
	e := listen(t, hole.url, pgfuncs.HintsConfig{RetryMin: time.Millisecond, Heartbeat: 300 * time.Millisecond})
	e.expectLive(true)
	hole.swallow.Store(true)
	e.expectLive(false)
	hole.swallow.Store(false)
	e.expectLive(true)
}

// sinkhole forwards connections to a database, and at times what comes back nowhere.
type sinkhole struct {
	url     string
	swallow atomic.Bool
}

func newSinkhole(t *testing.T, target string) *sinkhole {
	t.Helper()
	config, err := pgx.ParseConfig(target)
	if err != nil {
		t.Fatal(err)
	}
	network, addr := pgconn.NetworkAddress(config.Host, config.Port)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	hole := &sinkhole{url: fmt.Sprintf("host=127.0.0.1 port=%d user=%s password=%s dbname=%s sslmode=disable",
		port, config.User, config.Password, config.Database)}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { hole.forward(near, network, addr) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		running.Wait()
	})
	return hole
}

func (s *sinkhole) forward(near net.Conn, network, addr string) {
	defer near.Close()
	far, err := net.Dial(network, addr)
	if err != nil {
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		defer near.Close()
		buf := make([]byte, 4096)
		for {
			n, err := far.Read(buf)
			if err != nil {
				return
			}
			if s.swallow.Load() {
				continue
			}
			if _, err := near.Write(buf[:n]); err != nil {
				return
			}
		}
	})
	_, _ = io.Copy(far, near)
	_ = far.Close()
	back.Wait()
}

// Anybody may notify; what makes no sense is not handed on.
func TestForgedHints(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	db, err := pgfuncs.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	e := listen(t, url, pgfuncs.HintsConfig{})
	e.expectLive(true)
	for _, payload := range []string{"", " ", "plan", "plan x", "plan -1", "plan 0", "plan 1 2", "PLAN 1", "*", "*x", "plan 99999999999999999999"} {
		if err := db.Notify(t.Context(), payload); err != nil {
			t.Fatal(err)
		}
	}
	e.Publish("end", 1)
	if got := <-e.heard; got != "end 1" {
		t.Errorf("heard %q", got)
	}
}
