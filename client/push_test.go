package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// waitFor waits for a status.
func waitFor(t testing.TB, c *client.Client, what string, ok func(st client.Status) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for st := range c.WatchStatus(ctx) {
		if ok(st) {
			return
		}
	}
	t.Fatalf("never %s; status %+v", what, c.Status())
}

// checkOnce checks that nothing is in the server's log twice, under two timestamps.
func (s *server) checkOnce(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[string]bool{}
	for _, op := range s.log() {
		body := fmt.Sprint(op.Kind, op.Node, op.Parent, op.OrderKey, op.Key, string(op.Value))
		if seen[body] {
			t.Errorf("pushed twice: %s", body)
		}
		seen[body] = true
	}
}

// The commit succeeds and the acknowledgement is lost: nothing is applied twice.
func TestLostAck(t *testing.T) {
	t.Parallel()
	for name, sees := range map[string]bool{"seen": true, "unseen": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			c := s.join(t)
			s.synced(t, c)
			s.hook(func(h *hooks) {
				h.push = func(p *peer, m wire.Push) bool {
					s.hooks.push = nil
					p.live = sees // the frame may have come through, or not
					if _, err := s.commit(m.Ops); err != nil {
						t.Error(err)
					}
					_ = p.conn.Close()
					return true
				}
			})
			create(t, c, moveop.Root, client.Last, "a")
			s.synced(t, c)
			s.checkOnce(t)
			if pushes := s.counts().pushes; len(pushes) != 1 {
				t.Errorf("pushed again what had come back: pushes of %v operations", pushes)
			}
		})
	}
}

// A frame that got lost is asked for again, whether the next one shows it or the head.
func TestGap(t *testing.T) {
	t.Parallel()
	for name, last := range map[string]bool{"in the middle": false, "at the end": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			a, b := s.join(t), s.join(t)
			s.synced(t, a, b)
			s.hook(func(h *hooks) {
				h.relay = func(p *peer, frame wire.Ops) (wire.Ops, bool) {
					if p.replica != b.Replica() {
						return frame, true
					}
					s.hooks.relay = nil
					return frame, false
				}
			})
			create(t, a, moveop.Root, client.Last, "a")
			if err := a.WaitSynced(t.Context()); err != nil {
				t.Fatal(err)
			}
			if last {
				s.mu.Lock()
				for p := range s.peers {
					p.send(wire.Head{Head: int64(len(s.log())), Digest: s.state().Digest})
				}
				s.mu.Unlock()
			} else {
				create(t, a, moveop.Root, client.Last, "b")
			}
			s.synced(t, a, b)
			if n := s.counts().pulls; n == 0 {
				t.Error("nothing was pulled")
			}
		})
	}
}

// A clock that is far ahead is corrected by the server's, and what was stamped by it is stamped anew,
// in the same order.
func TestClockSkew(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.hook(func(h *hooks) {
		h.push = func(p *peer, m wire.Push) bool {
			last := m.Ops[len(m.Ops)-1].TS
			if time.Until(last.Time()) < time.Minute {
				return false
			}
			p.nack(m.ID, wire.OpError(wire.CodeClockSkew, last, "in the future"))
			return true
		}
	})
	opts := s.options()
	opts.Now = func() time.Time { return time.Now().Add(time.Hour) }
	c := open(t, offline(t), opts)
	for i := range 5 {
		create(t, c, moveop.Root, client.First, fmt.Sprint(i))
	}
	s.synced(t, c)
	if got := c.Status().ClockOffset; got > -59*time.Minute || got < -61*time.Minute {
		t.Errorf("the offset is %s", got)
	}
	create(t, c, moveop.Root, client.First, "5")
	s.synced(t, c)
	if got := strings.ReplaceAll(outline(t, c, moveop.Root), "mine,", ""); !strings.HasPrefix(got, "5,4,3,2,1,0") {
		t.Errorf("the tree is %s", got)
	}
	s.checkOnce(t)
}

