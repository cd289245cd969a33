package realtime_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime"
	"github.com/canopysync/canopy/realtime/wire"
)

// answer keeps a peer reading, so that it answers pings, until its connection ends; it returns how.
func (p *peer) answer() <-chan error {
	ended := make(chan error, 1)
	go func() {
		for {
			if _, _, err := p.conn.ReadMessage(); err != nil {
				ended <- err
				return
			}
		}
	}()
	return ended
}

func TestReplicaInUse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setupPipe(t)
		older := s.join("plan", 0xa)
		ended := older.answer()
		newcomer := s.connect("plan")
		newcomer.send(wire.Hello{Replica: 0xa})
		if e := newcomer.nextError(); e.Code != wire.CodeReplicaInUse {
			t.Errorf("error %v", e)
		}
		if closed := newcomer.expectClose(); closed.Code != wire.CloseReplicaInUse {
			t.Errorf("newcomer closed with %v", closed)
		}
		s.join("elsewhere", 0xa) // another room is another matter
		older.send(wire.Ping{})
		synctest.Wait()
		select {
		case err := <-ended:
			t.Errorf("the older one ended: %v", err)
		default:
		}
		_ = older.conn.Close()
		<-ended
	})
}

func TestDeadSocketIsReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setupPipe(t)
		older := s.join("plan", 0xa) // reads nothing from here on, and so answers no ping
		begin := time.Now()
		s.join("plan", 0xa).push(1)
		if d := time.Since(begin); d > 3*time.Second {
			t.Errorf("after %v", d)
		}
		_ = older.conn.Close()
	})
}

func TestSilentSocketIsClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setupPipe(t)
		silent, other := s.join("plan", 0xa), s.join("plan", 0xb)
		silent.conn.SetPingHandler(func(string) error { return nil })
		ended := silent.answer()
		begin := time.Now()
		expectMembers(other, 1)
		if d := time.Since(begin); d < 55*time.Second || d > 65*time.Second {
			t.Errorf("after %v", d)
		}
		<-ended
	})
}

func TestConnections(t *testing.T) {
	t.Parallel()
	s := setup(t, fast, func(cfg *realtime.Config) {
		cfg.Authorize = func(_ context.Context, token, _ string) (realtime.Grant, error) {
			return realtime.Grant{Read: true, Write: true, User: token}, nil
		}
	})
	a := s.connect("plan")
	a.replica = 0xa
	a.send(wire.Hello{Replica: 0xa, Name: "Ann's desk", Token: "ann"})
	w := expect[wire.Welcome](a)
	ann := wire.Peer{Replica: 0xa, Name: "Ann's desk", User: "ann"}
	if !reflect.DeepEqual(w.Clients, []wire.Peer{ann}) {
		t.Errorf("welcome lists %v", w.Clients)
	}
	b := s.connect("plan")
	b.send(wire.Hello{Replica: 0xb, Name: "laptop", Token: "bob"})
	bob := wire.Peer{Replica: 0xb, Name: "laptop", User: "bob"}
	if got := expectMembers(a, 2); !reflect.DeepEqual(got, []wire.Peer{ann, bob}) {
		t.Errorf("after the join: %v", got)
	}
	_, stats := get[wire.Stats](s, "/v1/rooms/plan/stats")
	if a.push(1); stats.Connections != 0 {
		t.Errorf("stats of a room that does not exist yet: %+v", stats)
	}
	if _, stats := get[wire.Stats](s, "/v1/rooms/plan/stats"); stats.Connections != 2 || stats.Ops != 1 {
		t.Errorf("stats %+v", stats)
	}
	_ = b.conn.Close()
	if got := expectMembers(a, 1); !reflect.DeepEqual(got, []wire.Peer{ann}) {
		t.Errorf("after the leave: %v", got)
	}
	a.send(wire.Ping{})
	if got := expect[wire.ServerStatus](a); got != (wire.ServerStatus{Status: wire.Ready, Head: 1}) {
		t.Errorf("status %+v", got)
	}
	if got := expect[wire.Connections](a).Clients; !reflect.DeepEqual(got, []wire.Peer{ann}) {
		t.Errorf("on ping: %v", got)
	}
}

