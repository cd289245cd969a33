package realtime_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime"
	"github.com/canopysync/canopy/realtime/wire"
)

func TestEverybodyGetsTheLog(t *testing.T) {
	t.Parallel()
	s := setup(t, fast)
	a := s.join("plan", 0xa)
	b, _, err := s.socket("plan", wire.Binary, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.hello(0xb, nil, 0)
	for range 5 {
		a.push(3)
		b.push(2)
	}
	late := s.join("plan", 0xc)
	for _, p := range []*peer{a, b, late} {
		p.readTo(25)
		if !sameOps(p.log, s.stored("plan")) {
			t.Errorf("%s: %d ops that are not the log", p.codec.Subprotocol(), len(p.log))
		}
	}
}

func TestAckComesAfterCommit(t *testing.T) {
	t.Parallel()
	s := setup(t, fast)
	a := s.join("plan", 0xa)
	first := a.push(2)
	if first.Head != 2 || len(first.Results) != 2 || first.Results[1].Seq != 2 || first.Results[1].Status != wire.StatusApplied {
		t.Errorf("ack %+v", first)
	}
	again := []moveop.Op{moveBy(0xa, 1), moveBy(0xa, 2), moveBy(0xa, 3)}
	a.send(wire.Push{ID: "again", Ops: again})
	ack := expect[wire.Ack](a)
	want := []wire.Result{
		{TS: again[0].TS, Seq: 1, Status: wire.StatusDuplicate},
		{TS: again[1].TS, Seq: 2, Status: wire.StatusDuplicate},
		{TS: again[2].TS, Seq: 3, Status: wire.StatusApplied},
	}
	if ack.ID != "again" || ack.Head != 3 || fmt.Sprint(ack.Results) != fmt.Sprint(want) {
		t.Errorf("ack %+v", ack)
	}
	a.readTo(3)
}

func TestWelcome(t *testing.T) {
	t.Parallel()
	s := setup(t, fast)
	room := s.seed("plan", 4)
	p := s.connect("plan")
	w := p.hello(0x5eed, &room.Epoch, 4)
	newest := moveBy(0x5eed, 4).TS
	if w.Epoch != room.Epoch || w.Head != 4 || w.MinSeq != 0 || w.Status != wire.Ready ||
		w.LastTS == nil || *w.LastTS != newest ||
		w.Limits != (wire.Limits{MaxOps: 1000, MaxFrame: 1 << 20}) ||
		len(w.Clients) != 1 || w.Clients[0].Replica != 0x5eed {
		t.Errorf("welcome %+v", w)
	}
	if d := time.Since(time.UnixMilli(w.ServerTime)); d > time.Minute || d < -time.Minute {
		t.Errorf("server time is off by %v", d)
	}
	if w := s.connect("nowhere").hello(0xa, nil, 0); w.Head != 0 || len(w.Epoch) != 36 || w.LastTS != nil {
		t.Errorf("welcome to a room that does not exist: %+v", w)
	}
}

func TestCursors(t *testing.T) {
	t.Parallel()
	other := "11111111-1111-4111-8111-111111111111"
	for _, tc := range []struct {
		name   string
		minSeq int64
		own    bool // the cursor has the room's epoch
		epoch  *string
		seq    int64
		resync string // empty: ops from seq+1
	}{
		{"nothing yet", 0, false, nil, 0, ""},
		{"nothing of another history", 0, false, &other, 0, ""},
		{"in the middle", 0, true, nil, 3, ""},
		{"at the head", 0, true, nil, 6, ""},
		{"another history", 0, false, &other, 3, wire.ResyncEpoch},
		{"no history", 0, false, nil, 3, wire.ResyncEpoch},
		{"beyond the head", 0, true, nil, 7, wire.ResyncEpoch},
		{"at the horizon", 3, true, nil, 3, ""},
		{"below the horizon", 3, true, nil, 2, wire.ResyncCompacted},
		{"nothing yet, compacted", 3, false, nil, 0, wire.ResyncCompacted},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := setup(t, fast)
			room := s.seed("plan", 6)
			s.store.set(func(f *fakeStore) { f.rooms["plan"].MinSeq = tc.minSeq })
			epoch := tc.epoch
			if tc.own {
				epoch = &room.Epoch
			}
			p := s.connect("plan")
			p.hello(0xa, epoch, tc.seq)
			if tc.resync == "" {
				p.readTo(6)
				return
			}
			got := expect[wire.Resync](p)
			if got != (wire.Resync{Reason: tc.resync, Epoch: room.Epoch, Head: 6}) {
				t.Errorf("resync %+v", got)
			}
			p.send(wire.Push{ID: "early", Ops: []moveop.Op{moveBy(0xa, 1)}})
			if nack := expect[wire.Nack](p); nack.Code != wire.CodeBusy || !nack.Retryable {
				t.Errorf("push before the bootstrap: %+v", nack)
			}
			p.hello(0xa, &room.Epoch, 5) // as after a bootstrap
			p.push(1)
			p.readTo(7)
		})
	}
}

