package realtime_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/pgfuncs/pgtest"
	"github.com/canopysync/canopy/realtime"
	"github.com/canopysync/canopy/realtime/wire"
	"github.com/canopysync/canopy/tree"
)

// setupPostgres runs n servers on one fresh database.
func setupPostgres(t *testing.T, n int) (servers []*service, db *pgfuncs.DB) {
	t.Helper()
	db, err := pgfuncs.Open(t.Context(), pgtest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		servers = append(servers, startWith(t, db, l, (&net.Dialer{}).DialContext, fast))
	}
	return servers, db
}

// author makes ops as a replica does that stamps them with the clock and knows what it has received.
type author struct {
	*peer
	clock *moveop.Clock
}

func newAuthor(s *service, room string, replica moveop.ReplicaID, codec wire.Codec) *author {
	s.t.Helper()
	p, _, err := s.socket(room, codec, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	p.hello(replica, nil, 0)
	return &author{p, moveop.NewClock(replica, moveop.Timestamp{}, time.Now)}
}

func (a *author) stamp(op moveop.Op) moveop.Op {
	a.t.Helper()
	ts, err := a.clock.Next()
	if err != nil {
		a.t.Fatal(err)
	}
	op.TS, op.Known = ts, a.cursor
	return op
}

func (a *author) put(node, parent moveop.NodeID) moveop.Op {
	return a.stamp(moveop.Op{Kind: moveop.Move, Node: node, Parent: parent, OrderKey: "a0"})
}

func (a *author) pushOps(id string, ops ...moveop.Op) wire.Ack {
	a.t.Helper()
	a.send(wire.Push{ID: id, Ops: ops})
	for {
		if ack := expect[wire.Ack](a.peer); ack.ID == id {
			return ack
		}
	}
}

func node(n int) moveop.NodeID { return moveop.NodeID{0: 7, 14: byte(n >> 8), 15: byte(n)} }

// Replicas on two processes race over the same few nodes; all get the same log, and replaying it
// gives the server's own digest.
func TestConvergesOnPostgres(t *testing.T) {
	t.Parallel()
	servers, db := setupPostgres(t, 2)
	const replicas, batches = 6, 15
	authors := make([]*author, replicas)
	for i := range authors {
		codec := []wire.Codec{wire.JSON, wire.Binary}[i/2%2]
		authors[i] = newAuthor(servers[i%2], "race", moveop.ReplicaID(i+1), codec)
		if i == 0 { // makes the room, so that the other process proposes no other epoch
			authors[0].pushOps("first", authors[0].put(node(0), moveop.Root))
		}
	}
	var racing sync.WaitGroup
	for i, a := range authors {
		racing.Go(func() { a.race(rand.New(rand.NewPCG(uint64(i), 1)), batches) })
	}
	racing.Wait()
	room, err := db.Room(t.Context(), "race")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range authors {
		a.readTo(room.Head)
		if !sameOps(a.log, authors[0].log) {
			t.Fatalf("replica %s got another log", a.replica)
		}
	}
	replay := tree.New()
	if _, err := replay.Apply(authors[0].log...); err != nil {
		t.Fatal(err)
	}
	if replay.Digest() != room.Digest {
		t.Errorf("replayed %+v, the server has %+v", replay.Digest(), room.Digest)
	}
}

// What sockets are sent is byte for byte what the log has, whether it was at hand after the commit or had to
// be read: batches, duplicates, moves that have no effect, corrections, more knowledge than there is to have.
func TestTheLogIsRelayed(t *testing.T) {
	t.Parallel()
	servers, db := setupPostgres(t, 1)
	a, b := newAuthor(servers[0], "plan", 0xa, wire.JSON), newAuthor(servers[0], "plan", 0xb, wire.Binary)
	set := func(value string) moveop.Op {
		return a.stamp(moveop.Op{Kind: moveop.Set, Node: node(1), Key: "größe 🌲", Value: json.RawMessage(value)})
	}
	first := []moveop.Op{a.put(node(1), moveop.Root), set(`{"b":[1.50,-0,1e2,null],"a":"<&\u2028é🌲\u0000"}`), set(`null`)}
	first[1].Known, first[2].Known = 1<<40, 1
	a.pushOps("first", first...)
	a.pushOps("one", set(`"one"`))
	a.pushOps("some again", append(first[1:], a.put(node(2), node(1)), a.put(node(1), node(2)))...)
	below := b.put(node(3), node(1))
	b.pushOps("below", below)
	remove := a.put(node(1), moveop.Trash)
	remove.Known = below.Known
	a.pushOps("corrected", remove)
	known := b.put(node(4), moveop.Root)
	known.Known = 1 << 40
	b.pushOps("known", known)
	room, err := db.Room(t.Context(), "plan")
	if err != nil {
		t.Fatal(err)
	}
	want, err := db.OpsAfter(t.Context(), "plan", 0, 100)
	if err != nil || len(want) != 10 {
		t.Fatalf("%d operations, %v", len(want), err)
	}
	for _, p := range []*author{a, b} {
		p.readTo(room.Head)
		if !bytes.Equal(moveop.AppendOps(nil, p.log), moveop.AppendOps(nil, want)) {
			t.Errorf("replica %s got %+v, want %+v", p.replica, p.log, want)
		}
	}
}

// race pushes batches of random moves, deletes and sets, several in flight at a time.
func (a *author) race(random *rand.Rand, batches int) {
	for b := range batches {
		var ops []moveop.Op
		for range 1 + random.IntN(4) {
			n := node(1 + random.IntN(12))
			switch random.IntN(6) {
			case 0:
				value, _ := json.Marshal(random.IntN(100))
				ops = append(ops, a.stamp(moveop.Op{Kind: moveop.Set, Node: n, Key: "title", Value: value}))
			case 1:
				ops = append(ops, a.put(n, moveop.Trash))
			case 2:
				ops = append(ops, a.put(n, moveop.Root))
			default:
				ops = append(ops, a.put(n, node(1+random.IntN(12))))
			}
		}
		a.send(wire.Push{ID: fmt.Sprint(b), Ops: ops})
	}
	for b := range batches {
		if ack := expect[wire.Ack](a.peer); ack.ID != fmt.Sprint(b) {
			a.t.Errorf("ack %q, want %d: pushes are answered in order", ack.ID, b)
		}
	}
}

// A delete that could not know of a child is corrected (scenario 12), once, however often and over
// however many connections it is pushed (18), and the correction reaches everybody with its cause.
func TestCorrectionIsRelayedOnce(t *testing.T) {
	t.Parallel()
	servers, _ := setupPostgres(t, 2)
	b := newAuthor(servers[0], "plan", 0xb, wire.JSON)
	parent, child := node(1), node(2)
	b.pushOps("parent", b.put(parent, moveop.Root))
	a := newAuthor(servers[1], "plan", 0xa, wire.Binary)
	a.readTo(1)
	insert := b.put(child, parent)
	b.pushOps("child", insert)
	remove := a.put(parent, moveop.Trash)
	remove.Known = 1
	ack := a.pushOps("delete", remove)
	again := newAuthor(servers[0], "plan", 0xa0, wire.JSON) // to hear what a retry leads to
	_ = a.conn.Close()
	retry := newAuthor(servers[1], "plan", 0xa, wire.JSON)
	for range 2 {
		dup := retry.pushOps("again", remove)
		if dup.Results[0].Status != wire.StatusDuplicate || dup.Results[0].Seq != ack.Results[0].Seq || dup.Head != ack.Head {
			t.Errorf("retry %+v, first %+v", dup, ack)
		}
	}
	b.pushOps("last", b.put(node(3), moveop.Root))
	for _, p := range []*author{b, again, retry} {
		p.readTo(5)
		i := slices.IndexFunc(p.log, func(op moveop.Op) bool { return op.TS.IsCorrection() })
		if len(p.log) != 5 || i != 3 || p.log[i].Cause != insert.TS || p.log[i].Parent != moveop.Root {
			t.Errorf("replica %s got %+v", p.replica, p.log)
		}
	}
}

func TestRefusalsOfPostgres(t *testing.T) {
	t.Parallel()
	servers, db := setupPostgres(t, 1)
	a := newAuthor(servers[0], "plan", 0xa, wire.JSON)
	first := a.put(node(1), moveop.Root)
	a.pushOps("first", first)
	other, skewed, late := first, a.put(node(2), moveop.Root), a.put(node(2), moveop.Root)
	other.OrderKey = "a1"
	skewed.TS = moveop.NewTimestamp(time.Now().Add(2*time.Minute).UnixMilli(), 0, 0xa)
	late.TS = moveop.NewTimestamp(first.TS.Millis()-1, 0, 0xa)
	for code, op := range map[wire.Code]moveop.Op{
		wire.CodeConflict: other, wire.CodeClockSkew: skewed, wire.CodeOutOfOrder: late,
	} {
		a.send(wire.Push{ID: "bad", Ops: []moveop.Op{op}})
		if nack := expect[wire.Nack](a.peer); nack.Code != code || nack.Op == nil || *nack.Op != op.TS || nack.ServerTime == 0 {
			t.Errorf("%s: %+v", code, nack)
		}
	}
	a.pushOps("good", a.put(node(3), moveop.Root))
	room, err := db.Room(context.WithoutCancel(t.Context()), "plan")
	if err != nil || room.Head != 2 {
		t.Errorf("room %+v, %v", room, err)
	}
	_, stats := get[wire.Stats](servers[0], "/v1/rooms/plan/stats")
	_, page := get[wire.Page](servers[0], "/v1/rooms/plan/children")
	if stats.Nodes != 2 || stats.Connections != 1 || len(page.Nodes) != 2 || page.Seq != 2 || page.Epoch != room.Epoch {
		t.Errorf("stats %+v, page %+v", stats, page)
	}
}

var _ realtime.Store = (*pgfuncs.DB)(nil)
