package client_test

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/proptest"
	"github.com/canopysync/canopy/realtime/wire"
)

// planted is a server with a small tree in which everything that a snapshot can hold occurs.
func planted(t testing.TB) *server {
	t.Helper()
	s := newServer(t)
	c := s.join(t)
	a := create(t, c, moveop.Root, client.Last, "a")
	b := create(t, c, a, client.Last, "b")
	gone := create(t, c, a, client.Last, "gone")
	edit(t, c, func(tx *client.Tx) error { return tx.Set(a, "title", "A") })
	edit(t, c, func(tx *client.Tx) error { return tx.Move(b, moveop.Root, client.First) })
	edit(t, c, func(tx *client.Tx) error { return tx.Delete(gone) })
	s.synced(t, c)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return s
}

// edited makes a replica that was in step, by these options, and has an edit since.
func (s *server) edited(t testing.TB, opts client.Options) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "replica")
	c := open(t, path, opts)
	s.synced(t, c)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = open(t, path, client.Options{})
	create(t, c, moveop.Root, client.Last, "mine")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// offline makes a replica that has edits and has not heard of the server.
func offline(t testing.TB) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "replica")
	c := open(t, path, client.Options{})
	create(t, c, moveop.Root, client.Last, "mine")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// titles are those below Root, sorted: where a node that was made apart from others comes to stand
// among them is random.
func titles(t testing.TB, c *client.Client) string {
	t.Helper()
	all := strings.Split(outline(t, c, moveop.Root), ",")
	slices.Sort(all)
	return strings.Join(all, " ")
}

func wantTitles(t testing.TB, c *client.Client, want string) {
	t.Helper()
	if got := titles(t, c); got != want {
		t.Errorf("the titles are %s, want %s", got, want)
	}
}

func TestBootstrap(t *testing.T) {
	t.Parallel()
	s := planted(t)
	c := s.join(t)
	s.synced(t, c)
	wantOutline(t, c, "b,A")
	if n := s.counts().snapshots; n != 2 { // the first client asked for one too
		t.Errorf("%d snapshots", n)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// What was edited before the first contact goes on top of the snapshot and is pushed.
func TestBootstrapKeepsPending(t *testing.T) {
	t.Parallel()
	s := planted(t)
	c := open(t, offline(t), s.options())
	s.synced(t, c)
	wantTitles(t, c, "A b mine")
	if n := len(s.counts().pushes); n == 0 {
		t.Error("nothing was pushed")
	}
}

// A replica that knows its cursor asks for no snapshot.
func TestReopenResumes(t *testing.T) {
	t.Parallel()
	s := planted(t)
	path := filepath.Join(t.TempDir(), "replica")
	c := open(t, path, s.options())
	s.synced(t, c)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	before := s.counts()
	c = open(t, path, s.options())
	create(t, c, moveop.Root, client.Last, "new")
	s.synced(t, c)
	after := s.counts()
	if after.snapshots != before.snapshots {
		t.Error("a snapshot was loaded again")
	}
	if h := after.hellos[len(after.hellos)-1]; h.Epoch == nil || *h.Epoch != s.epoch || h.Seq == 0 {
		t.Errorf("hello was %+v", h)
	}
}

// A stream that is cut at any byte, or in which any byte is changed, changes nothing here; the next
// attempt succeeds.
func TestDamagedSnapshot(t *testing.T) {
	t.Parallel()
	s := planted(t)
	attempts := make(chan int, 1)
	n := 0
	s.hook(func(h *hooks) {
		h.snapshot = func(stream []byte) []byte {
			i := n * 37
			if n++; i >= len(stream) {
				return stream
			}
			attempts <- n
			if n%2 == 0 {
				return stream[:i]
			}
			stream[i] ^= 0x10
			return stream
		}
	})
	path := offline(t)
	c := open(t, path, s.options())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	synced := make(chan error, 1)
	go func() { synced <- c.WaitSynced(ctx) }()
	for {
		select {
		case <-attempts:
			if got := titles(t, c); got != "mine" && got != "A b mine" {
				t.Fatalf("the tree is %s", got)
			}
			continue
		case err := <-synced:
			if err != nil {
				t.Fatal(err)
			}
		}
		break
	}
	if n < 10 {
		t.Errorf("only %d attempts", n)
	}
	s.synced(t, c)
	wantTitles(t, c, "A b mine")
}

// The room can be seen and edited while its snapshot is on its way, and edits are there when it is in.
func TestEditDuringBootstrap(t *testing.T) {
	t.Parallel()
	s := planted(t)
	asked, goOn := make(chan struct{}), make(chan struct{})
	s.hook(func(h *hooks) {
		h.snapshot = func(stream []byte) []byte {
			close(asked)
			<-goOn
			return stream
		}
	})
	c := s.join(t)
	<-asked
	wantOutline(t, c, "b,A")
	create(t, c, moveop.Root, client.Last, "mine")
	wantOutline(t, c, "b,A,mine")
	if st := c.Status(); st.State != client.StateBootstrapping || !st.Partial {
		t.Errorf("status is %+v", st)
	}
	close(goOn)
	s.synced(t, c)
	wantOutline(t, c, "b,A,mine")
	if st := c.Status(); st.Partial {
		t.Errorf("status is %+v", st)
	}
}

// The server's history was replaced: the state is the server's, what was pending stays.
func TestResync(t *testing.T) {
	t.Parallel()
	for name, bootstrap := range map[string]bool{"from a snapshot": true, "from seq 0": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := planted(t)
			opts := s.options()
			if !bootstrap {
				opts.BootstrapURL = ""
			}
			path := s.edited(t, opts)
			s.replaceHistory(t)
			c := open(t, path, opts)
			s.synced(t, c)
			wantTitles(t, c, "mine other")
			if got := c.Status().Epoch; got != s.epoch {
				t.Errorf("epoch is %s", got)
			}
		})
	}
}

