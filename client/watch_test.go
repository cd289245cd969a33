package client_test

import (
	"context"
	"testing"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
)

func TestWatch(t *testing.T) {
	t.Parallel()
	c := setup(t)
	ctx, cancel := context.WithCancel(t.Context())
	events := c.Watch(ctx)
	a := create(t, c, moveop.Root, client.Last, "a")
	var e client.Event
	select {
	case e = <-events:
	default:
		t.Fatal("the edit is done, and there is no event")
	}
	if len(e.Changes) != 1 || e.Origin != client.Local || e.Reread {
		t.Fatalf("event %+v", e)
	}
	if change := e.Changes[0]; change.Node != a || change.From != (client.Place{}) || change.To.Parent != moveop.Root || len(change.Values) != 1 || string(change.Values[0].Value) != `"a"` || change.Values[0].By != c.Replica() {
		t.Errorf("created: %+v", change)
	}
	edit(t, c, func(tx *client.Tx) error { return tx.Delete(a) })
	next := <-events
	if change := next.Changes[0]; change.From != e.Changes[0].To || change.To.Parent != moveop.Trash || change.Values != nil || change.Kind() != client.Deleted || change.By != c.Replica() || change.Corrected {
		t.Errorf("deleted: %+v", change)
	}
	if next.Version <= e.Version {
		t.Errorf("version %d after %d", next.Version, e.Version)
	}
	edit(t, c, func(tx *client.Tx) error { return nil })
	cancel()
	for e := range events {
		t.Errorf("event %+v", e)
	}
}

// A reader that falls behind is told to read again, and misses nothing by that.
func TestWatchSlowly(t *testing.T) {
	t.Parallel()
	c := setup(t)
	events := c.Watch(t.Context())
	for range 1000 {
		create(t, c, moveop.Root, client.Last, "x")
	}
	var version int64
	for reread := false; !reread; {
		e := <-events
		if e.Version != version+1 {
			t.Fatalf("version %d after %d", e.Version, version)
		}
		version, reread = e.Version, e.Reread
	}
	var read int64
	err := c.View(t.Context(), func(v *client.View) (err error) {
		read, err = v.Version()
		return err
	})
	if err != nil || read != 1000 {
		t.Errorf("reading again gives version %d, %v", read, err)
	}
	create(t, c, moveop.Root, client.Last, "y")
	if e := <-events; e.Version != 1001 || e.Reread {
		t.Errorf("the next event is %+v", e)
	}
}

func TestWatchLargeEdit(t *testing.T) {
	t.Parallel()
	c := setup(t)
	events := c.Watch(t.Context())
	edit(t, c, func(tx *client.Tx) error {
		_, err := tx.CreateRun(moveop.Root, client.Last, 5000)
		return err
	})
	if e := <-events; !e.Reread || e.Changes != nil {
		t.Errorf("the event is %+v", e)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, open := <-events; open {
		t.Error("the channel is open after Close")
	}
	if _, open := <-c.Watch(t.Context()); open {
		t.Error("a channel is open after Close")
	}
}
