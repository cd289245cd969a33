package client_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// stall holds back every snapshot from now on, as it is when it is asked for, until release is called.
func (s *server) stall(t testing.TB) (release func()) {
	held := make(chan struct{})
	release = sync.OnceFunc(func() { close(held) })
	t.Cleanup(release)
	s.hook(func(h *hooks) {
		h.snapshot = func(stream []byte) []byte { <-held; return stream }
	})
	return release
}

// settled waits until a client has heard of everything and everything of its own is acknowledged, though
// it is not synced because the snapshot is not in.
func (s *server) settled(t testing.TB, c *client.Client) {
	t.Helper()
	waitFor(t, c, "settled", func(st client.Status) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return st.Pending == 0 && st.Seq == int64(len(s.log()))
	})
}

// eventually waits until a condition holds, looking again with every event.
func eventually(t testing.TB, c *client.Client, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	events := c.Watch(ctx)
	for !ok() {
		if _, open := <-events; !open {
			t.Fatalf("not %s in time", what)
		}
	}
}

// wide is a server with n children of Root, some of which have a child, and a client that knows them.
func wide(t testing.TB, n, parents int) (s *server, c *client.Client, nodes []moveop.NodeID) {
	t.Helper()
	s = newServer(t)
	c = s.join(t)
	edit(t, c, func(tx *client.Tx) (err error) {
		if nodes, err = tx.CreateRun(moveop.Root, client.Last, n); err != nil {
			return err
		}
		for i, node := range nodes {
			if err := tx.Set(node, "title", fmt.Sprint(i)); err != nil {
				return err
			}
			if i >= n-parents {
				if _, err := tx.Create(node, client.Last); err != nil {
					return err
				}
			}
		}
		return nil
	})
	s.synced(t, c)
	return s, c, nodes
}

// The first children come with one question each, and what is not looked at is not asked for.
func TestPreviewPages(t *testing.T) {
	t.Parallel()
	s, _, nodes := wide(t, 230, 230)
	s.stall(t)
	c := s.join(t)
	asked := func() (n int) {
		for _, query := range s.counts().children {
			if strings.Contains(query, "after=") || !strings.Contains(query, moveop.Root.String()) {
				n++
			}
		}
		return n
	}
	before := asked()
	first, err := c.Children(t.Context(), moveop.Root, client.Cursor{}, 50)
	if err != nil || len(first) != 50 || first[0].ID != nodes[0] {
		t.Fatalf("%d children, %v", len(first), err)
	}
	if title, _, err := c.Value(t.Context(), nodes[49], "title"); err != nil || string(title) != `"49"` {
		t.Errorf("title %s, %v", title, err)
	}
	if yes, err := c.HasChildren(t.Context(), nodes[0]); err != nil || !yes {
		t.Errorf("has children: %v, %v", yes, err)
	}
	if n := asked(); n != before {
		t.Errorf("%d more questions", n-before)
	}
	rest, err := c.Children(t.Context(), moveop.Root, first[49].Cursor(), 1000)
	if err != nil || len(rest) != 180 || rest[179].ID != nodes[229] {
		t.Fatalf("%d children, %v", len(rest), err)
	}
	below, err := c.Children(t.Context(), nodes[200], client.Cursor{}, 10)
	if err != nil || len(below) != 1 {
		t.Fatalf("%d children, %v", len(below), err)
	}
	n := asked()
	if yes, err := c.HasChildren(t.Context(), below[0].ID); err != nil || yes {
		t.Errorf("has children: %v, %v", yes, err)
	}
	for _, parent := range []moveop.NodeID{moveop.Root, nodes[200], below[0].ID} {
		if _, err := c.Children(t.Context(), parent, client.Cursor{}, 1000); err != nil {
			t.Error(err)
		}
	}
	if again := asked(); again != n || n-before > 3 {
		t.Errorf("%d questions, then %d", n-before, again-n)
	}
	if _, err := c.Node(t.Context(), moveop.NodeID{1}); !errors.Is(err, client.ErrUnknownNode) || !errors.Is(err, client.ErrPartial) {
		t.Errorf("a node that is not here: %v", err)
	}
	if err := c.Fork(t.Context(), filepath.Join(t.TempDir(), "fork"), "fork"); !errors.Is(err, client.ErrPartial) {
		t.Errorf("fork: %v", err)
	}
}

// The children before a child, or before the end, may not be loaded yet.
func TestPreviewBackwards(t *testing.T) {
	t.Parallel()
	s, here, nodes := wide(t, 1230, 0)
	s.stall(t)
	middle, err := here.Node(t.Context(), nodes[1100])
	if err != nil {
		t.Fatal(err)
	}
	for _, before := range []client.Cursor{{}, middle.Cursor()} {
		want, err := here.ChildrenBefore(t.Context(), moveop.Root, before, 5)
		if err != nil || len(want) != 5 {
			t.Fatalf("%v, %v", want, err)
		}
		got, err := s.join(t).ChildrenBefore(t.Context(), moveop.Root, before, 5)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("before %v: %v, %v, not %v", before, got, err, want)
		}
	}
}

