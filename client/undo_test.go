package client_test

import (
	"context"
	"fmt"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
)

// undo and redo return what was skipped.
func undo(t testing.TB, c *client.Client) []client.UndoneChange {
	t.Helper()
	return exchange(t, c.Undo)
}

func redo(t testing.TB, c *client.Client) []client.UndoneChange {
	t.Helper()
	return exchange(t, c.Redo)
}

func exchange(t testing.TB, do func(context.Context) (client.Undone, error)) []client.UndoneChange {
	t.Helper()
	undone, err := do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return undone.Skipped
}

func node(t testing.TB, c *client.Client, id moveop.NodeID) client.Node {
	t.Helper()
	n, err := c.Node(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Scenario 21: the same ids, the same places, the same order keys; also after a restart.
func TestUndoDelete(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "replica")
	c := open(t, path, client.Options{})
	create(t, c, moveop.Root, client.Last, "l")
	n := create(t, c, moveop.Root, client.Last, "n")
	create(t, c, moveop.Root, client.Last, "r")
	create(t, c, n, client.Last, "k")
	was := node(t, c, n)
	edit(t, c, func(tx *client.Tx) error { return tx.Delete(n) })
	trashed := node(t, c, n)
	reopen := func() {
		t.Helper()
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		c = open(t, path, client.Options{})
	}
	reopen()
	for range 3 {
		wantOutline(t, c, "l,r")
		if skipped := undo(t, c); len(skipped) > 0 || node(t, c, n) != was {
			t.Errorf("undone: %+v, skipped %+v", node(t, c, n), skipped)
		}
		reopen()
		wantOutline(t, c, "l,n{k},r")
		if skipped := redo(t, c); len(skipped) > 0 || node(t, c, n) != trashed {
			t.Errorf("redone: %+v, skipped %+v", node(t, c, n), skipped)
		}
	}
	if c.CanRedo() || !c.CanUndo() {
		t.Error("it can be redone again, or not undone")
	}
}

func TestUndoNothing(t *testing.T) {
	t.Parallel()
	c := setup(t)
	if undone, err := c.Undo(t.Context()); err != nil || !reflect.DeepEqual(undone, client.Undone{}) || c.CanUndo() || c.Pending() != 0 {
		t.Errorf("undone %+v, %v", undone, err)
	}
	create(t, c, moveop.Root, client.Last, "a")
	undo(t, c)
	create(t, c, moveop.Root, client.Last, "b")
	if undone, err := c.Redo(t.Context()); err != nil || !reflect.DeepEqual(undone, client.Undone{}) || c.CanRedo() {
		t.Errorf("redone after an edit: %+v, %v", undone, err)
	}
	wantOutline(t, c, "b")
}

// Creating a whole branch is undone in one move, which leaves the branch as it was, in Trash.
func TestUndoCreate(t *testing.T) {
	t.Parallel()
	c := setup(t)
	edit(t, c, func(tx *client.Tx) error {
		top, err := tx.Create(moveop.Root, client.Last)
		if err != nil {
			return err
		}
		below, err := tx.CreateRun(top, client.Last, 10)
		if err != nil {
			return err
		}
		return tx.Set(below[3], "title", "d")
	})
	before, want := c.Pending(), outline(t, c, moveop.Root)
	undo(t, c)
	if n := c.Pending() - before; n != 1 {
		t.Errorf("%d operations", n)
	}
	wantOutline(t, c, "")
	redo(t, c)
	wantOutline(t, c, want)
}

// A node and its parent that changed places in one step change back.
func TestUndoSwapsLevels(t *testing.T) {
	t.Parallel()
	c := setup(t)
	a := create(t, c, moveop.Root, client.Last, "a")
	b := create(t, c, a, client.Last, "b")
	x := create(t, c, moveop.Root, client.Last, "x")
	edit(t, c, func(tx *client.Tx) error {
		for _, move := range [][2]moveop.NodeID{{b, moveop.Root}, {a, b}, {b, x}} {
			if err := tx.Move(move[0], move[1], client.Last); err != nil {
				return err
			}
		}
		return nil
	})
	wantOutline(t, c, "x{b{a}}")
	if skipped := undo(t, c); len(skipped) > 0 {
		t.Errorf("skipped %+v", skipped)
	}
	wantOutline(t, c, "a{b},x")
	redo(t, c)
	wantOutline(t, c, "x{b{a}}")
}

func TestUndoPause(t *testing.T) {
	t.Parallel()
	now := time.Now()
	c := open(t, filepath.Join(t.TempDir(), "replica"), client.Options{UndoPause: time.Second, Now: func() time.Time { return now }})
	a := create(t, c, moveop.Root, client.Last, "")
	now = now.Add(time.Minute)
	for i := range 10 {
		now = now.Add(900 * time.Millisecond)
		edit(t, c, func(tx *client.Tx) error { return tx.Set(a, "title", fmt.Sprint(i)) })
	}
	before := c.Pending()
	undo(t, c)
	if n := c.Pending() - before; n != 1 {
		t.Errorf("%d operations to undo one property", n)
	}
	wantOutline(t, c, "")
	redo(t, c)
	wantOutline(t, c, "9")
	edit(t, c, func(tx *client.Tx) error { return tx.Set(a, "title", "apart") })
	undo(t, c)
	wantOutline(t, c, "9")
}

// An isolated edit is joined with neither of its neighbours.
func TestIsolateUndo(t *testing.T) {
	t.Parallel()
	now := time.Now()
	c := open(t, filepath.Join(t.TempDir(), "replica"), client.Options{UndoPause: time.Second, Now: func() time.Time { return now }})
	a := create(t, c, moveop.Root, client.Last, "")
	for _, title := range []string{"1", "2", "alone", "3", "4"} {
		edit(t, c, func(tx *client.Tx) error {
			if title == "alone" {
				tx.IsolateUndo()
			}
			return tx.Set(a, "title", title)
		})
	}
	for _, want := range []string{"alone", "2"} {
		undo(t, c)
		wantOutline(t, c, want)
	}
	undo(t, c)
	if c.CanUndo() {
		t.Error("what came before the isolated edit is more than one step")
	}
	for _, want := range []string{"2", "alone", "4"} {
		redo(t, c)
		wantOutline(t, c, want)
	}
}

func TestUndoLimit(t *testing.T) {
	t.Parallel()
	c := open(t, filepath.Join(t.TempDir(), "replica"), client.Options{UndoLimit: 6})
	for i := range 5 {
		create(t, c, moveop.Root, client.Last, fmt.Sprint(i)) // two changes each
	}
	for range 3 {
		undo(t, c)
	}
	wantOutline(t, c, "0,1")
	if c.CanUndo() {
		t.Error("the history is longer than the limit")
	}
	create(t, c, moveop.Root, client.Last, "5")
	edit(t, c, func(tx *client.Tx) error { _, err := tx.CreateRun(moveop.Root, client.Last, 7); return err })
	if c.CanUndo() || c.CanRedo() {
		t.Error("an edit beyond the limit has left a history")
	}
}

// What others have changed meanwhile stays as it is, and is named.
func TestUndoSkips(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		mine   func(tx *client.Tx, a, b moveop.NodeID) error
		theirs func(tx *client.Tx, a, b moveop.NodeID) error
		reason client.SkipReason
		want   string // before and after
	}{
		{
			"moved", func(tx *client.Tx, a, b moveop.NodeID) error { return tx.Move(a, b, client.Last) },
			func(tx *client.Tx, a, b moveop.NodeID) error { return tx.Move(a, moveop.Root, client.Last) },
			client.SkipChanged, "b,a",
		},
		{
			"edited", func(tx *client.Tx, a, b moveop.NodeID) error { return tx.Set(a, "title", "mine") },
			func(tx *client.Tx, a, b moveop.NodeID) error { return tx.Set(a, "title", "theirs") },
			client.SkipChanged, "theirs,b",
		},
		{
			"filled", func(tx *client.Tx, a, b moveop.NodeID) error {
				n, err := tx.Create(a, client.Last)
				if err != nil {
					return err
				}
				return tx.Set(n, "title", "new")
			},
			func(tx *client.Tx, a, b moveop.NodeID) error {
				news, err := tx.Children(a, client.Cursor{}, 1)
				if err != nil {
					return err
				}
				return tx.Move(b, news[0].ID, client.Last)
			},
			client.SkipInUse, "a{new{b}}",
		},
		{
			"place deleted", func(tx *client.Tx, a, b moveop.NodeID) error { return tx.Move(b, moveop.Root, client.First) },
			func(tx *client.Tx, a, b moveop.NodeID) error { return tx.Delete(a) },
			client.SkipPlaceGone, "b",
		},
		{
			"place below", func(tx *client.Tx, a, b moveop.NodeID) error { return tx.Move(b, moveop.Root, client.First) },
			func(tx *client.Tx, a, b moveop.NodeID) error { return tx.Move(a, b, client.First) },
			client.SkipCycle, "b{a}",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			me, they := s.join(t), s.join(t)
			a := create(t, they, moveop.Root, client.Last, "a")
			parent := moveop.Root
			if test.reason == client.SkipPlaceGone || test.reason == client.SkipCycle {
				parent = a
			}
			b := create(t, they, parent, client.Last, "b")
			s.synced(t, they, me)
			edit(t, me, func(tx *client.Tx) error { return test.mine(tx, a, b) })
			s.synced(t, me, they)
			edit(t, they, func(tx *client.Tx) error { return test.theirs(tx, a, b) })
			s.synced(t, they, me)
			wantOutline(t, me, test.want)
			skipped := undo(t, me)
			if len(skipped) == 0 || skipped[0].Reason != test.reason {
				t.Errorf("skipped %+v", skipped)
			}
			s.synced(t, me, they)
			wantOutline(t, they, test.want)
			if me.CanUndo() || me.CanRedo() {
				t.Error("what could not be undone is still in the history")
			}
		})
	}
}