// The largest op fits into a frame of MaxFrame bytes, on its way in and out.
func TestLargestOp(t *testing.T) {
	t.Parallel()
	s := setup(t, fast)
	a := s.join("plan", 0xa)
	a.conn.SetReadLimit(1 << 20)
	op := a.move()
	op = moveop.Op{
		Kind: moveop.Set, TS: op.TS, Node: op.Node, Key: strings.Repeat("<", 255),
		Value: json.RawMessage(`"` + strings.Repeat("x", 1000<<10-2) + `"`), Known: 1<<53 - 1,
	}
	a.send(wire.Push{ID: strings.Repeat("i", 128), Ops: []moveop.Op{op}})
	expect[wire.Ack](a)
	a.readTo(1)
}

// What a socket has missed comes in few frames, though it was pushed in many.
func TestCatchingUpIsOneFrame(t *testing.T) {
	t.Parallel()
	const largest = 256<<10 - 2
	for _, tc := range []struct {
		name          string
		value, pushes int
		maxOps        int
		want          int64 // the end of the first frame
	}{
		{"all of it", 1, 6, 1000, 6},
		{"as many operations as a frame may have", 1, 6, 4, 4},
		{"as many bytes as a frame may have", largest, 6, 1000, 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := setup(t, fast, func(cfg *realtime.Config) { cfg.Limits.MaxOps = tc.maxOps })
			a := s.join("plan", 0xa)
			text, _ := json.Marshal(strings.Repeat("x", tc.value))
			for i := range tc.pushes {
				op := a.move()
				op = moveop.Op{Kind: moveop.Set, TS: op.TS, Node: op.Node, Key: "text", Value: text}
				a.send(wire.Push{ID: "x", Ops: []moveop.Op{op}})
				expect[wire.Ack](a)
				a.readTo(int64(i + 1))
			}
			b := s.connect("plan")
			b.hello(0xb, nil, 0)
			if ops := expect[wire.Ops](b); ops.From != 1 || ops.To != tc.want {
				t.Errorf("missed %d to %d, want 1 to %d", ops.From, ops.To, tc.want)
			}
			b.readTo(int64(tc.pushes))
			b.cursor, b.log = 1, nil
			b.send(wire.Pull{After: 1})
			if ops := expect[wire.Ops](b); ops.From != 2 || ops.To != min(tc.want+1, int64(tc.pushes)) {
				t.Errorf("pulled %d to %d", ops.From, ops.To)
			}
			b.readTo(int64(tc.pushes))
		})
	}
}

func TestPullSendsAgain(t *testing.T) {
	t.Parallel()
	s := setup(t, fast)
	a := s.join("plan", 0xa)
	a.push(5)
	a.readTo(5)
	a.cursor, a.log = 2, nil
	a.send(wire.Pull{After: 2})
	a.readTo(5)
	a.send(wire.Pull{After: 6})
	if got := expect[wire.Resync](a); got.Reason != wire.ResyncEpoch {
		t.Errorf("pull beyond the head: %+v", got)
	}
}

