package pgfuncs_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/pgfuncs/pgtest"
	"github.com/canopysync/canopy/realtime/transporttest"
)

// listen opens a database's transport and listens to it.
func listen(t *testing.T, url string, cfg pgfuncs.TransportConfig) *transporttest.Ear {
	t.Helper()
	db, err := pgfuncs.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return transporttest.Listen(t, db.Transport(cfg))
}

func TestTransportReachesEverybody(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	a, b := listen(t, url, pgfuncs.TransportConfig{}), listen(t, url, pgfuncs.TransportConfig{})
	elsewhere := listen(t, pgtest.New(t), pgfuncs.TransportConfig{})
	for _, e := range []*transporttest.Ear{a, b, elsewhere} {
		e.ExpectLive(true)
	}
	a.Say("plan", "7")
	a.Expect("plan 7")
	b.Expect("plan 7")
	b.Say("", "\x00\xff '$$")
	a.Expect(" \x00\xff '$$")
	if n := len(elsewhere.Heard); n != 0 {
		t.Errorf("%d messages in another database", n)
	}
}

// One notification has less than 8,000 bytes; what is said may be longer, and arrives whole, also while
// others are talking.
func TestTransportCarriesLongMessages(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	ears := []*transporttest.Ear{listen(t, url, pgfuncs.TransportConfig{}), listen(t, url, pgfuncs.TransportConfig{}), listen(t, url, pgfuncs.TransportConfig{})}
	for _, e := range ears {
		e.ExpectLive(true)
	}
	const rounds = 20
	var talking sync.WaitGroup
	want := map[string]int{}
	for i, e := range ears {
		for n := range rounds {
			for room, size := range batchSizes(i, n) {
				want[message(room, size)]++
			}
		}
		talking.Go(func() {
			for n := range rounds {
				batch := map[string][]byte{}
				for room, size := range batchSizes(i, n) {
					batch[room] = []byte(strings.Repeat("x", size))
				}
				if err := e.Send(t.Context(), batch); err != nil {
					t.Error(err)
				}
			}
		})
	}
	talking.Wait()
	for _, e := range ears {
		left := maps.Clone(want)
		for range 3 * 2 * rounds {
			got := <-e.Heard
			if left[got]--; left[got] < 0 {
				t.Fatalf("heard %.100q (%d bytes) too often", got, len(got))
			}
		}
	}
}

// batchSizes gives a batch of two messages, some empty, some of many parts, some just at the edge of one.
func batchSizes(sender, n int) map[string]int {
	return map[string]int{
		fmt.Sprint("room", sender): n * n * 600,
		fmt.Sprint("edge", sender): 5830 + n,
	}
}

func message(room string, size int) string { return room + " " + strings.Repeat("x", size) }

// An empty batch is no message, and what cannot be sent is an error.
func TestTransportSendFails(t *testing.T) {
	t.Parallel()
	e := listen(t, pgtest.New(t), pgfuncs.TransportConfig{})
	e.ExpectLive(true)
	if err := e.Send(t.Context(), nil); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.Send(ctx, map[string][]byte{"plan": nil}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	e.Say("end", "")
	e.Expect("end ")
}

// The connection that listens may be lost at any time: that is told, and so is the new one.
func TestTransportReconnects(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	db, err := pgfuncs.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	e := listen(t, url, pgfuncs.TransportConfig{RetryMin: time.Millisecond})
	e.ExpectLive(true)
	for i := range 3 {
		if n, err := db.TerminateListeners(t.Context()); err != nil || n != 1 {
			t.Fatalf("terminated %d connections: %v", n, err)
		}
		e.ExpectLive(false)
		e.ExpectLive(true)
		e.Say("plan", fmt.Sprint(i))
		e.Expect(fmt.Sprint("plan ", i))
	}
}

// A connection may die without an end: whatever is sent over it is lost in silence.
func TestTransportNoticesSilence(t *testing.T) {
	t.Parallel()
	hole := newSinkhole(t, pgtest.New(t))
	e := listen(t, hole.url, pgfuncs.TransportConfig{RetryMin: time.Millisecond, Heartbeat: 300 * time.Millisecond})
	e.ExpectLive(true)
	hole.swallow.Store(true)
	e.ExpectLive(false)
	hole.swallow.Store(false)
	e.ExpectLive(true)
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
	hole := &sinkhole{url: fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=%s sslmode=disable",
		port, config.User, config.Database)}
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

// Anybody may notify; what makes no sense, or does not fit together, is not handed on.
func TestForgedNotifications(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	db, err := pgfuncs.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	e := listen(t, url, pgfuncs.TransportConfig{})
	e.ExpectLive(true)
	for _, payload := range []string{
		"", " ", "x", "*", "*x", "a 1 0 1", "a 1 0 1 !", "a 1 x 1 AXgA", "a 1 0 x AXgA", "a 1 -1 1 AXgA", "a 1 1 1 AXgA",
		"a 1 0 0 AXgA", "a 1 1 2 AXgA", // its first part is missing
		"a 1 0 3 AXgA", "a 1 2 3 AXgA", "a 1 1 3 AXgA", // out of order
		"a 1 0 2 AXgA", "b 1 1 2 AXgA", "a 1 1 2 AXgA", // of two parcels
		"a 1 0 1 /////////////////w==", "a 1 0 1 BXg=", "a 1 0 1 AXgF", // lengths that are not there
	} {
		if err := db.Notify(t.Context(), payload); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Notify(t.Context(), "a 1 0 1 AXgA"); err != nil {
		t.Fatal(err)
	}
	e.Expect("x ")
	e.Say("end", "1")
	e.Expect("end 1")
}
