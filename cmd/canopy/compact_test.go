package main

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// day is a day of the past, counted back.
func day(n int) time.Time { return time.Now().AddDate(0, 0, -n) }

// oldTree puts a node into a room that was moved about forty days ago.
func (w *world) oldTree(room string) (node moveop.NodeID) {
	w.t.Helper()
	ctx := w.t.Context()
	if _, err := w.db.CreateRoom(ctx, room, "0193a0e0-0000-7000-8000-00000000cafe"); err != nil {
		w.t.Fatal(err)
	}
	node = moveop.NodeID{0: 1, 15: 7}
	var ops []moveop.Op
	for i, key := range []string{"a0", "a1", "a2"} {
		ops = append(ops, moveop.Op{
			Kind: moveop.Move, TS: moveop.NewTimestamp(day(40).UnixMilli()+int64(i), 0, 99),
			Node: node, Parent: moveop.Root, OrderKey: key,
		})
	}
	if _, err := w.db.Apply(ctx, room, ops); err != nil {
		w.t.Fatal(err)
	}
	return node
}

func TestCompact(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.oldTree("attic")
	w.oldTree("garden")
	database := "--database-url=" + w.database

	var done compacted
	parseJSON(t, w.must("compact", "attic", "--dry-run", "--json", database), &done)
	if !done.DryRun || done.Room != "attic" || done.Folded != 2 {
		t.Errorf("dry run: %+v", done)
	}
	if out := w.must("compact", "--all", "--retention=1200h", database); strings.Contains(out, "attic") {
		t.Errorf("nothing is older than that:\n%s", out)
	}
	done = compacted{}
	parseJSON(t, w.must("compact", "attic", "--json", database), &done)
	if done.DryRun || done.Folded != 2 || time.Since(done.Horizon.Time()).Round(time.Hour) != 720*time.Hour {
		t.Errorf("%+v", done)
	}
	if out := w.must("compact", "--all", database); strings.Contains(out, "attic") || !strings.Contains(out, "garden  2       0") {
		t.Errorf("all:\n%s", out)
	}
	if out := w.must("snapshot", "export", "garden", "-o", filepath.Join(t.TempDir(), "s"), "--json"); out == "" {
		t.Error("no snapshot")
	}
	for _, tt := range []struct {
		code int
		args []string
	}{
		{exitUsage, []string{"compact", database}},
		{exitUsage, []string{"compact", "--all", "attic", database}},
		{exitUsage, []string{"compact", "--all", "--retention=0s", database}},
		{exitUsage, []string{"compact", "--all", "--trash-retention=-1h", database}},
		{exitUsage, []string{"compact", "--all", "--retention=48h", "--trash-retention=47h", database}},
		{exitUsage, []string{"compact", "No Room", database}},
		{exitUnknownRoom, []string{"compact", "nowhere", database}},
		{exitUnknownRoom, []string{"compact", "nowhere", "--dry-run", database}},
	} {
		if r := w.canopy(tt.args...); r.code != tt.code {
			t.Errorf("%v: %+v", tt.args, r)
		}
	}
}

// Whoever is compacting keeps the others from it; who finds nobody compacts all rooms.
func TestOneProcessCompactsAtATime(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.oldTree("attic")
	w.oldTree("garden")
	var folded int64
	ran, err := w.db.CompactAll(t.Context(), 720*time.Hour, 0, func(room string, n, _ int64, err error) {
		if err != nil {
			t.Errorf("%s: %v", room, err)
		}
		folded += n
		second, err := w.db.CompactAll(t.Context(), 720*time.Hour, 0, func(room string, _, _ int64, _ error) {
			t.Errorf("two at a time: %s", room)
		})
		if second || err != nil {
			t.Errorf("ran %v, %v", second, err)
		}
	})
	if !ran || err != nil || folded != 4 {
		t.Errorf("ran %v, folded %d, %v", ran, folded, err)
	}
	if ran, err = w.db.CompactAll(t.Context(), 720*time.Hour, 0, func(string, int64, int64, error) {}); !ran || err != nil {
		t.Errorf("afterwards: ran %v, %v", ran, err)
	}
}