// What the server refuses for good is set aside and listed; everything else goes on.
func TestRefused(t *testing.T) {
	t.Parallel()
	for name, named := range map[string]bool{"operation named": true, "found by halving": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			s.hook(func(h *hooks) {
				h.push = func(p *peer, m wire.Push) bool {
					for _, op := range m.Ops {
						if string(op.Value) != `"bad"` {
							continue
						}
						e := wire.NewError(wire.CodeInvalidOp, "this server does not like it")
						if named {
							e.Op = &op.TS
						}
						p.nack(m.ID, e)
						return true
					}
					return false
				}
			})
			path := offline(t)
			c := open(t, path, client.Options{})
			for i := range 20 {
				create(t, c, moveop.Root, client.Last, fmt.Sprint(i))
			}
			bad := create(t, c, moveop.Root, client.Last, "bad")
			for i := range 20 {
				create(t, c, moveop.Root, client.Last, fmt.Sprint(i))
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			c = open(t, path, s.options())
			if err := c.WaitSynced(t.Context()); !errors.Is(err, client.ErrRefused) {
				t.Errorf("the error is %v", err)
			}
			refused, err := c.Refused(t.Context())
			if err != nil || len(refused) != 1 || refused[0].Op.Node != bad || refused[0].Code != wire.CodeInvalidOp || refused[0].Edit == 0 {
				t.Errorf("refused are %+v, %v", refused, err)
			}
			if st := c.Status(); st.Pending != 1 || st.Refused != 1 || st.State != client.StateQuarantined {
				t.Errorf("status is %+v", st)
			}
			if got := s.digest().Ops; got != 83 {
				t.Errorf("the server has %d operations", got)
			}
		})
	}
}

// An acknowledgement that is not one of what was pushed ends the connection: it must not take out of the outbox
// what nobody has, nor have the same pushed again and again.
func TestWrongAck(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(ack *wire.Ack){
		"of nothing":      func(ack *wire.Ack) { ack.Results = nil },
		"of a part":       func(ack *wire.Ack) { ack.Results = ack.Results[1:] },
		"of another one":  func(ack *wire.Ack) { ack.Results[0].TS = moveop.NewTimestamp(1, 1, 1) },
		"of one too many": func(ack *wire.Ack) { ack.Results = append(ack.Results, ack.Results[0]) },
		"at no seq":       func(ack *wire.Ack) { ack.Results[0].Seq = 0 },
		"beyond the head": func(ack *wire.Ack) { ack.Results[0].Seq = ack.Head + 1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			c := s.join(t)
			s.synced(t, c)
			s.hook(func(h *hooks) {
				h.push = func(p *peer, m wire.Push) bool {
					s.hooks.push = nil
					p.live = false // nothing comes back
					ack, err := s.answer(m)
					if err != nil {
						t.Error(err)
					}
					change(&ack)
					p.send(ack)
					return true
				}
			})
			create(t, c, moveop.Root, client.Last, "a")
			s.synced(t, c)
			if seen := s.counts(); len(seen.hellos) != 2 || len(seen.pushes) != 1 {
				t.Errorf("%d connections, %d pushes", len(seen.hellos), len(seen.pushes))
			}
			if d := doctor(t, c); len(d.Findings) > 0 {
				t.Errorf("found %+v", d)
			}
		})
	}
}

