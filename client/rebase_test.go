package client

import (
	"context"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/pgfuncs/pgtest"
)

// Some of what is pending got through, its acknowledgement was lost, and it was folded by the time that the
// replica is made anew: that must not be pushed again. The rest is too old, and is stamped anew in its order.
func TestRebaseKnowsWhatGotThrough(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	db, err := pgfuncs.Open(ctx, pgtest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	const room = "garden"
	if _, err := db.CreateRoom(ctx, room, "0193a0e0-0000-7000-8000-00000000cafe"); err != nil {
		t.Fatal(err)
	}
	old := true
	c, err := Open(ctx, filepath.Join(t.TempDir(), "replica"), Options{Room: room, Now: func() time.Time {
		if old {
			return time.Now().AddDate(0, 0, -40)
		}
		return time.Now()
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var bed moveop.NodeID
	err = c.Edit(ctx, func(tx *Tx) error {
		if bed, err = tx.Create(moveop.Root, Last); err != nil {
			return err
		}
		return tx.Set(bed, "title", "tulips")
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, title := range []string{"roses", "lilies", "asters"} {
		if err := c.Edit(ctx, func(tx *Tx) error { return tx.Set(bed, title, title) }); err != nil {
			t.Fatal(err)
		}
	}
	made := pendingOps(t, c)
	if len(made) != 5 {
		t.Fatalf("%d operations", len(made))
	}
	apply := func(ops ...moveop.Op) {
		t.Helper()
		if _, err := db.Apply(ctx, room, ops); err != nil {
			t.Fatal(err)
		}
	}
	apply(made[:3]...)
	other := func(i int, op moveop.Op) moveop.Op {
		op.TS = moveop.NewTimestamp(made[4].TS.Millis()+int64(i), 0, 77)
		return op
	}
	apply( // somebody else overwrites what got through
		other(1, moveop.Op{Kind: moveop.Move, Node: bed, Parent: moveop.Root, OrderKey: "b00"}),
		other(2, moveop.Op{Kind: moveop.Set, Node: bed, Key: "title", Value: []byte(`"thyme"`)}),
		other(3, moveop.Op{Kind: moveop.Set, Node: bed, Key: "roses", Value: []byte(`"none"`)}))
	horizon, err := db.Horizon(ctx, 30*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	folded, err := db.Compact(ctx, room, horizon, nil)
	if err != nil || folded.Folded != 3 {
		t.Fatalf("%+v, %v", folded, err)
	}
	last, err := db.LastTimestamp(ctx, room, c.Replica())
	if err != nil {
		t.Fatal(err)
	}

	old = false
	at, err := db.Room(ctx, room)
	if err != nil {
		t.Fatal(err)
	}
	r := &compactedRoom{db: db, room: room}
	stream, err := r.snapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c.store.held = held{epoch: at.Epoch, head: at.Head, last: last}
	l := &loader{st: c.store}
	if err := l.load(ctx, stream, room); err != nil {
		t.Fatal(err)
	}
	if err := l.install(ctx); err != nil {
		t.Fatal(err)
	}
	left := pendingOps(t, c)
	var keys []string
	for _, op := range left {
		keys = append(keys, op.Key)
		if !horizon.Before(op.TS) {
			t.Errorf("%s is too old still", op.TS)
		}
	}
	if !slices.Equal(keys, []string{"lilies", "asters"}) {
		t.Errorf("pending are %q", keys)
	}
	apply(left...)
	if at, err = db.Room(ctx, room); err != nil || at.Digest != c.Digest() {
		t.Errorf("the server has %+v, the client %+v, %v", at.Digest, c.Digest(), err)
	}
	if title, _, err := c.Value(ctx, bed, "title"); err != nil || string(title) != `"thyme"` {
		t.Errorf("the title is %s, %v", title, err)
	}
}

func pendingOps(t *testing.T, c *Client) (ops []moveop.Op) {
	t.Helper()
	err := c.store.view(context.Background(), func(s *session) error {
		all, err := s.outbox()
		ops = operations(all)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return ops
}