// A frame holds no more than the limits allow, however much is behind.
func TestCatchUpInBoundedFrames(t *testing.T) {
	t.Parallel()
	s := setup(t, fast, func(cfg *realtime.Config) { cfg.Limits.MaxOps = 10 })
	room := s.seed("plan", 95)
	value, _ := json.Marshal(fmt.Sprintf("%0200000d", 7))
	var large []moveop.Op
	for i := range 12 {
		op := moveBy(0x1a, uint16(i+1))
		large = append(large, moveop.Op{Kind: moveop.Set, TS: op.TS, Node: op.Node, Key: "text", Value: value})
	}
	if _, err := s.store.Apply(t.Context(), "plan", large); err != nil {
		t.Fatal(err)
	}
	p := s.connect("plan")
	p.conn.SetReadLimit(1 << 20)
	p.hello(0xa, &room.Epoch, 3)
	for p.cursor < 107 {
		if ops, ok := p.next().(wire.Ops); ok && len(ops.Ops) > 10 {
			t.Fatalf("%d ops in a frame", len(ops.Ops))
		}
	}
	if !sameOps(p.log, s.stored("plan")[3:]) {
		t.Error("not the log")
	}
}

func TestOtherProcessesCommitsAreRelayed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setupPipe(t)
		s.seed("plan", 1)
		p := s.join("plan", 0xa)
		p.readTo(1)
		s.commit("plan", 0xb, 1, 3)
		begin := time.Now()
		p.readTo(4)
		if d := time.Since(begin); d > time.Second {
			t.Errorf("after %v", d)
		}
	})
}

func TestIdleRoomSendsItsHead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setupPipe(t)
		room := s.seed("plan", 3)
		p := s.join("plan", 0xa)
		for range 2 {
			begin := time.Now()
			head := expect[wire.Head](p)
			if head.Head != 3 || head.Digest != room.Digest {
				t.Errorf("head %+v", head)
			}
			if d := time.Since(begin); d > 6*time.Second {
				t.Errorf("after %v", d)
			}
		}
	})
}

// Two processes told their sockets different epochs for a room that did not exist; the second one to
// push finds the room there, and its sockets are told.
func TestRoomMadeElsewhere(t *testing.T) {
	t.Parallel()
	s := setup(t, func(cfg *realtime.Config) { cfg.Timing.Poll = time.Hour })
	p := s.connect("plan")
	proposed := p.hello(0xa, nil, 0).Epoch
	room := s.seed("plan", 2)
	op := p.move()
	p.send(wire.Push{ID: "x", Ops: []moveop.Op{op}})
	var nack wire.Nack
	var resync wire.Resync
	for nack.Code == "" || resync.Reason == "" {
		switch msg := p.next().(type) {
		case wire.Nack:
			nack = msg
		case wire.Resync:
			resync = msg
		}
	}
	if nack.Code != wire.CodeBusy || !nack.Retryable || resync.Epoch != room.Epoch || resync.Epoch == proposed {
		t.Errorf("nack %+v, resync %+v", nack, resync)
	}
	if w := p.hello(0xa, nil, 0); w.Epoch != room.Epoch {
		t.Errorf("welcome %+v", w)
	}
	p.send(wire.Push{ID: "x", Ops: []moveop.Op{op}})
	expect[wire.Ack](p)
	p.readTo(3)
}

func TestRoomIsMadeWithItsProposedEpoch(t *testing.T) {
	t.Parallel()
	s := setup(t, fast)
	p := s.connect("plan")
	proposed := p.hello(0xa, nil, 0).Epoch
	p.push(1)
	if room, err := s.store.Room(t.Context(), "plan"); err != nil || room.Epoch != proposed {
		t.Errorf("room %+v, %v; proposed %s", room, err, proposed)
	}
}