// Undoing what unknowingly overrode somebody else's change brings that one to light.
func TestUndoShowsTheOverridden(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	they := s.join(t)
	a := create(t, they, moveop.Root, client.Last, "a")
	b := create(t, they, moveop.Root, client.Last, "b")
	x := create(t, they, moveop.Root, client.Last, "x")
	path := filepath.Join(t.TempDir(), "replica")
	me := open(t, path, s.options())
	s.synced(t, they, me)
	reopen := func(opts client.Options) {
		t.Helper()
		if err := me.Close(); err != nil {
			t.Fatal(err)
		}
		me = open(t, path, opts)
	}
	change := func(parent moveop.NodeID, title string) func(tx *client.Tx) error {
		return func(tx *client.Tx) error {
			if err := tx.Set(a, "title", title); err != nil {
				return err
			}
			return tx.Move(a, parent, client.Last)
		}
	}
	reopen(client.Options{})
	edit(t, they, change(b, "theirs"))
	s.synced(t, they)
	edit(t, me, change(x, "mine"))
	reopen(s.options())
	s.synced(t, me, they)
	wantOutline(t, they, "b,x{mine}")
	if skipped := undo(t, me); len(skipped) > 0 {
		t.Errorf("skipped %+v", skipped)
	}
	s.synced(t, me, they)
	wantOutline(t, they, "b{theirs},x")
	redo(t, me)
	s.synced(t, me, they)
	wantOutline(t, they, "b,x{mine}")
}
