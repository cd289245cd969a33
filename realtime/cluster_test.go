package realtime_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime"
	"github.com/canopysync/canopy/realtime/wire"
)

// watcher is a socket that is always read, and what it has been told so far.
type watcher struct {
	*peer
	news chan struct{} // something was told

	mu       sync.Mutex // guards what follows
	clients  []wire.Peer
	presence map[moveop.ReplicaID]string
	codes    []wire.Code
	closed   int
}

// watch says hello and reads from then on.
func (s *service) watch(room string, replica moveop.ReplicaID) *watcher {
	s.t.Helper()
	p := s.connect(room)
	p.replica = replica
	w := &watcher{peer: p, news: make(chan struct{}, 1), presence: map[moveop.ReplicaID]string{}}
	p.send(wire.Hello{Replica: replica, Name: "replica " + replica.String()})
	go w.read()
	return w
}

func (w *watcher) read() {
	defer close(w.news)
	for {
		_, data, err := w.conn.ReadMessage()
		if err != nil {
			w.mu.Lock()
			defer w.mu.Unlock()
			if closed, ok := errors.AsType[*websocket.CloseError](err); ok {
				w.closed = closed.Code
			}
			return
		}
		msg, err := w.codec.Decode(data)
		if err != nil {
			w.t.Errorf("decode %s: %v", data, err)
			return
		}
		w.note(msg)
		select {
		case w.news <- struct{}{}:
		default:
		}
	}
}

// await waits until the socket has been told what makes ok true, or was closed.
func (w *watcher) await(ok func() bool) {
	w.t.Helper()
	for !ok() {
		if _, open := <-w.news; !open && !ok() {
			w.t.Fatalf("%s was closed: it knows of %q and is shown %q", w.replica, w.here(), w.shown())
		}
	}
}

func (w *watcher) awaitHere(want string) { w.await(func() bool { return w.here() == want }) }

func (w *watcher) awaitShown(want string) { w.await(func() bool { return w.shown() == want }) }

// awaitEnd waits until the socket is closed.
func (w *watcher) awaitEnd() {
	for range w.news {
	}
}

// discard reads a socket to its end.
func discard(p *peer) {
	for {
		if _, _, err := p.conn.NextReader(); err != nil {
			return
		}
	}
}

func (w *watcher) note(msg wire.Message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch msg := msg.(type) {
	case wire.Welcome:
		w.clients = msg.Clients
	case wire.Connections:
		w.clients = msg.Clients
	case wire.Ops:
		w.cursor = msg.To
	case *wire.Error:
		w.codes = append(w.codes, msg.Code)
	case wire.Presence:
		for replica, state := range msg.Updates {
			w.presence[replica] = string(state)
			if string(state) == "null" {
				delete(w.presence, replica)
			}
		}
	}
}

// here lists the replicas that the socket knows to be in the room.
func (w *watcher) here() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var names []string
	for _, c := range w.clients {
		if c.Name != "replica "+c.Replica.String() {
			w.t.Errorf("%s is called %q", c.Replica, c.Name)
		}
		names = append(names, strings.TrimLeft(c.Replica.String(), "0"))
	}
	return strings.Join(names, " ")
}

// shown lists the presence that the socket knows of.
func (w *watcher) shown() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var shown []string
	for _, r := range slices.Sorted(maps.Keys(w.presence)) {
		shown = append(shown, strings.TrimLeft(r.String(), "0")+w.presence[r])
	}
	return strings.Join(shown, " ")
}

func (w *watcher) expectHere(want string) {
	w.t.Helper()
	if got := w.here(); got != want {
		w.t.Errorf("%s knows of %q, not %q", w.replica, got, want)
	}
}

func (w *watcher) expectShown(want string) {
	w.t.Helper()
	if got := w.shown(); got != want {
		w.t.Errorf("%s is shown %q, not %q", w.replica, got, want)
	}
}

// expectInUse expects the socket to have been refused for its replica.
func (w *watcher) expectInUse() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed != wire.CloseReplicaInUse || !slices.Equal(w.codes, []wire.Code{wire.CodeReplicaInUse}) {
		w.t.Errorf("closed with %d after %v", w.closed, w.codes)
	}
}

func (w *watcher) expectOpen() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed != 0 || w.clients == nil || len(w.codes) != 0 {
		w.t.Errorf("closed with %d after %v, clients %v", w.closed, w.codes, w.clients)
	}
}

func (w *watcher) show(state string) {
	w.t.Helper()
	w.send(wire.Presence{State: json.RawMessage(state)})
}

