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

	"github.com/gorilla/websocket"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime"
	"github.com/canopysync/canopy/realtime/wire"
)

// Sockets are closed some at a time and told different delays; those whose turn has not come go on.
func TestDrainInWaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setupPipe(t, func(cfg *realtime.Config) { cfg.Limits.Wave, cfg.Timing.Wave = 4, time.Second })
		type end struct {
			after, delay time.Duration
		}
		ends := make(chan end, 20)
		begin := time.Now()
		var reading sync.WaitGroup
		for i := range 20 {
			p := s.join("plan", moveop.ReplicaID(i+1))
			ended := p.answer()
			reading.Go(func() {
				closed, _ := errors.AsType[*websocket.CloseError](<-ended)
				if closed == nil || closed.Code != wire.CloseRestart {
					t.Errorf("ended with %v", closed)
					return
				}
				delay, _ := wire.ParseRestartReason(closed.Text)
				ends <- end{time.Since(begin), delay}
			})
		}
		if err := s.stop(); err != nil {
			t.Error(err)
		}
		reading.Wait()
		close(ends)
		perWave, delays := map[time.Duration]int{}, map[time.Duration]bool{}
		for e := range ends {
			perWave[e.after.Truncate(time.Second)]++
			delays[e.delay] = true
			if e.delay < time.Second || e.delay > 2*time.Second {
				t.Errorf("told to wait %v", e.delay)
			}
		}
		if len(perWave) != 5 || perWave[0] != 4 || perWave[4*time.Second] != 4 {
			t.Errorf("closed per second: %v", perWave)
		}
		if len(delays) < 10 {
			t.Errorf("only %d different delays", len(delays))
		}
	})
}

// cluster is some servers on one store that are restarted one after the other.
type cluster struct {
	mu      sync.Mutex // guards servers
	servers []*service
}

func (c *cluster) get(i int) *service {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.servers[i%len(c.servers)]
}

func (c *cluster) set(i int, s *service) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.servers[i] = s
}

// While servers are restarted one after the other under load, no commit goes without its ack: every op is
// answered once, as applied, and none is answered as a duplicate, because none was pushed again that
// was in the log.
func TestRollingRestartLosesNoAck(t *testing.T) {
	t.Parallel()
	store := newFakeStore()
	startOne := func() *service {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return startWith(t, store, l, (&net.Dialer{}).DialContext, fast, func(cfg *realtime.Config) {
			cfg.Limits.Wave, cfg.Timing.Wave, cfg.Timing.Restart = 2, time.Millisecond, time.Millisecond
		})
	}
	c := &cluster{servers: []*service{startOne(), startOne()}}
	store.create("plan", "00000000-0000-4000-8000-000000000001")
	batches := make(chan struct{}, 1)
	store.set(func(f *fakeStore) {
		f.before = func([]moveop.Op) error {
			select {
			case batches <- struct{}{}:
			default:
			}
			return nil
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	writers := make([]*writer, 8)
	var writing sync.WaitGroup
	for i := range writers {
		writers[i] = &writer{replica: moveop.ReplicaID(i + 1), cluster: c, next: 1}
		writing.Go(func() { writers[i].run(ctx) })
	}
	for round := range 6 {
		for range 20 { // under load
			<-batches
		}
		i := round % 2
		fresh := startOne()
		old := c.get(i)
		c.set(i, fresh)
		if err := old.stop(); err != nil {
			t.Error(err)
		}
	}
	cancel()
	writing.Wait()
	total := 0
	for _, w := range writers {
		if w.err != nil {
			t.Errorf("replica %s: %v", w.replica, w.err)
		}
		total += w.acked
	}
	room, err := store.Room(context.WithoutCancel(t.Context()), "plan")
	if err != nil || int64(total) != room.Head || total == 0 {
		t.Errorf("%d ops acknowledged, %d in the log: %v", total, room.Head, err)
	}
}

// writer pushes two batches at a time, over whichever server takes it, and again what was not
// answered.
type writer struct {
	replica moveop.ReplicaID
	cluster *cluster
	next    uint16 // counter of the first op not acknowledged
	acked   int
	err     error
}

func (w *writer) run(ctx context.Context) {
	for attempt := int(w.replica); ctx.Err() == nil && w.err == nil; attempt++ {
		w.session(ctx, w.cluster.get(attempt))
	}
}

// session pushes until the socket ends, and reads it to its end.
func (w *writer) session(ctx context.Context, s *service) {
	dialer := websocket.Dialer{NetDialContext: s.dial, Subprotocols: []string{wire.SubprotocolJSON}}
	conn, _, err := dialer.Dial("ws://"+s.host+"/v1/rooms/plan/ws", nil)
	if err != nil {
		return // it has stopped
	}
	defer conn.Close()
	send := func(msg wire.Message) {
		data, _ := wire.JSON.Encode(msg)
		_ = conn.WriteMessage(websocket.TextMessage, data) // reading tells
	}
	send(wire.Hello{Replica: w.replica})
	for sent := w.next; ; {
		for ctx.Err() == nil && sent < w.next+4 {
			send(wire.Push{ID: fmt.Sprint(sent), Ops: []moveop.Op{moveBy(w.replica, sent), moveBy(w.replica, sent+1)}})
			sent += 2
		}
		if sent == w.next {
			return // everything is answered, and there is no more
		}
		_, data, err := conn.ReadMessage()
		if err != nil {
			return
		}
		w.hear(data)
	}
}

func (w *writer) hear(data []byte) {
	msg, err := wire.JSON.Decode(data)
	if err != nil {
		w.err = err
		return
	}
	switch msg := msg.(type) {
	case wire.Ack:
		for _, r := range msg.Results {
			if r.Status != wire.StatusApplied || r.TS != moveBy(w.replica, w.next).TS {
				w.err = fmt.Errorf("%s of %s, want %s", r.Status, r.TS, moveBy(w.replica, w.next).TS)
			}
			w.next++
			w.acked++
		}
	case wire.Nack:
		if !msg.Retryable {
			w.err = &msg.Error
		}
	}
}
