package realtime_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime"
	"github.com/canopysync/canopy/realtime/wire"
)

// bus is a transport in memory between the servers of a test, which may cut them off.
type bus struct {
	mu    sync.Mutex // guards what follows
	stops map[*stop]struct{}
	sent  int   // bytes
	err   error // of every Send
}

// stop is one server's transport.
type stop struct {
	bus  *bus
	mail chan map[string][]byte
	live chan bool
	cut  bool // guarded by bus.mu
}

func newBus() *bus { return &bus{stops: map[*stop]struct{}{}} }

func (b *bus) stop() *stop {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := &stop{bus: b, mail: make(chan map[string][]byte, 1000), live: make(chan bool, 10)}
	b.stops[s] = struct{}{}
	s.live <- true
	return s
}

func (s *stop) Send(_ context.Context, batch map[string][]byte) error {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	if s.bus.err != nil {
		return s.bus.err
	}
	if s.cut {
		return errors.New("cut off")
	}
	for _, data := range batch {
		s.bus.sent += len(data)
	}
	for other := range s.bus.stops {
		if !other.cut {
			other.mail <- batch
		}
	}
	return nil
}

func (s *stop) Listen(ctx context.Context, hear func(string, []byte), live func(bool)) {
	for {
		select {
		case <-ctx.Done():
			return
		case v := <-s.live:
			live(v)
		case batch := <-s.mail:
			for room, data := range batch {
				hear(room, data)
			}
		}
	}
}

// setCut cuts a server off, or lets it hear and be heard again; either way it is told.
func (s *stop) setCut(cut bool) {
	s.bus.mu.Lock()
	s.cut = cut
	s.bus.mu.Unlock()
	s.live <- !cut
}

// say sends as another process would.
func (b *bus) say(room, letter string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.stops {
		s.mail <- map[string][]byte{room: []byte(letter)}
	}
}

func (b *bus) setErr(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

func (b *bus) bytes() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sent
}

// setupCluster runs n servers on one store, joined by a bus.
func setupCluster(t *testing.T, n int, configure ...func(*realtime.Config)) (b *bus, servers []*service, stops []*stop) {
	t.Helper()
	b = newBus()
	store := newFakeStore()
	for range n {
		l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
		stop := b.stop()
		s := startWith(t, store, l, l.dial, append([]func(*realtime.Config){func(cfg *realtime.Config) {
			cfg.Transport = stop
		}}, configure...)...)
		s.store = store
		servers, stops = append(servers, s), append(stops, stop)
	}
	synctest.Wait() // they have met
	return b, servers, stops
}

// setupHints runs a server that hears of others' commits from the bus only.
func setupHints(t *testing.T) (*service, *bus, *stop) {
	b, servers, stops := setupCluster(t, 1, func(cfg *realtime.Config) {
		cfg.Timing.HintedPoll, cfg.Timing.Head = time.Minute, time.Minute
	})
	return servers[0], b, stops[0]
}

// hint is a letter of another process with news of a commit.
func hint(head int64) string { return fmt.Sprintf(`{"from":"other","head":%d}`, head) }

func TestCommitsAreTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, servers, _ := setupCluster(t, 2, func(cfg *realtime.Config) {
			cfg.Timing.HintedPoll, cfg.Timing.Head = time.Hour, time.Hour
		})
		p := servers[0].join("plan", 0xa)
		p.push(1)
		reader := servers[1].join("plan", 0xb)
		reader.readTo(1)
		begin := time.Now()
		p.push(2)
		reader.readTo(3)
		p.send(wire.Push{ID: "again", Ops: []moveop.Op{moveBy(0xa, 1)}})
		expect[wire.Ack](p)
		p.push(1)
		reader.readTo(4)
		if d := time.Since(begin); d > 100*time.Millisecond {
			t.Errorf("after %v", d)
		}
	})
}

// While hints come through, rooms are read when there is one, and hardly ever otherwise; a hint that
// says nothing new, or is about a room that nobody uses here, costs no read.
func TestHintsReplacePolling(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, bus, _ := setupHints(t)
		s.seed("plan", 1)
		p := s.join("plan", 0xa)
		p.readTo(1)
		time.Sleep(2 * time.Second) // of the bubble's clock: the last short interval
		before := s.reads()
		s.commit("plan", 0xb, 1, 3)
		begin := time.Now()
		bus.say("plan", hint(4))
		p.readTo(4)
		if d := time.Since(begin); d != 0 {
			t.Errorf("after %v", d)
		}
		bus.say("plan", hint(4))
		bus.say("plan", hint(2))
		bus.say("elsewhere", hint(9))
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
		s, _, cord := setupHints(t)
		s.seed("plan", 1)
		p := s.join("plan", 0xa)
		time.Sleep(5 * time.Second)
		for i, live := range []bool{false, true, false} {
			s.commit("plan", 0xb, i+1, 1)
			cord.setCut(!live)
			begin := time.Now()
			p.readTo(int64(i + 2))
			if d := time.Since(begin); d > time.Second {
				t.Errorf("live %v: found after %v", live, d)
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
		s, bus, _ := setupHints(t)
		p := s.join("plan", 0xa)
		room := s.seed("plan", 2)
		begin := time.Now()
		bus.say("plan", hint(2))
		if got := expect[wire.Resync](p); got.Epoch != room.Epoch || time.Since(begin) != 0 {
			t.Errorf("%+v after %v", got, time.Since(begin))
		}
	})
}