// replica opens a replica of the room through a cable for each service.
func (w *world) replica(t *testing.T, room string, now func() time.Time) (*client.Client, [2]*cable) {
	t.Helper()
	realtimeCable, realtimeURL := newCable(t, w.realtime)
	bootstrapCable, bootstrapURL := newCable(t, w.bootstrap)
	c, err := client.Open(t.Context(), filepath.Join(t.TempDir(), "replica"), client.Options{
		Room: room, RealtimeURL: realtimeURL, BootstrapURL: bootstrapURL, Now: now,
		RetryMin: 10 * time.Millisecond, RetryMax: 200 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c, [2]*cable{realtimeCable, bootstrapCable}
}

func edit(t *testing.T, c *client.Client, fn func(tx *client.Tx) error) {
	t.Helper()
	if err := c.Edit(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

func synced(t *testing.T, clients ...*client.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range 2 { // what one pushes last, the others have to see
		for _, c := range clients {
			if err := c.WaitSynced(ctx); err != nil {
				t.Fatalf("%v; %+v", err, c.Status())
			}
		}
	}
}

// names lists the names of the children of a node.
func names(t *testing.T, c *client.Client, parent moveop.NodeID) (names []string) {
	t.Helper()
	children, err := c.Children(t.Context(), parent, client.Cursor{}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range children {
		value, _, err := c.Value(t.Context(), n.ID, "name")
		if err != nil {
			t.Fatal(err)
		}
		var name string
		_ = json.Unmarshal(value, &name)
		names = append(names, name)
	}
	return names
}

// plant makes a node with a name at the end of its siblings.
func plant(t *testing.T, c *client.Client, parent moveop.NodeID, name string) (id moveop.NodeID) {
	t.Helper()
	edit(t, c, func(tx *client.Tx) (err error) {
		if id, err = tx.Create(parent, client.Last); err != nil {
			return err
		}
		return tx.Set(id, "name", name)
	})
	return id
}

// Somebody edits on a machine without a network, and comes back when the log does not reach back so far: the
// replica is made anew, and what was edited is there, in its order, for everybody.
func TestWhoWasAwayLosesNothing(t *testing.T) {
	t.Parallel()
	w := setup(t)
	const room = "garden"
	old := w.oldTree(room)
	var clock atomic.Pointer[time.Time]
	setClock := func(at time.Time) { clock.Store(&at) }
	setClock(day(39))
	away, cables := w.replica(t, room, func() time.Time { return *clock.Load() })
	synced(t, away)
	if _, err := w.db.Apply(t.Context(), room, []moveop.Op{{ // the log goes on
		Kind: moveop.Move, TS: moveop.NewTimestamp(day(39).UnixMilli(), 0, 99), Node: old, Parent: moveop.Root, OrderKey: "a3",
	}, {
		Kind: moveop.Move, TS: moveop.NewTimestamp(day(38).UnixMilli(), 0, 99), Node: old, Parent: moveop.Root, OrderKey: "a4",
	}}); err != nil {
		t.Fatal(err)
	}
	synced(t, away)
	for _, c := range cables {
		c.pull()
	}
	first := plant(t, away, moveop.Root, "first") // too old when it comes
	plant(t, away, first, "below")
	edit(t, away, func(tx *client.Tx) error { return tx.Set(old, "name", "old") })
	setClock(time.Now())
	plant(t, away, moveop.Root, "last")

	if _, err := w.db.Apply(t.Context(), room, []moveop.Op{{
		Kind: moveop.Move, TS: moveop.NewTimestamp(day(37).UnixMilli(), 0, 99), Node: old, Parent: moveop.Root, OrderKey: "a5",
	}}); err != nil {
		t.Fatal(err)
	}
	w.must("compact", room, "--database-url="+w.database)
	before, err := w.db.Room(t.Context(), room)
	if err != nil {
		t.Fatal(err)
	}
	if cursor := away.Status().Seq; before.MinSeq <= cursor {
		t.Fatalf("min_seq %d, the cursor is %d", before.MinSeq, cursor)
	}
	for _, c := range cables {
		c.plug()
	}
	away.Reconnect()
	other, _ := w.replica(t, room, nil)
	synced(t, away, other)
	for _, c := range []*client.Client{away, other} {
		if got := names(t, c, moveop.Root); strings.Join(got, " ") != "old first last" {
			t.Errorf("below the root: %v", got)
		}
		if got := names(t, c, first); strings.Join(got, " ") != "below" {
			t.Errorf("below first: %v", got)
		}
		doctor, err := c.Doctor(t.Context())
		if err != nil || len(doctor.Findings) > 0 || !doctor.Compared {
			t.Errorf("%+v, %v", doctor, err)
		}
	}
	room7, err := w.db.Room(t.Context(), room)
	if err != nil || room7.Head != before.Head+7 {
		t.Errorf("%d operations came, want 7; %v", room7.Head-before.Head, err)
	}
}

// What is too old for a room whose log a client still goes on from is stamped anew, once.
func TestTooOldForTheRoom(t *testing.T) {
	t.Parallel()
	w := setup(t)
	const room = "garden"
	w.oldTree(room)
	var slow atomic.Bool
	slow.Store(true)
	c, cables := w.replica(t, room, func() time.Time {
		if slow.Load() {
			return day(35)
		}
		return time.Now()
	})
	synced(t, c)
	w.must("compact", room, "--database-url="+w.database)
	for _, cable := range cables {
		cable.pull()
	}
	plant(t, c, moveop.Root, "one")
	plant(t, c, moveop.Root, "two")
	head := c.Status().Head
	for _, cable := range cables {
		cable.plug()
	}
	c.Reconnect()
	synced(t, c) // its clock is set right by the way
	if got := names(t, c, moveop.Root); strings.Join(got, " ") != " one two" {
		t.Errorf("below the root: %q", got)
	}
	ops, err := w.db.OpsAfter(t.Context(), room, head, 100)
	if err != nil || len(ops) != 4 {
		t.Fatalf("%d operations, want 4: %v", len(ops), err)
	}
	for _, op := range ops {
		if time.Since(op.TS.Time()) > time.Hour {
			t.Errorf("%s is old", op.TS)
		}
	}
	if s := c.Status(); s.ClockOffset < 34*24*time.Hour || s.Mismatches > 0 {
		t.Errorf("%+v", s)
	}
	var stats wire.Stats
	parseJSON(t, w.must("room", "stats", room, "--json"), &stats)
	if stats.Digest != c.Digest() {
		t.Errorf("the server has %+v, the client %+v", stats.Digest, c.Digest())
	}
}

// What was purged is gone for those who come later; those who have it yet see the same tree, and what they
// still do to it is set aside, with the reason.
func TestPurge(t *testing.T) {
	t.Parallel()
	w := setup(t)
	const room = "garden"
	old := w.oldTree(room)
	below := moveop.NodeID{0: 1, 15: 8}
	if _, err := w.db.Apply(t.Context(), room, []moveop.Op{
		{Kind: moveop.Move, TS: moveop.NewTimestamp(day(39).UnixMilli(), 0, 99), Node: below, Parent: old, OrderKey: "a0"},
		{Kind: moveop.Set, TS: moveop.NewTimestamp(day(39).UnixMilli(), 1, 99), Node: below, Key: "name", Value: []byte(`"leaf"`)},
		{Kind: moveop.Move, TS: moveop.NewTimestamp(day(38).UnixMilli(), 0, 99), Node: old, Parent: moveop.Trash, OrderKey: "a0", Known: 5},
	}); err != nil {
		t.Fatal(err)
	}
	has, _ := w.replica(t, room, nil)
	synced(t, has)
	var done compacted
	parseJSON(t, w.must("compact", room, "--trash-retention=1000h", "--json", "--database-url="+w.database), &done)
	if done.Purged != 0 || done.Folded == 0 {
		t.Errorf("%+v", done)
	}
	parseJSON(t, w.must("compact", room, "--trash-retention=800h", "--json", "--database-url="+w.database), &done)
	if done.Purged != 2 {
		t.Errorf("%+v", done)
	}
	later, _ := w.replica(t, room, nil)
	plant(t, later, moveop.Root, "new")
	synced(t, has, later)
	if has.Digest() != later.Digest() {
		t.Errorf("digests %+v and %+v", has.Digest(), later.Digest())
	}
	if n := names(t, later, moveop.Trash); len(n) != 0 {
		t.Errorf("in trash: %v", n)
	}
	edit(t, has, func(tx *client.Tx) error { return tx.Move(old, moveop.Root, client.Last) })
	plant(t, has, moveop.Root, "other")
	if err := has.WaitSynced(t.Context()); !errors.Is(err, client.ErrRefused) {
		t.Errorf("want one refused, got %v", err)
	}
	synced(t, later)
	if got := names(t, later, moveop.Root); strings.Join(got, " ") != "new other" {
		t.Errorf("below the root: %v", got)
	}
	refused, err := has.Refused(t.Context())
	if err != nil || len(refused) != 1 || refused[0].Op.Node != old {
		t.Fatalf("refused %+v, %v", refused, err)
	}
	if err := has.Discard(t.Context(), refused[0].Op.TS); err != nil {
		t.Fatal(err)
	}
	synced(t, has, later)
	for _, c := range []*client.Client{has, later} {
		if doctor, err := c.Doctor(t.Context()); err != nil || len(doctor.Findings) > 0 || !doctor.Compared {
			t.Errorf("%+v, %v", doctor, err)
		}
	}
}