// settle lets what is on its way arrive.
func settle() {
	time.Sleep(300 * time.Millisecond) // of the bubble's clock: some ticks of presence
	synctest.Wait()
}

// What is told of a room's people is told of all of them, wherever they are.
func TestMembersElsewhere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, servers, _ := setupCluster(t, 3)
		servers[0].seed("plan", 1)
		a := servers[0].watch("plan", 0xa)
		settle()
		begin := time.Now()
		welcome := servers[1].join("plan", 0xb).hello(0xb, nil, 0)
		if len(welcome.Clients) != 2 || welcome.Clients[0].Replica != 0xa || time.Since(begin) > 100*time.Millisecond {
			t.Errorf("welcome with %+v after %v", welcome.Clients, time.Since(begin))
		}
		c := servers[1].watch("plan", 0xc)
		settle()
		a.expectHere("a b c")
		c.expectHere("a b c")
		for i, s := range servers {
			if _, stats := get[wire.Stats](s, "/v1/rooms/plan/stats"); stats.Connections != 3 {
				t.Errorf("server %d counts %d connections", i, stats.Connections)
			}
		}
		other := servers[2].watch("other", 0xd)
		_ = c.conn.Close()
		settle()
		a.expectHere("a b")
		other.expectHere("d")
		a.send(wire.Ping{})
		settle()
		a.expectHere("a b")
	})
}

func TestPresenceElsewhere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, servers, _ := setupCluster(t, 3)
		a, b := servers[0].watch("plan", 0xa), servers[1].watch("plan", 0xb)
		settle()
		a.show(`{"x":1}`)
		b.show(`[2]`)
		settle()
		late := servers[2].watch("plan", 0xc)
		settle()
		for _, w := range []*watcher{a, b, late} {
			w.expectShown(`a{"x":1} b[2]`)
		}
		a.show(`{"x":3}`)
		b.show(`null`)
		settle()
		for _, w := range []*watcher{a, b, late} {
			w.expectShown(`a{"x":3}`)
		}
		_ = a.conn.Close()
		settle()
		b.expectShown("")
		late.expectShown("")
	})
}

// The limit is for what was sent, not for what JSON makes of it between processes.
func TestPresenceElsewhereMayNeedEscapes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, servers, _ := setupCluster(t, 2)
		a, b := servers[0].watch("plan", 0xa), servers[1].watch("plan", 0xb)
		settle()
		for _, c := range []string{"<", "&", "\u2028"} {
			state := `"` + strings.Repeat(c, 4094/len(c)) + `"`
			a.raw([]byte(`{"type":"presence","state":` + state + `}`))
			settle()
			var shown string
			if text := strings.TrimPrefix(b.shown(), "a"); json.Unmarshal([]byte(text), &shown) != nil || `"`+shown+`"` != state {
				t.Errorf("%q: %.20s is shown, of %d bytes", c, text, len(text))
			}
		}
	})
}

// One replica has one socket, at whichever process: the one that is there is asked for a sign of life.
func TestOneSocketElsewhere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, servers, _ := setupCluster(t, 2)
		first := servers[0].watch("plan", 0xa)
		settle()
		second := servers[1].watch("plan", 0xa)
		settle()
		second.expectInUse()
		first.expectOpen()
		first.expectHere("a")

		// Who has left is not in the way of itself, even if the other process has not told yet.
		_ = first.conn.Close()
		synctest.Wait()
		third := servers[1].watch("plan", 0xa)
		settle()
		third.expectOpen()

		// Nobody reads this socket, so nobody answers for it: it makes way.
		servers[0].join("other", 0xb)
		settle()
		begin := time.Now()
		p := servers[1].join("other", 0xb)
		if d := time.Since(begin); d < 2*time.Second || d > 3*time.Second {
			t.Errorf("let in after %v", d)
		}
		_ = p.conn.Close()
		settle()
		third.expectOpen()
	})
}

// Two processes that could not hear each other let one replica in twice; when they can, the one that
// came later has to go.
func TestOneSocketAfterASplit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, servers, stops := setupCluster(t, 2)
		stops[0].setCut(true)
		first := servers[0].watch("plan", 0xa)
		settle()
		second := servers[1].watch("plan", 0xa)
		time.Sleep(time.Second) // it waits for the other process to answer
		synctest.Wait()
		second.expectOpen()
		stops[0].setCut(false)
		settle()
		first.expectOpen()
		second.expectInUse()
		first.expectHere("a")
	})
}