// Timestamps that the server goes on to refuse are not pushed as fast as can be, and the status says why.
func TestTimestampsRefused(t *testing.T) {
	t.Parallel()
	for _, code := range []wire.Code{wire.CodeClockSkew, wire.CodeTooOld} {
		t.Run(string(code), func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			c := s.join(t)
			s.synced(t, c)
			s.hook(func(h *hooks) {
				h.push = func(p *peer, m wire.Push) bool {
					p.nack(m.ID, wire.OpError(code, m.Ops[0].TS, "not this one either"))
					return true
				}
			})
			create(t, c, moveop.Root, client.Last, "a")
			waitFor(t, c, "held up", func(st client.Status) bool {
				e, ok := errors.AsType[*wire.Error](st.Err)
				return ok && e.Code == code && len(s.counts().pushes) > 2
			})
			s.hook(func(h *hooks) { h.push = nil })
			s.synced(t, c)
			if st := c.Status(); st.Err != nil {
				t.Errorf("status is %+v", st)
			}
			wantTitles(t, c, "a")
		})
	}
}

// A code that passes is none that sets operations aside, whatever comes with it.
func TestRetryableByItsCode(t *testing.T) {
	t.Parallel()
	for _, code := range []wire.Code{wire.CodeBusy, wire.CodeRateLimited, wire.CodeInternal, wire.CodeReplicaInUse} {
		t.Run(string(code), func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			s.hook(func(h *hooks) {
				h.push = func(p *peer, m wire.Push) bool {
					s.hooks.push = nil
					p.nack(m.ID, &wire.Error{Code: code, Op: &m.Ops[0].TS})
					return true
				}
			})
			c := s.join(t)
			create(t, c, moveop.Root, client.Last, "a")
			s.synced(t, c)
		})
	}
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.hook(func(h *hooks) {
		h.push = func(p *peer, m wire.Push) bool {
			if len(m.Ops) <= 3 {
				return false
			}
			p.nack(m.ID, wire.NewError(wire.CodeTooLarge, "more than three"))
			return true
		}
	})
	c := s.join(t)
	edit(t, c, func(tx *client.Tx) error { _, err := tx.CreateRun(moveop.Root, client.Last, 50); return err })
	s.synced(t, c)
}

// Values that do not fit into one frame together go in several.
func TestLargeValues(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.hook(func(h *hooks) {
		h.push = func(p *peer, m wire.Push) bool {
			frame, err := wire.JSON.Encode(m)
			if err != nil || len(frame) > 1<<20 {
				t.Errorf("a push of %d bytes, %v", len(frame), err)
			}
			return false
		}
	})
	c := s.join(t)
	edit(t, c, func(tx *client.Tx) error {
		for range 20 {
			id, err := tx.Create(moveop.Root, client.Last)
			if err != nil {
				return err
			}
			if err := tx.Set(id, "text", strings.Repeat("ä<\n", 20_000)); err != nil {
				return err
			}
		}
		return nil
	})
	s.synced(t, c)
}

func TestRetryablePushError(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	busy := 3
	s.hook(func(h *hooks) {
		h.push = func(p *peer, m wire.Push) bool {
			if busy--; busy < 0 {
				return false
			}
			p.nack(m.ID, wire.NewError(wire.CodeBusy, "later"))
			return true
		}
	})
	c := s.join(t)
	create(t, c, moveop.Root, client.Last, "a")
	s.synced(t, c)
}

// Two copies of one file go on as two replicas; nothing is lost and nothing comes twice.
func TestCopiedFile(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	path := filepath.Join(t.TempDir(), "replica")
	a := open(t, path, s.options())
	create(t, a, moveop.Root, client.Last, "both")
	s.synced(t, a)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "replica")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(copied, content, 0o644); err != nil {
		t.Fatal(err)
	}
	b := open(t, copied, client.Options{})
	create(t, b, moveop.Root, client.Last, "b") // before a's next edit, by the clock
	a = open(t, path, s.options())
	create(t, a, moveop.Root, client.Last, "a")
	s.synced(t, a)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = open(t, copied, s.options())
	s.synced(t, b, a)
	if a.Replica() == b.Replica() {
		t.Error("both are the same replica")
	}
	wantTitles(t, a, "a b both")
	wantTitles(t, b, "a b both")
	s.checkOnce(t)
}

