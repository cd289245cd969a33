package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// join opens a new replica of the server's room.
func (s *server) join(t testing.TB) *client.Client {
	return open(t, filepath.Join(t.TempDir(), "replica"), s.options())
}

// synced waits until the client is in step, and checks that it is.
func (s *server) synced(t testing.TB, clients ...*client.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, c := range clients {
		if err := c.WaitSynced(ctx); err != nil {
			t.Fatalf("%v; status %+v", err, c.Status())
		}
	}
	for _, c := range clients { // what the later ones pushed
		if err := c.WaitSynced(ctx); err != nil {
			t.Fatalf("%v; status %+v", err, c.Status())
		}
		if got, want := c.Digest(), s.digest(); got != want {
			t.Errorf("digest is %+v, the server's %+v", got, want)
		}
		if n := c.Pending(); n != 0 {
			t.Errorf("%d operations pending", n)
		}
	}
}

func TestSyncTwoClients(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	a, b := s.join(t), s.join(t)
	n := create(t, a, moveop.Root, client.Last, "a")
	s.synced(t, a, b)
	create(t, b, n, client.Last, "b")
	create(t, a, n, client.First, "c")
	s.synced(t, b, a)
	wantOutline(t, a, outline(t, b, moveop.Root))
	if st := a.Status(); st.State != client.StateSynced || st.Epoch != s.epoch || st.Seq != st.Head || st.Err != nil {
		t.Errorf("status is %+v", st)
	}
}

// Scenarios 13 and 12: a delete by somebody who saw the child takes it along; one by somebody who did
// not is made good. What an edit knew is what had been applied by then.
func TestDeleteKnowsWhatItSaw(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	a, b := s.join(t), s.join(t)
	seen, unseen := create(t, a, moveop.Root, client.Last, "seen"), create(t, a, moveop.Root, client.Last, "unseen")
	create(t, a, seen, client.Last, "child")
	s.synced(t, a, b)
	s.hook(func(h *hooks) { // b is cut off
		h.push = func(p *peer, m wire.Push) bool { return p.replica == b.Replica() }
		h.relay = func(p *peer, m wire.Ops) (wire.Ops, bool) { return m, p.replica != b.Replica() }
	})
	create(t, a, unseen, client.Last, "child")
	s.synced(t, a)
	edit(t, b, func(tx *client.Tx) error { return errors.Join(tx.Delete(seen), tx.Delete(unseen)) })
	s.hook(func(h *hooks) { h.push, h.relay = nil, nil })
	s.hangUp()
	s.synced(t, b, a)
	wantOutline(t, a, "unseen{child}")
	wantOutline(t, b, "unseen{child}")
}

// A client that was offline pushes in order, in batches within the server's limits; in small ones, for which
// nobody waits long, where others are in the room.
func TestPushAfterOfflineEdits(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		others []wire.Peer
		pushes string
	}{
		"alone":         {nil, "[100 100 52]"},
		"beside others": {[]wire.Peer{{Replica: 1}}, "[50 50 50 50 50 2]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			path := filepath.Join(t.TempDir(), "replica")
			c, err := client.Open(t.Context(), path, client.Options{Room: "garden"})
			if err != nil {
				t.Fatal(err)
			}
			for i := range 12 {
				edit(t, c, func(tx *client.Tx) error {
					nodes, err := tx.CreateRun(moveop.Root, client.Last, 20)
					if err != nil {
						return err
					}
					return tx.Set(nodes[0], "title", fmt.Sprint(i))
				})
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			s.hook(func(h *hooks) {
				h.hello = func(p *peer, h wire.Hello) bool {
					p.replica, p.live = h.Replica, true
					p.send(wire.Welcome{
						Epoch: s.epoch, ServerTime: time.Now().UnixMilli(), Status: wire.Ready,
						Limits: wire.Limits{MaxOps: 100, MaxFrame: 1 << 20}, Clients: tc.others,
					})
					return true
				}
			})
			c = open(t, path, s.options())
			s.synced(t, c)
			if got := fmt.Sprint(s.counts().pushes); got != tc.pushes {
				t.Errorf("pushes of %s operations, want %s", got, tc.pushes)
			}
		})
	}
}

// retries takes note of the waits that a client logs.
type retries struct {
	slog.Handler
	waits chan time.Duration
}

func (r retries) WithAttrs([]slog.Attr) slog.Handler { return r }

func (r retries) Handle(_ context.Context, record slog.Record) error {
	record.Attrs(func(a slog.Attr) bool {
		if a.Key == "retry_in" && record.Message == "sync ended" {
			select {
			case r.waits <- a.Value.Duration():
			default:
			}
		}
		return true
	})
	return nil
}

// A server that lets everybody in and throws them out again is not asked ever again at the shortest wait.
func TestBackoffOfShortConnections(t *testing.T) {
	t.Parallel()
	for code, reason := range map[int]string{wire.CloseOverloaded: "", wire.CloseRestart: wire.RestartReason(0)} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			s.hook(func(h *hooks) {
				h.hello = func(p *peer, m wire.Hello) bool {
					p.hello(m)
					p.closeWith(code, reason)
					return true
				}
			})
			opts := s.options()
			opts.RetryMin, opts.RetryMax = 50*time.Millisecond, 400*time.Millisecond
			waits := make(chan time.Duration, 1000)
			opts.Logger = slog.New(retries{slog.NewTextHandler(io.Discard, nil), waits})
			open(t, filepath.Join(t.TempDir(), "replica"), opts)
			for wait := range waits {
				if wait > 2*opts.RetryMin { // the first ones are at most one and a half times that
					return
				}
			}
		})
	}
}

// Weeks without a network, and a restart every few days: all of it is kept and pushed in the order in which
// it was made, under the times at which it was.
func TestOfflineForWeeks(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	path := filepath.Join(t.TempDir(), "replica")
	begin := time.Now().AddDate(0, 0, -28)
	var made []moveop.NodeID
	for day := 0; day < 28; day += 4 {
		now := begin.AddDate(0, 0, day)
		c := open(t, path, client.Options{Now: func() time.Time { return now }})
		for range 3 {
			made = append(made, create(t, c, moveop.Root, client.First, fmt.Sprint(day)))
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	c := open(t, path, s.options())
	s.synced(t, c)
	s.mu.Lock()
	defer s.mu.Unlock()
	var pushed []moveop.NodeID
	for _, op := range s.log() {
		if op.Kind != moveop.Move {
			continue
		}
		if want := begin.AddDate(0, 0, len(pushed)/3*4); op.TS.Time().UnixMilli() != want.UnixMilli() {
			t.Errorf("pushed as made at %v, not %v", op.TS.Time(), want)
		}
		pushed = append(pushed, op.Node)
	}
	if !slices.Equal(pushed, made) {
		t.Errorf("pushed %v, made %v", pushed, made)
	}
}