// Two that say hello at one time do not both stay, nor do they both go.
func TestOneSocketInARace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, servers, _ := setupCluster(t, 3)
		var all []*watcher
		for _, s := range servers {
			all = append(all, s.watch("plan", 0xa))
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		open := 0
		for _, w := range all {
			if w.closed == 0 {
				open++
				w.expectHere("a")
			} else {
				w.expectInUse()
			}
		}
		if open != 1 {
			t.Errorf("%d sockets stay", open)
		}
	})
}

// A process that is no more, or cannot be heard, leaves nobody behind for longer than three heartbeats;
// nor does it keep its replicas from coming back elsewhere.
func TestGhosts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, servers, stops := setupCluster(t, 3)
		a, b := servers[0].watch("plan", 0xa), servers[1].watch("plan", 0xb)
		servers[0].watch("plan", 0xc)
		a.show("1")
		settle()
		b.expectHere("a b c")
		b.expectShown("a1")
		stops[0].setCut(true)
		begin := time.Now()
		back := servers[2].watch("plan", 0xc)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		back.expectOpen()
		time.Sleep(time.Until(begin.Add(21 * time.Second)))
		synctest.Wait()
		for _, w := range []*watcher{b, back} {
			w.expectHere("b c")
			w.expectShown("")
		}
		a.expectHere("a c") // it cannot hear the others either
		_ = back.conn.Close()
		stops[0].setCut(false)
		settle()
		b.expectHere("a b c")
		b.expectShown("a1")
		a.expectHere("a b c")

		// One that ends in good order is gone at once.
		if err := servers[0].stop(); err != nil {
			t.Error(err)
		}
		settle()
		b.expectHere("b")
		b.expectShown("")
	})
}

// What could not be sent is sent when that works again.
func TestSendFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bus, servers, _ := setupCluster(t, 2, func(cfg *realtime.Config) {
			cfg.Timing.HintedPoll, cfg.Timing.Head = time.Hour, time.Hour
		})
		servers[0].seed("plan", 1)
		a, b := servers[0].join("plan", 0xa), servers[1].watch("plan", 0xb)
		settle()
		bus.setErr(errors.New("out of order"))
		a.push(1)
		c := servers[0].watch("plan", 0xc)
		settle()
		c.show("1")
		time.Sleep(5 * time.Second)
		synctest.Wait()
		b.expectHere("a b")
		bus.setErr(nil)
		settle()
		b.expectHere("a b c")
		b.expectShown("c1")
		if b.cursor != 2 {
			t.Errorf("cursor %d", b.cursor)
		}
		if got := servers[0].metric("canopy_realtime_transport_failures_total"); got == "0" {
			t.Error("no failure counted")
		}
	})
}

// Whoever is heard again says what was lost, also where everybody else was back before, and asked in vain.
func TestPresenceAfterASplit(t *testing.T) {
	t.Parallel()
	for _, back := range [][]int{{0, 1, 2}, {1, 2, 0}, {2, 0, 1}} {
		t.Run(fmt.Sprint(back), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				_, servers, stops := setupCluster(t, 3)
				var people []*watcher
				for i, s := range servers {
					people = append(people, s.watch("plan", moveop.ReplicaID(0xa+i)))
				}
				settle()
				for _, s := range stops {
					s.swallow(true) // what is sent is lost without an error
				}
				people[0].show("0")
				settle()
				for _, s := range stops {
					s.setCut(true)
				}
				people[1].show("1")
				settle()
				for _, i := range back {
					stops[i].swallow(false)
					stops[i].setCut(false)
					settle()
				}
				for _, w := range people {
					w.expectShown("a0 b1")
				}
			})
		})
	}
}

// deaf is a transport to which nothing gets through, until it is given up.
type deaf struct{ sending chan struct{} }

func (d deaf) Send(ctx context.Context, _ map[string][]byte) error {
	select {
	case d.sending <- struct{}{}:
	default:
	}
	<-ctx.Done()
	return ctx.Err()
}

func (deaf) Listen(ctx context.Context, _ func(string, []byte), live func(bool)) {
	live(true)
	<-ctx.Done()
}

func (deaf) Follow(string) (unfollow func()) { return func() {} }
func (deaf) CarriesOps() bool                { return false }

// A batch that stopping breaks off is no fault that somebody has to look at.
func TestStoppingIsNoFailureToSend(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		transport, log := deaf{make(chan struct{}, 1)}, new(lines)
		s := setupPipe(t, func(cfg *realtime.Config) {
			cfg.Transport, cfg.Logger = transport, slog.New(slog.NewJSONHandler(log, nil))
		})
		<-transport.sending
		if err := s.stop(); err != nil {
			t.Fatal(err)
		}
		if failed := log.about(t, "tell other processes"); len(failed) > 0 {
			t.Errorf("logged %v", failed)
		}
	})
}