func TestPresence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setupPipe(t, func(cfg *realtime.Config) { cfg.Timing.Presence = time.Second })
		a, b := s.join("plan", 0xa), s.join("plan", 0xb)
		for i := range 20 {
			a.send(wire.Presence{State: json.RawMessage(fmt.Sprintf(`{"at":%d}`, i))})
		}
		got := expect[wire.Presence](b).Updates
		if len(got) != 1 || string(got[0xa]) != `{"at":19}` {
			t.Errorf("b sees %s", got)
		}
		ended := a.answer()
		late := s.join("plan", 0xc)
		if got := expect[wire.Presence](late).Updates; len(got) != 1 || string(got[0xa]) != `{"at":19}` {
			t.Errorf("a late one sees %s", got)
		}
		_ = a.conn.Close()
		<-ended
		if got := expect[wire.Presence](b).Updates; len(got) != 1 || string(got[0xa]) != `null` {
			t.Errorf("after the leave b sees %s", got)
		}
		b.send(wire.Presence{State: json.RawMessage(`1`)})
		expect[wire.Presence](late)
		b.send(wire.Presence{})
		if got := expect[wire.Presence](late).Updates; string(got[0xb]) != `null` {
			t.Errorf("taken back: %s", got)
		}
	})
}

// Fifty people moving their cursors at 20 Hz ask nothing of the store, and who does not read meanwhile has
// nothing queued but the latest of each.
func TestPresenceOfManyIsLight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const people, ticks = 50, 40
		s := setupPipe(t, func(cfg *realtime.Config) { cfg.Timing.Poll, cfg.Timing.Head = time.Hour, time.Hour })
		s.seed("plan", 1)
		var movers []*peer
		for i := range people {
			m := s.join("plan", moveop.ReplicaID(0x100+i))
			go discard(m)
			movers = append(movers, m)
		}
		slow := s.join("plan", 0xa)
		settle()
		calls := 0
		s.store.set(func(f *fakeStore) { calls = f.calls })
		for tick := range ticks {
			for _, m := range movers {
				m.send(wire.Presence{State: json.RawMessage(fmt.Sprint(tick))})
			}
			time.Sleep(50 * time.Millisecond) // of the bubble's clock
		}
		settle()
		s.store.set(func(f *fakeStore) { calls = f.calls - calls })
		if calls != 0 {
			t.Errorf("the store was called %d times", calls)
		}
		frames, shown := 0, map[moveop.ReplicaID]bool{}
		for len(shown) < people {
			frames++
			for replica, state := range expect[wire.Presence](slow).Updates {
				if string(state) == fmt.Sprint(ticks-1) {
					shown[replica] = true
				}
			}
		}
		if frames > 3 { // the one that was under way, and what came of the rest
			t.Errorf("%d frames for the one who did not read", frames)
		}
	})
}

func TestPresenceExpires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setupPipe(t, func(cfg *realtime.Config) { cfg.Timing.PresenceTTL = 15 * time.Second })
		a, b := s.join("plan", 0xa), s.join("plan", 0xb)
		a.send(wire.Presence{State: json.RawMessage(`"here"`)})
		expect[wire.Presence](b)
		begin := time.Now()
		if got := expect[wire.Presence](b).Updates; string(got[0xa]) != `null` {
			t.Errorf("got %s", got)
		}
		if d := time.Since(begin); d < 14*time.Second || d > 18*time.Second {
			t.Errorf("after %v", d)
		}
	})
}

// A socket that does not read holds nobody up, loses nothing, and costs no memory but the tail.
func TestSlowSocketKeepsItsPlace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setupPipe(t, func(cfg *realtime.Config) { cfg.Limits.TailBytes = 4096 })
		slow, fastOne := s.join("plan", 0xa), s.join("plan", 0xb)
		for range 30 {
			fastOne.push(10)
		}
		fastOne.readTo(300)
		slow.readTo(300)
		if !sameOps(slow.log, s.stored("plan")) {
			t.Error("the slow one has not got the log")
		}
	})
}

func TestTooSlowSocketIsClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setupPipe(t)
		slow, other := s.join("plan", 0xa), s.join("plan", 0xb)
		expectMembers(other, 2)
		other.push(1)
		ended := other.answer()
		time.Sleep(40 * time.Second) // of the bubble's clock
		if closed := slow.expectClose(); closed.Code != wire.CloseOverloaded {
			t.Errorf("closed with %v", closed)
		}
		_ = other.conn.Close()
		<-ended
	})
}

// expectMembers reads until the room has n members, and returns them.
func expectMembers(p *peer, n int) []wire.Peer {
	p.t.Helper()
	for {
		if clients := expect[wire.Connections](p).Clients; len(clients) == n {
			return clients
		}
	}
}

// A socket that takes nothing at all is cut off, and its pushes in flight stay answered for nobody.
func TestStalledSocketIsCutOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setupPipe(t)
		s.join("plan", 0xa)
		other := s.join("plan", 0xb)
		begin := time.Now()
		expectMembers(other, 1)
		if d := time.Since(begin); d > 70*time.Second {
			t.Errorf("after %v", d)
		}
	})
}

// However much is asked of the server by a socket that does not read, it is the sender that waits.
func TestRepliesAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setupPipe(t, func(cfg *realtime.Config) { cfg.Limits.ReplyBytes = 1000 })
		p := s.join("plan", 0xa)
		sent := 0
		for _ = p.conn.SetWriteDeadline(time.Now().Add(time.Second)); sent < 1000; sent++ {
			if p.conn.WriteMessage(websocket.TextMessage, []byte(`{"type":"ping"}`)) != nil {
				break
			}
		}
		if sent > 20 {
			t.Errorf("%d pings taken in", sent)
		}
	})
}

// A push that is refused at once is not answered before those that came ahead of it.
func TestPushesAreAnsweredInOrder(t *testing.T) {
	t.Parallel()
	s := setup(t, fast)
	p := s.join("plan", 0xa)
	gate := make(chan struct{})
	s.store.set(func(f *fakeStore) { f.gate = gate })
	p.send(wire.Push{ID: "1", Ops: []moveop.Op{p.move()}})
	p.send(wire.Push{ID: "2"})
	p.raw([]byte(`{"type":"push","id":"3","ops":[{"kind":"copy"}]}`))
	p.send(wire.Push{ID: "4", Ops: []moveop.Op{p.move()}})
	p.send(wire.Ping{}) // is not held up
	var answers []string
	for len(answers) < 5 {
		switch msg := p.next().(type) {
		case wire.ServerStatus:
			answers = append(answers, "status")
			close(gate)
		case wire.Ack:
			answers = append(answers, "ack "+msg.ID)
		case wire.Nack:
			answers = append(answers, "nack "+msg.ID)
		}
	}
	if want := []string{"status", "ack 1", "nack 2", "nack 3", "ack 4"}; !slices.Equal(answers, want) {
		t.Errorf("got %q, want %q", answers, want)
	}
}

func TestDrainFinishesWhatIsInFlight(t *testing.T) {
	t.Parallel()
	s := setup(t, fast)
	a, idle := s.join("plan", 0xa), s.join("plan", 0xb)
	a.push(1)
	gate, applying := make(chan struct{}), make(chan struct{})
	s.store.set(func(f *fakeStore) {
		f.gate = gate
	})
	a.send(wire.Push{ID: "in flight", Ops: []moveop.Op{a.move()}})
	go func() { // once the batch is with the store
		defer close(applying)
		for n := 0; n < 2; {
			s.store.set(func(f *fakeStore) { n = len(f.applies) })
		}
	}()
	<-applying
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	closed := idle.expectClose()
	delay, ok := wire.ParseRestartReason(closed.Text)
	if closed.Code != wire.CloseRestart || !ok || delay < time.Second || delay > 2*time.Second {
		t.Errorf("closed with %v", closed)
	}
	if resp, err := s.http.Get(s.url("/healthz")); err == nil {
		_ = resp.Body.Close()
		t.Error("still accepting")
	}
	close(gate)
	if ack := expect[wire.Ack](a); ack.ID != "in flight" || ack.Head != 2 {
		t.Errorf("ack %+v", ack)
	}
	if closed := a.expectClose(); closed.Code != wire.CloseRestart {
		t.Errorf("closed with %v", closed)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// A store that never answers is not waited for longer than Drain.
func TestDrainIsCutShort(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		srv, err := realtime.New(realtime.Config{Store: store})
		if err != nil {
			t.Fatal(err)
		}
		l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
		ctx, cancel := context.WithCancel(context.Background())
		served := make(chan error, 1)
		go func() { served <- srv.Serve(ctx, l) }()
		s := &service{t: t, store: store, dial: l.dial, host: l.Addr().String()}
		p := s.join("plan", 0xa)
		store.set(func(f *fakeStore) { f.gate = make(chan struct{}) })
		p.send(wire.Push{ID: "stuck", Ops: []moveop.Op{p.move()}})
		synctest.Wait()
		begin := time.Now()
		cancel()
		if err := <-served; err == nil {
			t.Error("Serve says that all went well")
		}
		if d := time.Since(begin); d < 15*time.Second || d > 20*time.Second {
			t.Errorf("after %v", d)
		}
	})
}

