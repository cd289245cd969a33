package pgfuncs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// plant makes Root{a{aa{aaa},ab},b{ba,bb}} and a trashed t{ta}, and returns the room.
func plant(t *testing.T, db database) string {
	t.Helper()
	room := db.newRoom(t)
	var ops []moveop.Op
	for i, n := range []string{"a", "b", "aa", "ab", "ba", "bb", "aaa", "t", "ta"} {
		parent := moveop.Root
		if len(n) > 1 {
			parent = node(n[:len(n)-1])
		}
		op := move(1, int64(i+1), node(n), parent)
		op.OrderKey = fmt.Sprintf("a%d", i)
		ops = append(ops, op)
	}
	ops = append(ops,
		set(1, 20, node("a"), "title", `"A"`),
		set(1, 21, node("a"), "gone", `1`),
		set(1, 22, node("a"), "gone", `null`),
		move(1, 23, node("t"), moveop.Trash))
	db.apply(t, room, ops...)
	return room
}

// collect reads all pages of a listing.
func collect(t *testing.T, read func(after string) (wire.Page, error)) (names []string, pages int) {
	t.Helper()
	after := ""
	for {
		page, err := read(after)
		if err != nil {
			t.Fatal(err)
		}
		pages++
		for _, n := range page.Nodes {
			names = append(names, string(bytes.TrimRight(n.ID[5:], "\x00")))
		}
		if page.Next == nil {
			return names, pages
		}
		after = *page.Next
	}
}

func TestSubtreePages(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	room := plant(t, db)
	for _, c := range []struct {
		from  moveop.NodeID
		depth int
		want  []string
	}{
		{moveop.Root, 0, []string{"a", "b", "aa", "ab", "ba", "bb", "aaa"}},
		{moveop.Root, 1, []string{"a", "b"}},
		{moveop.Root, 2, []string{"a", "b", "aa", "ab", "ba", "bb"}},
		{node("a"), 9, []string{"aa", "ab", "aaa"}},
		{moveop.Trash, 0, []string{"t", "ta"}},
		{node("aaa"), 0, nil},
		{node("nobody"), 0, nil},
	} {
		for limit := 1; limit <= 8; limit++ {
			got, pages := collect(t, func(after string) (wire.Page, error) {
				return db.Subtree(t.Context(), room, c.from, c.depth, after, limit)
			})
			if !slices.Equal(got, c.want) {
				t.Errorf("below %s, depth %d, %d a page: got %v, want %v", c.from, c.depth, limit, got, c.want)
			}
			if want := max(1, (len(c.want)+limit-1)/limit); pages != want {
				t.Errorf("below %s, depth %d, %d a page: %d pages, want %d", c.from, c.depth, limit, pages, want)
			}
		}
	}
}

func TestChildrenPages(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	room := plant(t, db)
	for limit := 1; limit <= 3; limit++ {
		got, _ := collect(t, func(after string) (wire.Page, error) {
			return db.Children(t.Context(), room, node("b"), after, limit, 0)
		})
		if want := []string{"ba", "bb"}; !slices.Equal(got, want) {
			t.Errorf("%d a page: got %v, want %v", limit, got, want)
		}
	}
	page, err := db.Children(t.Context(), room, moveop.Root, "", 10, 0)
	if err != nil {
		t.Fatal(err)
	}
	a := page.Nodes[0]
	if a.Children != 2 || len(a.Props) != 1 || string(a.Props["title"]) != `"A"` || page.Seq != 13 || page.Epoch != epoch {
		t.Errorf("got %+v of page %+v", a, page)
	}
	for most, want := range map[int]int64{1: 1, 2: 2, 3: 2} {
		page, err := db.Children(t.Context(), room, moveop.Root, "", 10, most)
		if err != nil || page.Nodes[0].Children != want {
			t.Errorf("counted up to %d: %d children, %v", most, page.Nodes[0].Children, err)
		}
	}
}

// Nobody fills the memory by asking for a page of large properties.
func TestPagesAreBoundedInBytes(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	room := db.newRoom(t)
	value := func(bytes int) string { return `"` + strings.Repeat("x", bytes-2) + `"` }
	names := []string{"a", "b", "c", "d", "e", "f", "g"} // 1 MiB each
	for i, n := range names {
		db.apply(t, room, move(1, int64(2*i+1), node(n), moveop.Root), set(1, int64(2*i+2), node(n), "v", value(1<<20)))
	}
	for name, read := range map[string]func(after string) (wire.Page, error){
		"children": func(after string) (wire.Page, error) {
			return db.Children(t.Context(), room, moveop.Root, after, 100, 0)
		},
		"subtree": func(after string) (wire.Page, error) {
			return db.Subtree(t.Context(), room, moveop.Root, 0, after, 100)
		},
	} {
		if first, err := read(""); err != nil || len(first.Nodes) != 4 {
			t.Errorf("%s: a page of %d nodes (%v)", name, len(first.Nodes), err)
		}
		if got, pages := collect(t, read); !slices.Equal(got, names) || pages != 2 {
			t.Errorf("%s: %v in %d pages", name, got, pages)
		}
	}
	for i := range 9 { // not all of one node's fit into one message
		db.apply(t, room, set(1, int64(100+i), node("a"), fmt.Sprint(i), value(8<<20)))
	}
	_, err := db.Children(t.Context(), room, moveop.Root, "", 1, 0)
	if refused, ok := errors.AsType[*wire.Error](err); !ok || refused.Code != wire.CodeTooLarge {
		t.Errorf("a node with 72 MiB: %v", err)
	}
}