// A push that is refused makes no room.
func TestRefusedPushMakesNoRoom(t *testing.T) {
	t.Parallel()
	s := setup(t, fast)
	p := s.connect("plan")
	proposed := p.hello(0xa, nil, 0).Epoch
	future := p.move()
	future.TS = moveop.NewTimestamp(time.Now().Add(time.Hour).UnixMilli(), 0, 0xa)
	for range 2 {
		p.send(wire.Push{ID: "x", Ops: []moveop.Op{future}})
		if nack := expect[wire.Nack](p); nack.Code != wire.CodeClockSkew {
			t.Errorf("got %+v", nack)
		}
		if room, err := s.store.Room(t.Context(), "plan"); !errors.Is(err, wire.ErrUnknownRoom) {
			t.Errorf("there is a room: %+v, %v", room, err)
		}
	}
	p.push(1)
	if room, err := s.store.Room(t.Context(), "plan"); err != nil || room.Epoch != proposed || room.Head != 1 {
		t.Errorf("room %+v, %v; proposed %s", room, err, proposed)
	}
}

// What is folded before a connected socket has got it, it has to take a snapshot for; the room goes on.
func TestFoldedBeforeItWasRelayed(t *testing.T) {
	t.Parallel()
	for _, minSeq := range []int64{6, 7} {
		t.Run(fmt.Sprint(minSeq), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := setupPipe(t)
				room := s.seed("plan", 4)
				p := s.join("plan", 0xa)
				p.readTo(4)
				s.commit("plan", 0xb, 1, 3)
				s.store.set(func(f *fakeStore) { f.rooms["plan"].MinSeq = minSeq })
				if got := expect[wire.Resync](p); got != (wire.Resync{Reason: wire.ResyncCompacted, Epoch: room.Epoch, Head: 7}) {
					t.Errorf("resync %+v", got)
				}
				p.hello(0xa, &room.Epoch, 7)
				p.push(1)
				p.readTo(8)
			})
		})
	}
}

func TestReplacedHistory(t *testing.T) {
	t.Parallel()
	for name, replace := range map[string]func(r *fakeRoom){
		"new epoch": func(r *fakeRoom) { r.Epoch = "22222222-2222-4222-8222-222222222222" },
		"cut short": func(r *fakeRoom) { r.ops, r.Head = r.ops[:2], 2 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := setupPipe(t)
				s.seed("plan", 4)
				p := s.join("plan", 0xa)
				p.readTo(4)
				s.store.set(func(f *fakeStore) { replace(f.rooms["plan"]) })
				room, _ := s.store.Room(t.Context(), "plan")
				if got := expect[wire.Resync](p); got.Reason != wire.ResyncEpoch || got.Epoch != room.Epoch || got.Head != room.Head {
					t.Errorf("resync %+v", got)
				}
				p.hello(0xa, &room.Epoch, room.Head)
				p.push(1)
				p.readTo(room.Head + 1)
			})
		})
	}
}

// Who has a snapshot of the new history comes with its epoch, before the server has looked.
func TestHelloFromAReplacedHistory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setupPipe(t)
		s.seed("plan", 4)
		p := s.join("plan", 0xa)
		p.readTo(4)
		s.store.set(func(f *fakeStore) { f.rooms["plan"].Epoch = "22222222-2222-4222-8222-222222222222" })
		room, _ := s.store.Room(t.Context(), "plan")
		q := s.connect("plan")
		if w := q.hello(0xb, &room.Epoch, 3); w.Epoch != room.Epoch {
			t.Errorf("welcome %+v", w)
		}
		for q.cursor < 4 {
			if got, ok := q.next().(wire.Resync); ok {
				t.Fatalf("a cursor that can be served: %+v", got)
			}
		}
		if got := expect[wire.Resync](p); got.Epoch != room.Epoch {
			t.Errorf("resync %+v", got)
		}
	})
}

// A head that was due while a socket was busy is not sent after the ops that followed it.
func TestHeadIsNotOlderThanTheOps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setupPipe(t)
		a := s.join("plan", 0xa)
		b := s.join("plan", 0xb) // of which a is told, and does not read it
		b.push(1)
		b.readTo(1)
		for expect[wire.Head](b).Head != 1 {
		}
		b.push(1)
		b.readTo(2)
		for {
			if head, ok := a.next().(wire.Head); ok && head.Head < a.cursor {
				t.Fatalf("head %d after the op %d", head.Head, a.cursor)
			} else if ok && head.Head == 2 {
				return
			}
		}
	})
}
