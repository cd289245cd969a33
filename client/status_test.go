package client_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// A server of another time is not a matter of waiting.
func TestUpdateRequired(t *testing.T) {
	t.Parallel()
	answer := func(handler http.HandlerFunc) func(t *testing.T) client.Options {
		return func(t *testing.T) client.Options {
			web := httptest.NewServer(handler)
			t.Cleanup(web.Close)
			return client.Options{RealtimeURL: web.URL}
		}
	}
	for name, options := range map[string]func(t *testing.T) client.Options{
		"handshake refused": answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUpgradeRequired) }),
		"no protocol in common": answer(func(w http.ResponseWriter, r *http.Request) {
			var upgrader websocket.Upgrader
			if conn, err := upgrader.Upgrade(w, r, nil); err == nil {
				_ = conn.Close()
			}
		}),
		"snapshot of a new version": func(t *testing.T) client.Options {
			s := planted(t)
			s.hook(func(h *hooks) {
				h.snapshot = func(stream []byte) []byte {
					return bytes.Replace(stream, []byte("CANOPYS1"), []byte("CANOPYS2"), 1)
				}
			})
			return s.options()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := open(t, offline(t), options(t))
			waitFor(t, c, "in need of an update", func(st client.Status) bool {
				return st.State == client.StateUpdateRequired && st.Err != nil
			})
			if got := titles(t, c); got != "mine" && got != "A b mine" {
				t.Errorf("the titles are %s", got)
			}
		})
	}
}

// Where the URLs are not those of the services, the error says so, and nobody is asked to sign in.
func TestNotTheServices(t *testing.T) {
	t.Parallel()
	web := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(web.Close)
	for name, opts := range map[string]client.Options{
		"realtime":  {RealtimeURL: web.URL},
		"bootstrap": {RealtimeURL: web.URL, BootstrapURL: web.URL},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := open(t, filepath.Join(t.TempDir(), "replica"), opts)
			for s := range c.WatchStatus(t.Context()) {
				if s.State == client.StateNeedsAuth {
					t.Errorf("the status is %s, %v", s.State, s.Err)
				}
				if e, ok := errors.AsType[*wire.Error](s.Err); ok && e.Code == wire.CodeBadRequest {
					break
				}
			}
		})
	}
}

// A server of a later version may say what this one does not know.
func TestUnknownMessagesAreIgnored(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	c := s.join(t) // and the first load is over, which may take a second connection
	s.synced(t, c)
	before := len(s.counts().hellos)
	s.hook(func(h *hooks) {
		h.hello = func(p *peer, _ wire.Hello) bool {
			_ = p.conn.WriteMessage(websocket.BinaryMessage, []byte("\x01\x70{}"))
			return false
		}
	})
	s.hangUp()
	create(t, c, moveop.Root, client.Last, "pushed")
	s.synced(t, c)
	if n := len(s.counts().hellos) - before; n != 1 {
		t.Errorf("%d connections", n)
	}
}

// What was missed is counted from where the connection found the replica.
func TestCatchingUpProgress(t *testing.T) {
	t.Parallel()
	s := planted(t)
	path := filepath.Join(t.TempDir(), "replica")
	c := open(t, path, s.options())
	s.synced(t, c)
	seq := c.Status().Seq
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	other := s.join(t)
	edit(t, other, func(tx *client.Tx) error { _, err := tx.CreateRun(moveop.Root, client.Last, 250); return err })
	s.synced(t, other)
	lost := make(chan struct{}, 1)
	s.hook(func(h *hooks) { // the last fifty get lost
		h.relay = func(p *peer, frame wire.Ops) (wire.Ops, bool) {
			if frame.From <= seq+200 {
				return frame, true
			}
			select {
			case lost <- struct{}{}:
			default:
			}
			return frame, false
		}
	})
	c = open(t, path, s.options())
	<-lost
	waitFor(t, c, "at 200 of 250", func(st client.Status) bool {
		done, total := st.Progress()
		return st.State == client.StateCatchingUp && st.From == seq && done == 200 && total == 250
	})
	s.hook(func(h *hooks) { h.relay = nil })
	s.hangUp()
	s.synced(t, c)
	if done, total := c.Status().Progress(); done != 0 || total != 0 {
		t.Errorf("%d of %d when synced", done, total)
	}
}

// Close lets what was just edited through, and does not wait for ever.
func TestCloseFlushes(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	opts := s.options()
	opts.FlushTimeout = time.Minute
	c := open(t, filepath.Join(t.TempDir(), "replica"), opts)
	s.synced(t, c)
	edit(t, c, func(tx *client.Tx) error { _, err := tx.CreateRun(moveop.Root, client.Last, 2500); return err })
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if got := s.digest().Ops; got != 2500 {
		t.Errorf("the server has %d operations", got)
	}
}

func TestCloseGivesUpFlushing(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	opts := s.options()
	opts.FlushTimeout = 10 * time.Millisecond
	path := filepath.Join(t.TempDir(), "replica")
	c := open(t, path, opts)
	s.synced(t, c)
	s.hook(func(h *hooks) { h.push = func(*peer, wire.Push) bool { return true } }) // no answer
	create(t, c, moveop.Root, client.Last, "a")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Fatal(err)
		}
	case <-ctx.Done():
		t.Fatal("Close waits")
	}
	s.hook(func(h *hooks) { h.push = nil })
	c = open(t, path, opts)
	s.synced(t, c)
	wantOutline(t, c, "a")
}

// That Close ends the first load is not a failure of it: nobody is asked to sign in.
func TestCloseDuringFirstLoad(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 10)
	c := open(t, filepath.Join(t.TempDir(), "replica"), client.Options{
		RealtimeURL: "http://127.0.0.1:1", BootstrapURL: "http://127.0.0.1:1", PreviewTimeout: -1,
		Token: func(ctx context.Context) (string, error) {
			asked <- struct{}{}
			<-ctx.Done()
			return "", ctx.Err()
		},
	})
	<-asked
	statuses := c.WatchStatus(t.Context())
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for s := range statuses {
		if s.State == client.StateNeedsAuth || s.Err != nil {
			t.Errorf("the status was %s, %v", s.State, s.Err)
		}
	}
	if s := c.Status(); s.State != client.StateOffline || s.Err != nil {
		t.Errorf("the status is %s, %v", s.State, s.Err)
	}
}