// A place behind the last node of its level, which another page may have had, goes on with the next level.
func TestSubtreeFromBehindALevel(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	room := plant(t, db)
	for after, want := range map[string]int{
		"1.3": 5, "2.2147483647": 1, "2.9223372036854775807": 1, "3.2147483646": 0, "9223372036854775807.1": 0,
	} {
		page, err := db.Subtree(t.Context(), room, moveop.Root, 0, after, 10)
		if err != nil || len(page.Nodes) != want || page.Next != nil {
			t.Errorf("after %s: got %d nodes, next %v, %v, want %d and no more", after, len(page.Nodes), page.Next, err, want)
		}
	}
}

func TestBadCursors(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	room := plant(t, db)
	for _, cursor := range []string{"x", "0.1", "1.0", "1.-1", "1.1x", "99999999999999999999.1", "!", "AAAA", "AAAAAAAAAAAAAAAAAAAAAAAh"} {
		_, subtreeErr := db.Subtree(t.Context(), room, moveop.Root, 0, cursor, 1)
		_, childrenErr := db.Children(t.Context(), room, moveop.Root, cursor, 1, 0)
		for _, err := range []error{subtreeErr, childrenErr} {
			if refused, ok := errors.AsType[*wire.Error](err); !ok || refused.Code != wire.CodeBadRequest {
				t.Errorf("cursor %q: got %v, want bad_request", cursor, err)
			}
		}
	}
}

func TestStats(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	room := plant(t, db)
	stats, err := db.Stats(t.Context(), room)
	if err != nil {
		t.Fatal(err)
	}
	digest := stats.Digest
	want := wire.Stats{Room: room, Epoch: epoch, Head: 13, Nodes: 7, Trashed: 2, Ops: 13, Digest: digest}
	if stats != want || digest.Ops != 13 {
		t.Errorf("got %+v, want %+v", stats, want)
	}
	last, err := db.LastTimestamp(t.Context(), room, 1)
	if err != nil || last != moveop.NewTimestamp(23, 0, 1) {
		t.Errorf("last timestamp is %s (%v)", last, err)
	}
	if none, err := db.LastTimestamp(t.Context(), room, 2); err != nil || !none.IsZero() {
		t.Errorf("last timestamp of a stranger is %s (%v)", none, err)
	}
	all, err := db.Rooms(t.Context())
	if err != nil || len(all) != 1 || all[0].Name != room {
		t.Errorf("rooms are %v (%v)", all, err)
	}
}

// What was pushed while a snapshot is taken is not in it: all of it is one moment.
func TestSnapshotIsOneMoment(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	room := plant(t, db)
	rows := map[int]int64{}
	err := db.Snapshot(t.Context(), room, func(s format.Snapshot) error {
		db.apply(t, room, move(2, 50, node("late"), moveop.Root), set(2, 51, node("late"), "k", "1"), move(2, 52, node("late"), node("a")))
		if h := s.Header(); h.Seq != 13 || h.Digest.Ops != 13 || h.Epoch != epoch {
			return fmt.Errorf("header is %+v", h)
		}
		for _, section := range s.Header().Sections {
			n, err := s.Copy(t.Context(), section.Tag, io.Discard)
			if err != nil {
				return err
			}
			rows[section.Tag] = n
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// 9 nodes; title and gone; the overwritten gone and t's first place.
	if rows[format.TagNodes] != 9 || rows[format.TagValues] != 2 || rows[format.TagOps] != 2 {
		t.Errorf("rows by section are %v", rows)
	}
}

func TestSnapshotErrors(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	err := db.Snapshot(t.Context(), "nowhere", func(format.Snapshot) error { return nil })
	if !errors.Is(err, wire.ErrUnknownRoom) {
		t.Errorf("got %v, want ErrUnknownRoom", err)
	}
	room := db.newRoom(t)
	boom := errors.New("boom")
	if err := db.Snapshot(t.Context(), room, func(format.Snapshot) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("got %v, want the callback's error", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := db.Snapshot(ctx, room, func(format.Snapshot) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

// Readers of snapshots may be slow; everything else goes on.
func TestSnapshotsLeaveConnections(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	ctx := t.Context()
	room := db.newRoom(t)
	const slow = 16
	begun, end := make(chan struct{}, slow), make(chan struct{})
	readers, failed := errgroup.WithContext(ctx)
	for range slow {
		readers.Go(func() error {
			return db.Snapshot(ctx, room, func(format.Snapshot) error {
				begun <- struct{}{}
				<-end
				return nil
			})
		})
	}
	for range slow {
		select {
		case <-begun:
		case <-failed.Done():
			t.Fatal(readers.Wait())
		}
	}
	if _, err := db.Stats(ctx, room); err != nil {
		t.Error(err)
	}
	close(end)
	if err := readers.Wait(); err != nil {
		t.Error(err)
	}
}