// Copies whose clocks agree to the last digit give the same timestamps to different operations. Whose gets there
// second is stamped anew; it was refused for ever.
func TestCopiesOfOneClock(t *testing.T) {
	t.Parallel()
	for name, resync := range map[string]bool{"hears of it as operations": false, "hears of it from a snapshot": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			now := time.Now()
			opts := s.options()
			opts.Now = func() time.Time { return now }
			path, copied := filepath.Join(t.TempDir(), "replica"), filepath.Join(t.TempDir(), "replica")
			a := open(t, path, opts)
			create(t, a, moveop.Root, client.Last, "both")
			s.synced(t, a)
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(copied, content, 0o644); err != nil {
				t.Fatal(err)
			}
			a, b := open(t, path, opts), open(t, copied, client.Options{Now: opts.Now})
			for i := range 3 {
				create(t, a, moveop.Root, client.Last, fmt.Sprint("a", i))
				edit(t, b, func(tx *client.Tx) error { return tx.Set(moveop.Root, "title", i) }) // the last one wins
			}
			create(t, b, moveop.Root, client.Last, "b")
			s.synced(t, a)
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			if resync {
				s.mu.Lock()
				s.epoch = "0193a0e0-0000-7000-8000-000000000002"
				s.mu.Unlock()
			}
			b = open(t, copied, opts)
			s.synced(t, b, a)
			wantTitles(t, a, "a0 a1 a2 b both")
			wantTitles(t, b, "a0 a1 a2 b both")
			if title, _, err := a.Value(t.Context(), moveop.Root, "title"); err != nil || string(title) != "2" {
				t.Errorf("the title is %s, %v", title, err)
			}
			s.checkOnce(t)
		})
	}
}