// Last is behind children that nobody has looked at, too.
func TestPreviewLast(t *testing.T) {
	t.Parallel()
	s, _, _ := wide(t, 230, 0)
	release := s.stall(t)
	c := s.join(t)
	last := create(t, c, moveop.Root, client.Last, "last")
	release()
	s.synced(t, c)
	all, err := c.Children(t.Context(), moveop.Root, client.Cursor{}, 1000)
	if err != nil || len(all) != 231 || all[230].ID != last {
		t.Errorf("%d children, %v", len(all), err)
	}
}

// Where the realtime service gives no children, what is here has to do, and nobody waits for long.
func TestPreviewRefused(t *testing.T) {
	t.Parallel()
	s := planted(t)
	release := s.stall(t)
	s.hook(func(h *hooks) {
		h.children = func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
	})
	c := open(t, offline(t), s.options())
	wantOutline(t, c, "mine")
	create(t, c, moveop.Root, client.Last, "more")
	wantOutline(t, c, "mine,more")
	if !c.Status().Partial {
		t.Error("the status does not say that it is partial")
	}
	release()
	s.synced(t, c)
	wantTitles(t, c, "A b mine more")
}

// A file that was closed in the middle shows what it showed, says that it is not all, and goes on when
// there are services again.
func TestPreviewReopen(t *testing.T) {
	t.Parallel()
	s := planted(t)
	s.stall(t)
	path := filepath.Join(t.TempDir(), "replica")
	c := open(t, path, s.options())
	wantOutline(t, c, "b,A")
	create(t, c, moveop.Root, client.Last, "mine")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = open(t, path, client.Options{})
	wantOutline(t, c, "b,A,mine")
	create(t, c, moveop.Root, client.Last, "more")
	if st := c.Status(); !st.Partial || st.State != client.StateOffline {
		t.Errorf("status %+v", st)
	}
	if d := doctor(t, c); len(d.Findings) > 0 {
		t.Errorf("found %+v", d)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	s.hook(func(h *hooks) { h.snapshot = nil })
	for _, bootstrap := range []string{"", s.url} { // a replica that starts over without a bootstrap service, too
		copied := filepath.Join(t.TempDir(), "copy")
		c = open(t, path, client.Options{})
		if err := c.Export(t.Context(), copied); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		opts := s.options()
		opts.BootstrapURL = bootstrap
		c = open(t, copied, opts)
		s.synced(t, c)
		if got := strings.Fields(titles(t, c)); len(got) < 4 {
			t.Errorf("the titles are %v", got)
		}
		if st := c.Status(); st.Partial {
			t.Errorf("status %+v", st)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A delete takes along what was there when it was shown, looked at or not; what came later than what was
// shown comes back.
func TestPreviewKnown(t *testing.T) {
	t.Parallel()
	s, other, nodes := wide(t, 3, 3)
	release := s.stall(t)
	s.hook(func(h *hooks) {
		h.relay = func(p *peer, m wire.Ops) (wire.Ops, bool) { return m, p.replica == other.Replica() }
	})
	c := s.join(t)
	if all, err := c.Children(t.Context(), moveop.Root, client.Cursor{}, 10); err != nil || len(all) != 3 {
		t.Fatalf("%d children, %v", len(all), err)
	}
	create(t, other, nodes[1], client.Last, "unseen")
	s.synced(t, other)
	edit(t, c, func(tx *client.Tx) error { return errors.Join(tx.Delete(nodes[0]), tx.Delete(nodes[1])) })
	s.hook(func(h *hooks) { h.relay = nil })
	s.hangUp()
	release()
	s.synced(t, c, other)
	wantOutline(t, c, "1{,unseen},2{}")
	wantOutline(t, other, "1{,unseen},2{}")
}

// What was edited in the preview can be undone when the room is here.
func TestPreviewUndo(t *testing.T) {
	t.Parallel()
	s, _, nodes := wide(t, 3, 3)
	release := s.stall(t)
	c := s.join(t)
	before := outline(t, c, moveop.Root)
	edit(t, c, func(tx *client.Tx) error { return tx.Move(nodes[0], nodes[2], client.First) })
	edit(t, c, func(tx *client.Tx) error { return tx.Set(nodes[1], "title", "new") })
	edit(t, c, func(tx *client.Tx) error { return tx.Delete(nodes[2]) })
	edit(t, c, func(tx *client.Tx) error { return tx.Restore(nodes[2]) })
	undo(t, c)
	redo(t, c)
	after := outline(t, c, moveop.Root)
	release()
	s.synced(t, c)
	wantOutline(t, c, after)
	for range 4 {
		undo(t, c)
	}
	wantOutline(t, c, before)
	s.synced(t, c)
	wantOutline(t, c, before)
}

// Undoing what overwrote something that was not here yet brings that back.
func TestPreviewUndoBlind(t *testing.T) {
	t.Parallel()
	s, other, _ := wide(t, 3, 0)
	edit(t, other, func(tx *client.Tx) error { return tx.Set(moveop.Root, "title", "theirs") })
	s.synced(t, other)
	release := s.stall(t)
	c := s.join(t)
	for _, title := range []string{"mine", "mine, too"} {
		edit(t, c, func(tx *client.Tx) error { return tx.Set(moveop.Root, "title", title) })
	}
	edit(t, c, func(tx *client.Tx) error { return tx.Set(moveop.Root, "color", "red") })
	release()
	s.synced(t, c)
	for _, want := range []string{`"mine, too"`, `"mine"`, `"theirs"`} {
		undo(t, c)
		if title, _, err := c.Value(t.Context(), moveop.Root, "title"); err != nil || string(title) != want {
			t.Errorf("the title is %s, %v, not %s", title, err, want)
		}
	}
	if _, ok, err := c.Value(t.Context(), moveop.Root, "color"); ok || err != nil {
		t.Errorf("there is a color, %v", err)
	}
}

// Where something was that was deleted before is not known until the room is here.
func TestPreviewRestore(t *testing.T) {
	t.Parallel()
	s, other, nodes := wide(t, 3, 3)
	edit(t, other, func(tx *client.Tx) error { return tx.Delete(nodes[1]) })
	s.synced(t, other)
	release := s.stall(t)
	c := s.join(t)
	if gone, err := c.Children(t.Context(), moveop.Trash, client.Cursor{}, 10); err != nil || len(gone) != 1 {
		t.Fatalf("%d nodes in Trash, %v", len(gone), err)
	}
	restore := func(tx *client.Tx) error { return tx.Restore(nodes[1]) }
	if err := c.Edit(t.Context(), restore); !errors.Is(err, client.ErrPartial) {
		t.Errorf("restore: %v", err)
	}
	release()
	s.synced(t, c)
	edit(t, c, restore)
	wantOutline(t, c, "0{},1{},2{}")
}

// What others do is shown, with the properties of what they move into sight, and does not go away when
// an older snapshot comes in.
func TestPreviewLive(t *testing.T) {
	t.Parallel()
	s, other, nodes := wide(t, 3, 3)
	var hidden moveop.NodeID
	edit(t, other, func(tx *client.Tx) error {
		below, err := tx.Children(nodes[2], client.Cursor{}, 1)
		hidden = below[0].ID
		return errors.Join(err, tx.Set(hidden, "title", "hidden"))
	})
	s.synced(t, other)
	release := s.stall(t)
	c := s.join(t)
	wantRoot := func(want ...string) func() bool {
		return func() bool {
			all, err := c.Children(t.Context(), moveop.Root, client.Cursor{}, 10)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, n := range all {
				title, _, err := c.Value(t.Context(), n.ID, "title")
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, string(title))
			}
			return fmt.Sprint(got) == fmt.Sprint(want)
		}
	}
	eventually(t, c, "shown", wantRoot(`"0"`, `"1"`, `"2"`))
	create(t, other, moveop.Root, client.First, "new")
	eventually(t, c, "shown", wantRoot(`"new"`, `"0"`, `"1"`, `"2"`))
	edit(t, other, func(tx *client.Tx) error { return tx.Move(hidden, moveop.Root, client.Last) })
	eventually(t, c, "shown", wantRoot(`"new"`, `"0"`, `"1"`, `"2"`, `"hidden"`))
	events := c.Watch(t.Context())
	release()
	for e := range events {
		if e.Origin == client.Snapshot {
			break
		}
	}
	if !wantRoot(`"new"`, `"0"`, `"1"`, `"2"`, `"hidden"`)() {
		t.Error("the older snapshot took away what was shown")
	}
	s.synced(t, c)
}

// The server's history is replaced while it is loaded: what was shown of the old one goes, what was
// edited stays, and what the server had acknowledged is pushed again. The old snapshot comes in while it
// connects, or when it is connected to the new history, and being in step with that is not taken for granted.
func TestPreviewEpoch(t *testing.T) {
	t.Parallel()
	for _, connected := range []bool{false, true} {
		t.Run(fmt.Sprintf("connected=%v", connected), func(t *testing.T) {
			t.Parallel()
			testPreviewEpoch(t, connected)
		})
	}
}

func testPreviewEpoch(t *testing.T, connected bool) {
	s := planted(t)
	release := s.stall(t)
	c := s.join(t)
	wantOutline(t, c, "b,A")
	create(t, c, moveop.Root, client.Last, "kept")
	s.settled(t, c)
	swallowed := make(chan struct{}, 10)
	s.hook(func(h *hooks) { h.push = func(*peer, wire.Push) bool { swallowed <- struct{}{}; return true } })
	create(t, c, moveop.Root, client.Last, "mine")
	<-swallowed // or it would get into the other history, ahead of what was made before it
	s.replaceHistory(t)
	s.hook(func(h *hooks) { h.push = nil })
	s.hangUp()
	eventually(t, c, "shown", func() bool { return titles(t, c) == "kept mine other" })
	s.hook(func(h *hooks) { h.snapshot = nil })
	if connected {
		s.settled(t, c)
	}
	release() // the old one
	s.synced(t, c)
	wantTitles(t, c, "kept mine other")
}

// A preview may be forgotten, by a page of another history, between the hello of a connection and its welcome: that
// must not pass for the beginning of a replica that has all there is.
func TestPreviewForgottenBeforeWelcome(t *testing.T) {
	t.Parallel()
	s, _, nodes := wide(t, 3, 3)
	release := s.stall(t)
	greeted := make(chan func(), 1)
	s.hook(func(h *hooks) {
		h.hello = func(p *peer, hello wire.Hello) bool {
			select {
			case greeted <- func() { p.hello(hello) }:
				h.hello = nil
				return true
			default:
				return false
			}
		}
	})
	c := s.join(t)
	welcome := <-greeted
	s.replaceHistory(t)
	pages := 0
	s.hook(func(h *hooks) {
		h.children = func(w http.ResponseWriter, _ *http.Request) bool {
			if pages++; pages == 1 {
				return false
			}
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
	})
	if _, err := c.Children(t.Context(), nodes[0], client.Cursor{}, 10); err != nil {
		t.Fatal(err)
	}
	if st := c.Status(); st.Seq != 0 || !st.Partial {
		t.Fatalf("not forgotten: %+v", st)
	}
	s.hook(func(h *hooks) { welcome() })
	waitFor(t, c, "turned away", func(st client.Status) bool { return st.Err != nil })
	if st := c.Status(); !st.Partial {
		t.Errorf("nothing is here, and it passes for the whole: %+v", st)
	}
	s.hook(func(h *hooks) { h.children = nil })
	eventually(t, c, "shown", func() bool { return titles(t, c) == "other" })
	s.settled(t, c)
	s.hook(func(h *hooks) { h.snapshot = nil })
	release()
	s.synced(t, c)
	wantTitles(t, c, "other")
}

// Random edits here and there while the snapshot is cut off again and again, connections break and the
// replica is closed and opened: what is shown is what the server has with what is pending on top, events
// tell all of it, and in the end everybody has the same.
func TestPreviewRandom(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64() >> 1
	if text := os.Getenv("CANOPY_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("CANOPY_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s, other, _ := wide(t, 120, 8)
	var mu sync.Mutex // guards what follows
	whole := false
	cut := rand.New(rand.NewPCG(seed, 1))
	s.hook(func(h *hooks) {
		h.snapshot = func(stream []byte) []byte {
			mu.Lock()
			defer mu.Unlock()
			if whole {
				return stream
			}
			return stream[:cut.IntN(len(stream))]
		}
	})
	path := filepath.Join(t.TempDir(), "replica")
	opts := s.options()
	opts.Synchronous = client.SynchronousNormal
	opts.RetryMax = 5 * time.Millisecond
	c := open(t, path, opts)
	m := newMirror(t, c, path)
	m.anonymous = true
	for range 150 {
		switch random.IntN(12) {
		case 0:
			s.hangUp()
		case 1:
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			m.check()
			c = open(t, path, opts)
			m = newMirror(t, c, path)
			m.anonymous = true
		case 2:
			s.settled(t, c)
			s.synced(t, other)
			s.settled(t, c)
			want := outline(t, other, moveop.Root)
			eventually(t, c, "like the other", func() bool { return outline(t, c, moveop.Root) == want })
		case 3, 4, 5, 6:
			edit(t, other, func(tx *client.Tx) error { return randomEdit(tx, random) })
		default:
			err := c.Edit(t.Context(), func(tx *client.Tx) error { return randomEdit(tx, random) })
			if err != nil && !errors.Is(err, client.ErrPartial) {
				t.Fatal(err)
			}
		}
		if !c.Status().Partial {
			t.Fatal("it claims to have all")
		}
	}
	mu.Lock()
	whole = true
	mu.Unlock()
	s.synced(t, c, other)
	wantOutline(t, c, outline(t, other, moveop.Root))
	m.check()
	if d := doctor(t, c); len(d.Findings) > 0 {
		t.Errorf("found %+v", d)
	}
}