func (s *server) replaceHistory(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	s.epoch = "0193a0e0-0000-7000-8000-000000000002"
	s.room = proptest.NewServer(proptest.RestoreMoveAndSet)
	s.mu.Unlock()
	n := moveop.NodeID{9}
	err := s.apply(
		moveop.Op{Kind: moveop.Move, TS: moveop.NewTimestamp(1, 0, 7), Node: n, Parent: moveop.Root, OrderKey: "Zz"},
		moveop.Op{Kind: moveop.Set, TS: moveop.NewTimestamp(1, 1, 7), Node: n, Key: "title", Value: []byte(`"other"`)},
	)
	if err != nil {
		t.Fatal(err)
	}
}

// A replica that differs from the server at the same cursor says so, and loads the room anew.
func TestDigestMismatch(t *testing.T) {
	t.Parallel()
	s := planted(t)
	c := s.join(t)
	s.synced(t, c)
	before := s.counts().snapshots
	statuses := c.WatchStatus(t.Context())
	s.mu.Lock()
	for p := range s.peers {
		p.send(wire.Head{Head: int64(len(s.log())), Digest: moveop.Digest{Ops: 1}})
	}
	s.mu.Unlock()
	for st := range statuses {
		if st.Mismatches == 1 && st.State == client.StateSynced {
			break
		}
	}
	s.synced(t, c)
	if after := s.counts().snapshots; after != before+1 {
		t.Errorf("%d snapshots were loaded", after-before)
	}
}

// A room that was there and is not any more is no reason to forget it.
func TestRoomGone(t *testing.T) {
	t.Parallel()
	s := planted(t)
	path := filepath.Join(t.TempDir(), "replica")
	c := open(t, path, s.options())
	s.synced(t, c)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	s.replaceHistory(t)
	asked := make(chan struct{}, 100)
	s.hook(func(h *hooks) {
		h.snapshot = func([]byte) []byte { asked <- struct{}{}; return nil }
	})
	c = open(t, path, s.options())
	<-asked
	<-asked
	wantOutline(t, c, "b,A")
	if err := c.Status().Err; err == nil {
		t.Error("no error in the status")
	}
}