// A file that is restored from a copy goes on as another replica: the server holds operations under its id
// that the copy lacks. What the copy thinks is pending and the server has does not come twice.
func TestRestoredFile(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	path := filepath.Join(t.TempDir(), "replica")
	c := open(t, path, s.options())
	create(t, c, moveop.Root, client.Last, "a")
	s.synced(t, c)
	closeIt := func() {
		t.Helper()
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	closeIt()
	c = open(t, path, client.Options{})
	create(t, c, moveop.Root, client.Last, "b")
	before := c.Replica()
	closeIt()
	backup, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c = open(t, path, s.options())
	create(t, c, moveop.Root, client.Last, "lost here")
	s.synced(t, c)
	closeIt()
	if err := os.WriteFile(path, backup, 0o644); err != nil {
		t.Fatal(err)
	}
	c = open(t, path, client.Options{})
	create(t, c, moveop.Root, client.Last, "d")
	closeIt()
	c = open(t, path, s.options())
	s.synced(t, c)
	if c.Replica() == before {
		t.Error("the restored file goes on as the same replica")
	}
	wantTitles(t, c, "a b d lost here")
	s.checkOnce(t)
}

// A replica id that is in use elsewhere is given up, not at once.
func TestReplicaInUse(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	path := offline(t)
	var taken moveop.ReplicaID
	s.hook(func(h *hooks) {
		h.hello = func(p *peer, m wire.Hello) bool {
			if taken == 0 {
				taken = m.Replica
			}
			if m.Replica != taken {
				return false
			}
			p.send(wire.NewError(wire.CodeReplicaInUse, "connected already"))
			p.closeWith(wire.CloseReplicaInUse, "")
			return true
		}
	})
	c := open(t, path, s.options())
	s.synced(t, c)
	if hellos := s.counts().hellos; len(hellos) != 3 || hellos[1].Replica != taken {
		t.Errorf("%d hellos", len(hellos))
	}
	wantTitles(t, c, "mine")
	s.checkOnce(t)
}

func TestToken(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.hook(func(h *hooks) {
		h.hello = func(p *peer, m wire.Hello) bool {
			if s.seen.tokens[len(s.seen.tokens)-1] == "Bearer fresh" {
				return false
			}
			p.send(wire.NewError(wire.CodeUnauthorized, "expired"))
			p.closeWith(wire.CloseUnauthorized, "expired")
			return true
		}
	})
	tokens := make(chan string, 10)
	opts := s.options()
	opts.RetryMin, opts.RetryMax = time.Hour, time.Hour // until told
	opts.PreviewTimeout = -1                            // no tokens for that
	opts.Token = func(ctx context.Context) (string, error) {
		select {
		case token := <-tokens:
			return token, nil
		default:
			return "", errors.New("not signed in")
		}
	}
	c := open(t, filepath.Join(t.TempDir(), "replica"), opts)
	needsAuth := func(st client.Status) bool { return st.State == client.StateNeedsAuth && st.Err != nil }
	waitFor(t, c, "in need of a token", needsAuth)
	tokens <- "stale" // for the snapshot
	tokens <- "stale"
	c.Reconnect()
	waitFor(t, c, "refused", func(st client.Status) bool { return needsAuth(st) && len(s.counts().hellos) == 1 })
	tokens <- "fresh"
	c.Reconnect()
	waitFor(t, c, "synced", func(st client.Status) bool { return st.State == client.StateSynced && st.Err == nil })
}

// Where the token is not accepted, each attempt leaves the status as it is, until one gets further.
func TestNeedsAuthStays(t *testing.T) {
	t.Parallel()
	s := planted(t)
	for name, bootstrapURL := range map[string]string{"snapshot": s.options().BootstrapURL, "connection": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opts := s.options()
			opts.BootstrapURL, opts.PreviewTimeout = bootstrapURL, -1
			var asked atomic.Int64
			opts.Token = func(context.Context) (string, error) {
				if asked.Add(1) < 10 {
					return "", errors.New("not signed in")
				}
				return "signed in", nil
			}
			c := open(t, filepath.Join(t.TempDir(), "replica"), opts)
			needed := false
			for st := range c.WatchStatus(t.Context()) {
				needed = needed || st.State == client.StateNeedsAuth
				if st.State == client.StateSynced {
					break
				}
				if needed && asked.Load() < 10 && st.State != client.StateNeedsAuth {
					t.Errorf("the state has become %s, %v", st.State, st.Err)
				}
			}
			if !needed {
				t.Error("no token was asked for")
			}
		})
	}
}

// The server restarts and says when to come back.
func TestRestart(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	opts := s.options()
	c := open(t, filepath.Join(t.TempDir(), "replica"), opts)
	s.synced(t, c)
	const wait = 200 * time.Millisecond // much longer than by itself
	begin := time.Now()
	s.mu.Lock()
	for p := range s.peers {
		p.closeWith(wire.CloseRestart, wire.RestartReason(wait))
	}
	s.mu.Unlock()
	create(t, c, moveop.Root, client.Last, "a")
	s.synced(t, c)
	if waited := time.Since(begin); waited < wait {
		t.Errorf("came back after %v, told to wait for %v", waited, wait)
	}
}