func TestPanicsAreSurvived(t *testing.T) {
	t.Parallel()
	s := setup(t, fast, func(cfg *realtime.Config) {
		cfg.Authorize = func(_ context.Context, token, _ string) (realtime.Grant, error) {
			if token == "panic" {
				panic("authorize")
			}
			return realtime.Grant{Read: true, Write: true}, nil
		}
	})
	a := s.join("plan", 0xa)
	a.push(1)
	s.store.set(func(f *fakeStore) { f.before = func([]moveop.Op) error { panic("apply") } })
	a.send(wire.Push{ID: "x", Ops: []moveop.Op{a.move()}})
	if nack := expect[wire.Nack](a); nack.ID != "x" || nack.Code != wire.CodeInternal || !nack.Retryable {
		t.Errorf("nack %+v", nack)
	}
	s.store.set(func(f *fakeStore) { f.before = nil })
	b := s.connect("plan")
	b.send(wire.Hello{Replica: 0xb, Token: "panic"})
	if closed := b.expectClose(); closed.Code != wire.CloseOverloaded {
		t.Errorf("closed with %v", closed)
	}
	_, resp, err := s.socket("plan", wire.JSON, http.Header{"Authorization": {"Bearer panic"}})
	if err == nil || resp.StatusCode != 500 {
		t.Errorf("upgrade: %v", err)
	}
	a.push(1)
}

func TestStoreFailureIsRetryable(t *testing.T) {
	t.Parallel()
	s := setup(t, fast)
	a := s.join("plan", 0xa)
	a.push(1)
	s.store.set(func(f *fakeStore) { f.broken = errors.New("connection refused: secret.internal:5432") })
	ops := []moveop.Op{a.move()}
	a.send(wire.Push{ID: "x", Ops: ops})
	nack := expect[wire.Nack](a)
	if nack.Code != wire.CodeInternal || !nack.Retryable || nack.Message != "internal error" {
		t.Errorf("nack %+v", nack)
	}
	if status, _ := get[map[string]any](s, "/readyz"); status != 503 {
		t.Errorf("readyz %d", status)
	}
	s.store.set(func(f *fakeStore) { f.broken = fmt.Errorf("secret.internal:5432: %w", wire.ErrUnavailable) })
	a.send(wire.Push{ID: "x", Ops: ops})
	nack = expect[wire.Nack](a)
	if nack.Code != wire.CodeBusy || !nack.Retryable || nack.Message != "the database is not available" {
		t.Errorf("nack %+v", nack)
	}
	if status, _ := get[map[string]any](s, "/v1/rooms/plan/stats"); status != 503 {
		t.Errorf("stats %d", status)
	}
	s.store.set(func(f *fakeStore) { f.broken = nil })
	a.send(wire.Push{ID: "x", Ops: ops})
	expect[wire.Ack](a)
	a.readTo(2)
}

