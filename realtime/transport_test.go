package realtime_test

import (
	"context"
	"encoding/base64"
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
	ops   bool  // may go along
}

// stop is one server's transport.
type stop struct {
	bus  *bus
	mail chan map[string][]byte
	live chan bool

	cut      bool           // guarded by bus.mu
	swallows bool           // the same
	followed map[string]int // the same
}

func newBus() *bus { return &bus{stops: map[*stop]struct{}{}} }

func (b *bus) stop() *stop {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := &stop{bus: b, mail: make(chan map[string][]byte, 1000), live: make(chan bool, 10), followed: map[string]int{"": 1}}
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
	if s.swallows {
		return nil
	}
	for _, data := range batch {
		s.bus.sent += len(data)
	}
	for other := range s.bus.stops {
		if !other.cut {
			other.deliver(batch)
		}
	}
	return nil
}

// deliver hands over what is followed. The caller holds bus.mu.
func (s *stop) deliver(batch map[string][]byte) {
	mine := map[string][]byte{}
	for room, data := range batch {
		if s.followed[room] > 0 {
			mine[room] = data
		}
	}
	s.mail <- mine
}

func (s *stop) Follow(room string) (unfollow func()) {
	s.follow(room, 1)
	return func() { s.follow(room, -1) }
}

func (s *stop) follow(room string, n int) {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	s.followed[room] += n
	if s.followed[room] < 0 {
		panic("unfollowed twice")
	}
}

func (s *stop) CarriesOps() bool {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	return s.bus.ops
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

// swallow has what a server sends be lost.
func (s *stop) swallow(on bool) {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	s.swallows = on
}

// say sends as another process would.
func (b *bus) say(room, letter string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.stops {
		s.deliver(map[string][]byte{room: []byte(letter)})
	}
}

func (b *bus) setErr(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

func (b *bus) carryOps() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ops = true
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

// Where ops go along nobody reads them from the log; larger ones are read by each process that has not
// committed them.
func TestOpsGoAlong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bus, servers, _ := setupCluster(t, 3, func(cfg *realtime.Config) {
			cfg.Timing.HintedPoll, cfg.Timing.Head = time.Hour, time.Hour
		})
		bus.carryOps()
		p := servers[0].join("plan", 0xa)
		p.push(1)
		readers := []*peer{servers[1].join("plan", 0xb), servers[2].join("plan", 0xc)}
		for _, r := range readers {
			r.readTo(1)
		}
		time.Sleep(2 * time.Second) // of the bubble's clock: the last short interval
		before := p.pushAll(t, servers[0], readers, 10, 3)
		if n := servers[0].reads() - before; n != 0 {
			t.Errorf("%d reads for 10 small commits", n)
		}
		before = p.pushAll(t, servers[0], readers, 1, 200)
		if n := servers[0].reads() - before; n < 2 {
			t.Errorf("%d reads for a large commit", n)
		}
		p.pushAll(t, servers[0], readers, 5, 1)
		for _, r := range readers {
			if !sameOps(r.log, servers[0].stored("plan")) {
				t.Error("another log")
			}
		}
	})
}

// pushAll pushes and has everybody read it; it returns how often the store was read before.
func (p *peer) pushAll(t *testing.T, s *service, readers []*peer, pushes, ops int) (before int) {
	t.Helper()
	before = s.reads()
	for range pushes {
		head := p.push(ops).Head
		for _, r := range readers {
			r.readTo(head)
		}
	}
	return before
}

// Ops that do not fit to what is known are not taken: the log is read.
func TestForeignOps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bus, servers, _ := setupCluster(t, 1, func(cfg *realtime.Config) {
			cfg.Timing.HintedPoll, cfg.Timing.Head = time.Hour, time.Hour
		})
		bus.carryOps()
		s := servers[0]
		room := s.seed("plan", 3)
		p := s.join("plan", 0xa)
		p.readTo(3)
		forged := moveBy(0xbad, 1)
		say := func(epoch string, after int64, head int64, seqs ...int64) {
			var ops []moveop.Op
			for _, seq := range seqs {
				op := forged
				op.Seq = seq
				ops = append(ops, op)
			}
			body := base64.StdEncoding.EncodeToString(moveop.AppendOps(nil, ops))
			bus.say("plan", fmt.Sprintf(`{"from":"f","head":%d,"epoch":%q,"after":%d,"ops":%q}`, head, epoch, after, body))
		}
		say("00000000-0000-4000-8000-000000000009", 3, 4, 4) // of another history
		say(room.Epoch, 4, 5, 5)                             // behind a gap
		say(room.Epoch, 3, 5, 4, 6)                          // with a hole
		say(room.Epoch, 2, 4, 4)                             // not what it says
		say(room.Epoch, 0, 3, 1, 2, 3)                       // known
		bus.say("plan", fmt.Sprintf(`{"from":"f","head":4,"epoch":%q,"after":3,"ops":"AAAA"}`, room.Epoch))
		time.Sleep(time.Second)
		s.commit("plan", 0xb, 1, 1)
		bus.say("plan", hint(4))
		p.readTo(4)
		say(room.Epoch, 3, 5, 4, 5) // the part that is news is taken, for it cannot be told from the truth
		p.readTo(5)
		if !sameOps(p.log[:4], s.stored("plan")) || !p.log[4].SameBody(forged) {
			t.Errorf("got %+v", p.log)
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