// Many people moving their cursors at 20 Hz, with large states, cost the transport a fixed number of
// bytes, and commits do not wait for them.
func TestPresenceElsewhereIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const limit, people, seconds = 16 << 10, 50, 2
		bus, servers, _ := setupCluster(t, 2, func(cfg *realtime.Config) {
			cfg.Limits.TransportPresence = limit
			cfg.Timing.HintedPoll, cfg.Timing.Head = time.Hour, time.Hour
		})
		servers[0].seed("plan", 1)
		b := servers[1].watch("plan", 0xb)
		author := servers[0].watch("plan", 0xa)
		var movers []*peer
		for i := range people {
			m := servers[0].join("plan", moveop.ReplicaID(0x100+i))
			go discard(m)
			movers = append(movers, m)
		}
		settle()
		before, pad := bus.bytes(), strings.Repeat("x", 400)
		for tick := range seconds * 20 {
			for _, m := range movers {
				m.send(wire.Presence{State: json.RawMessage(fmt.Sprintf(`"%d %s"`, tick, pad))})
			}
			if tick == 20 {
				author.send(wire.Push{ID: "p", Ops: []moveop.Op{author.move()}})
				time.Sleep(6 * time.Millisecond)
				synctest.Wait()
				if b.cursor != 2 {
					t.Errorf("cursor %d: the commit waits", b.cursor)
				}
			}
			time.Sleep(50 * time.Millisecond)
		}
		if sent := bus.bytes() - before; sent > (seconds+1)*limit+40<<10 { // a first second's worth, and a letter
			t.Errorf("%d bytes in %d s", sent, seconds)
		}
		time.Sleep(10 * time.Second) // the newest states get there all the same
		synctest.Wait()
		last := fmt.Sprintf(`"%d %s"`, seconds*20-1, pad)
		for _, m := range movers {
			if b.presence[m.replica] != last {
				t.Fatalf("%s is shown as %.10s", m.replica, b.presence[m.replica])
			}
		}
	})
}

// A process that is alone tells nobody who is there: only that it is, and what is committed.
func TestAloneNothingIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bus, servers, _ := setupCluster(t, 1)
		a := servers[0].watch("plan", 0xa)
		for range 100 {
			a.show("1")
			time.Sleep(100 * time.Millisecond)
		}
		if sent := bus.bytes(); sent > 300 {
			t.Errorf("%d bytes", sent)
		}
	})
}

// A list that is too long for a letter is told in part; those who are told of are those longest there.
func TestRosterIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, servers, _ := setupCluster(t, 2, func(cfg *realtime.Config) { cfg.Limits.RosterBytes = 1000 })
		for i := range 30 {
			servers[0].watch("plan", moveop.ReplicaID(0x10+i))
			settle() // each comes at another time
		}
		b := servers[1].watch("plan", 0xb)
		settle()
		if here := b.here(); !strings.HasPrefix(here, "b 10 11 12 13") || len(strings.Fields(here)) > 12 {
			t.Errorf("b knows of %s", here)
		}
	})
}

// What makes no sense changes nothing.
func TestForgedLetters(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bus, servers, _ := setupCluster(t, 1)
		a := servers[0].watch("plan", 0xa)
		settle()
		for _, letter := range []string{
			"", "x", "null", "[]", "{}", `{"from":""}`, `{"from":"f","head":-1}`, `{"from":"f","head":"x"}`,
			`{"from":"f","version":1}`, `{"from":"f","version":-1,"members":[]}`, `{"from":"f","members":[{}]}`,
			`{"from":"f","version":2,"members":[{"replica":"0000000000000000","since":1}]}`,
			`{"from":"f","version":3,"members":[{"replica":"x"}]}`,
			`{"from":"f","presence":{"000000000000000b":1}}`, `{"from":"f","presence":{"000000000000000a":1}}`,
			`{"from":"f","alive":["000000000000000a"]}`, `{"from":"f","asks":["","../..","PLAN"]}`,
		} {
			bus.say("plan", letter)
			bus.say("", letter)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		a.expectOpen()
		a.expectHere("a")
		a.expectShown("")
		if got := servers[0].metric("canopy_realtime_panics_total"); got != "0" {
			t.Errorf("%s panics", got)
		}
	})
}