// A client sets its clock by the nack, so it has to be the clock that found it wrong.
func TestSkewIsToldByTheClockThatFoundIt(t *testing.T) {
	t.Parallel()
	s := setup(t, fast)
	a := s.join("plan", 0xa)
	skewed := wire.NewError(wire.CodeClockSkew, "ahead")
	skewed.ServerTime = 1_700_000_000_123
	s.store.set(func(f *fakeStore) { f.before = func([]moveop.Op) error { return skewed } })
	a.send(wire.Push{ID: "x", Ops: []moveop.Op{a.move()}})
	if nack := expect[wire.Nack](a); nack.Code != wire.CodeClockSkew || nack.ServerTime != skewed.ServerTime {
		t.Errorf("nack %+v", nack)
	}
}

// Pushes that arrive while a transaction is in flight go together into the next one, and only the
// guilty one of them is refused.
func TestGroupCommit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setupPipe(t)
		s.seed("plan", 1)
		first := s.join("plan", 0xa)
		gate := make(chan struct{})
		s.store.set(func(f *fakeStore) { f.gate, f.applies = gate, nil })
		first.send(wire.Push{ID: "1", Ops: []moveop.Op{first.move()}})
		synctest.Wait() // it is with the store before the others come
		var others []*peer
		for i := range 5 {
			p := s.join("plan", moveop.ReplicaID(0x10+i))
			ops := []moveop.Op{p.move(), p.move()}
			if i == 3 {
				ops = []moveop.Op{moveBy(p.replica, 1)}
				ops[0].TS = moveop.NewTimestamp(time.Now().Add(time.Hour).UnixMilli(), 0, p.replica)
			}
			p.send(wire.Push{ID: "n", Ops: ops})
			others = append(others, p)
		}
		synctest.Wait()
		close(gate)
		expect[wire.Ack](first)
		for i, p := range others {
			if i == 3 {
				if nack := expect[wire.Nack](p); nack.Code != wire.CodeClockSkew {
					t.Errorf("nack %+v", nack)
				}
				continue
			}
			if ack := expect[wire.Ack](p); len(ack.Results) != 2 || ack.Results[0].TS != moveBy(p.replica, 1).TS {
				t.Errorf("ack %+v", ack)
			}
		}
		s.store.set(func(f *fakeStore) {
			if len(f.applies[1]) != 9 || len(f.applies) != 2+5 {
				t.Errorf("%d batches, the second of %d ops", len(f.applies), len(f.applies[1]))
			}
		})
		first.readTo(10)
	})
}

// Large pushes and small ones take turns, so that nobody who types waits for more than one large one; and
// each replica's stay in order.
func TestUploadsDoNotHoldOthersUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setupPipe(t)
		s.seed("plan", 1)
		gate := make(chan struct{})
		s.store.set(func(f *fakeStore) { f.gate, f.applies = gate, nil })
		pushed := func(p *peer, n int) {
			var ops []moveop.Op
			for range n {
				ops = append(ops, p.move())
			}
			p.send(wire.Push{ID: "n", Ops: ops})
			synctest.Wait()
		}
		first, a, b, c := s.join("plan", 1), s.join("plan", 0xa), s.join("plan", 0xb), s.join("plan", 0xc)
		pushed(first, 1) // it is with the store before the others come
		pushed(a, 60)
		pushed(a, 40)
		pushed(a, 1) // behind the large ones of its replica
		pushed(b, 60)
		pushed(b, 61)
		pushed(c, 1)
		pushed(first, 2)
		close(gate)
		for p, acks := range map[*peer]int{first: 2, a: 3, b: 2, c: 1} {
			for range acks {
				expect[wire.Ack](p)
			}
			p.readTo(226)
		}
		var batches []string
		s.store.set(func(f *fakeStore) {
			for _, ops := range f.applies {
				counts := map[uint64]int{}
				for _, op := range ops {
					counts[uint64(op.TS.Replica())]++
				}
				batches = append(batches, fmt.Sprint(counts))
			}
		})
		want := []string{
			"map[1:1]",
			"map[10:100]",        // the two fit into one group
			"map[1:2 10:1 12:1]", // a's, now that its large ones are through
			"map[11:60]",
			"map[11:61]",
		}
		if !slices.Equal(batches, want) {
			t.Errorf("batches %v, want %v", batches, want)
		}
	})
}