// What the server says last counts, though the client had something to send when the server closed: found
// by killing and restarting servers under load, to which clients came back without waiting as told.
func TestRestartWhileThereIsSomethingToSend(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	a, b := s.join(t), s.join(t)
	s.synced(t, a, b)
	err := a.Edit(t.Context(), func(tx *client.Tx) error {
		// As long as this edit runs, a cannot apply what b does, nor go on to what comes after that.
		create(t, b, moveop.Root, client.Last, "b")
		s.synced(t, b)
		s.mu.Lock()
		for p := range s.peers {
			if p.replica == a.Replica() {
				p.closeWith(wire.CloseRestart, wire.RestartReason(time.Hour))
			}
		}
		s.mu.Unlock()
		for { // until a has answered
			s.mu.Lock()
			open := len(s.peers)
			s.mu.Unlock()
			if open == 1 {
				break
			}
			runtime.Gosched()
		}
		_, err := tx.Create(moveop.Root, client.Last)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, a, "told to come back later", func(st client.Status) bool {
		if st.Err != nil {
			if closed, ok := errors.AsType[*websocket.CloseError](st.Err); !ok || closed.Code != wire.CloseRestart {
				t.Errorf("the connection ended with %v", st.Err)
			}
		}
		return st.Err != nil && st.Seq == b.Status().Seq
	})
	a.Reconnect()
	s.synced(t, a, b)
}

func TestPresence(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	opts := s.options()
	opts.Name = "Ann"
	a := open(t, filepath.Join(t.TempDir(), "replica"), opts)
	b := s.join(t)
	s.synced(t, a, b)
	if err := a.SetPresence(map[string]int{"line": 3}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	await := func(what string, ok func(peers []client.Peer) bool) {
		t.Helper()
		for peers := range b.WatchPeers(ctx) {
			if ok(peers) {
				return
			}
		}
		t.Fatalf("never %s: %+v", what, b.Peers())
	}
	await("shown", func(peers []client.Peer) bool {
		return len(peers) == 1 && peers[0].Name == "Ann" && string(peers[0].State) == `{"line":3}`
	})
	if err := a.SetPresence(strings.Repeat("x", client.MaxPresence)); !errors.Is(err, client.ErrPresenceTooLarge) {
		t.Errorf("with quotes it is too large: %v", err)
	}
	if err := a.SetPresence(json.RawMessage("\"\xff\"")); err == nil {
		t.Error("a state that is not UTF-8 was taken")
	}
	if err := a.SetPresence(strings.Repeat("x", client.MaxPresence-2)); err != nil {
		t.Fatal(err)
	}
	await("shown at full length", func(peers []client.Peer) bool {
		return len(peers) == 1 && len(peers[0].State) == client.MaxPresence
	})
	if err := a.SetPresence(nil); err != nil {
		t.Fatal(err)
	}
	await("taken back", func(peers []client.Peer) bool { return len(peers) == 1 && peers[0].State == nil })
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	await("gone", func(peers []client.Peer) bool { return len(peers) == 0 })
}

// Several clients edit at random while connections break at random; in the end all have the same.
func TestConvergence(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s := newServer(t)
	clients := []*client.Client{s.join(t), s.join(t), s.join(t)}
	for range 300 {
		c := clients[random.IntN(len(clients))]
		edit(t, c, func(tx *client.Tx) error { return randomEdit(tx, random) })
		if random.IntN(20) == 0 {
			s.hangUp()
		}
	}
	s.synced(t, clients...)
	want := outline(t, clients[0], moveop.Root)
	for _, c := range clients[1:] {
		wantOutline(t, c, want)
	}
}

// randomEdit does something to a random node.
func randomEdit(tx *client.Tx, random *rand.Rand) error {
	nodes := []moveop.NodeID{moveop.Root}
	for _, top := range []moveop.NodeID{moveop.Root, moveop.Trash} {
		err := tx.Walk(top, func(n client.Node, _ int) error { nodes = append(nodes, n.ID); return nil })
		if err != nil {
			return err
		}
	}
	n, parent := nodes[random.IntN(len(nodes))], nodes[random.IntN(len(nodes))]
	at := []client.Position{client.First, client.Last}[random.IntN(2)]
	var err error
	switch random.IntN(8) {
	case 0, 1:
		err = tx.Move(n, parent, at)
	case 2:
		err = tx.Delete(n)
	case 3:
		err = tx.Restore(n)
	case 4:
		err = tx.Set(n, "title", fmt.Sprint(random.IntN(100)))
	default:
		_, err = tx.Create(parent, at)
	}
	if errors.Is(err, client.ErrReserved) || errors.Is(err, client.ErrCycle) || errors.Is(err, client.ErrInsideDeleted) {
		return nil
	}
	return err
}
