package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
)

// open opens a replica that is closed when the test ends.
func open(t testing.TB, path string, opts client.Options) *client.Client {
	t.Helper()
	if opts.Room == "" {
		opts.Room = "garden"
	}
	c, err := client.Open(t.Context(), path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func setup(t testing.TB) *client.Client {
	t.Helper()
	return open(t, filepath.Join(t.TempDir(), "replica"), client.Options{})
}

// edit is Edit that must not fail.
func edit(t testing.TB, c *client.Client, fn func(tx *client.Tx) error) {
	t.Helper()
	if err := c.Edit(context.WithoutCancel(t.Context()), fn); err != nil {
		t.Fatal(err)
	}
}

// create makes a node with a title.
func create(t testing.TB, c *client.Client, parent moveop.NodeID, at client.Position, title string) (id moveop.NodeID) {
	t.Helper()
	edit(t, c, func(tx *client.Tx) (err error) {
		if id, err = tx.Create(parent, at); err != nil {
			return err
		}
		return tx.Set(id, "title", title)
	})
	return id
}

// outline writes the tree below top with titles, like a{b,c}.
func outline(t testing.TB, c *client.Client, top moveop.NodeID) string {
	t.Helper()
	var out strings.Builder
	depth := 0
	err := c.View(t.Context(), func(v *client.View) error {
		return v.Walk(top, func(n client.Node, d int) error {
			title, _, err := v.Value(n.ID, "title")
			switch {
			case d > depth && depth > 0:
				out.WriteByte('{')
			case d <= depth:
				out.WriteString(strings.Repeat("}", depth-d) + ",")
			}
			depth = d
			out.WriteString(strings.Trim(string(title), `"`))
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String() + strings.Repeat("}", max(0, depth-1))
}

func wantOutline(t testing.TB, c *client.Client, want string) {
	t.Helper()
	if got := outline(t, c, moveop.Root); got != want {
		t.Errorf("the tree is %s, want %s", got, want)
	}
}

func TestEdit(t *testing.T) {
	t.Parallel()
	c := setup(t)
	a := create(t, c, moveop.Root, client.Last, "a")
	b := create(t, c, moveop.Root, client.Last, "b")
	d := create(t, c, a, client.Last, "d")
	for _, step := range []struct {
		name string
		do   func(tx *client.Tx) error
		want string
	}{
		{"move into", func(tx *client.Tx) error { return tx.Move(b, a, client.First) }, "a{b,d}"},
		{"move behind", func(tx *client.Tx) error { return tx.Move(b, a, client.After(d)) }, "a{d,b}"},
		{"move in front", func(tx *client.Tx) error { return tx.Move(b, a, client.Before(d)) }, "a{b,d}"},
		{"reorder", func(tx *client.Tx) error { return tx.Reorder(b, client.Last) }, "a{d,b}"},
		{"move out", func(tx *client.Tx) error { return tx.Move(d, moveop.Root, client.First) }, "d,a{b}"},
		{"set", func(tx *client.Tx) error { return tx.Set(d, "title", "D") }, "D,a{b}"},
		{"delete", func(tx *client.Tx) error { return tx.Delete(a) }, "D"},
		{"restore", func(tx *client.Tx) error { return tx.Restore(a) }, "D,a{b}"},
		{"delete twice", func(tx *client.Tx) error { return errors.Join(tx.Delete(b), tx.Delete(a)) }, "D"},
		{"restore in order", func(tx *client.Tx) error { return errors.Join(tx.Restore(a), tx.Restore(b)) }, "D,a{b}"},
		{"restore where the place is gone", func(tx *client.Tx) error {
			return errors.Join(tx.Delete(b), tx.Delete(a), tx.Restore(b))
		}, "D,b"},
	} {
		t.Run(step.name, func(t *testing.T) {
			edit(t, c, step.do)
			wantOutline(t, c, step.want)
		})
	}
}

// What changes nothing makes no operation.
func TestEditWithoutEffect(t *testing.T) {
	t.Parallel()
	c := setup(t)
	a := create(t, c, moveop.Root, client.Last, "a")
	b := create(t, c, moveop.Root, client.Last, "b")
	d := create(t, c, moveop.Root, client.Last, "d")
	gone := create(t, c, moveop.Root, client.Last, "gone")
	edit(t, c, func(tx *client.Tx) error { return tx.Delete(gone) })
	for name, do := range map[string]func(tx *client.Tx) error{
		"first":               func(tx *client.Tx) error { return tx.Reorder(a, client.First) },
		"last":                func(tx *client.Tx) error { return tx.Reorder(d, client.Last) },
		"after the previous":  func(tx *client.Tx) error { return tx.Reorder(b, client.After(a)) },
		"before the next":     func(tx *client.Tx) error { return tx.Reorder(b, client.Before(d)) },
		"before itself":       func(tx *client.Tx) error { return tx.Reorder(b, client.Before(b)) },
		"after itself":        func(tx *client.Tx) error { return tx.Reorder(b, client.After(b)) },
		"same value":          func(tx *client.Tx) error { return tx.Set(b, "title", json.RawMessage(` "b"`)) },
		"clear what is clear": func(tx *client.Tx) error { return tx.Set(b, "colour", nil) },
		"delete again":        func(tx *client.Tx) error { return tx.Delete(gone) },
		"restore what is not": func(tx *client.Tx) error { return tx.Restore(b) },
		"run of none":         func(tx *client.Tx) error { _, err := tx.CreateRun(a, client.Last, 0); return err },
	} {
		before := c.Digest()
		edit(t, c, do)
		if after := c.Digest(); after != before {
			t.Errorf("%s: %d operations", name, after.Ops-before.Ops)
		}
	}
}

func TestEditErrors(t *testing.T) {
	t.Parallel()
	c := setup(t)
	a := create(t, c, moveop.Root, client.Last, "a")
	b := create(t, c, a, client.Last, "b")
	deleted := create(t, c, moveop.Root, client.Last, "deleted")
	below := create(t, c, deleted, client.Last, "below")
	edit(t, c, func(tx *client.Tx) error { return tx.Delete(deleted) })
	unknown := moveop.NodeID{1, 2, 3}
	creating := func(parent moveop.NodeID, at client.Position) func(tx *client.Tx) error {
		return func(tx *client.Tx) error { _, err := tx.Create(parent, at); return err }
	}
	for _, test := range []struct {
		name string
		do   func(tx *client.Tx) error
		want error
	}{
		{"move Root", func(tx *client.Tx) error { return tx.Move(moveop.Root, a, client.Last) }, client.ErrReserved},
		{"delete Trash", func(tx *client.Tx) error { return tx.Delete(moveop.Trash) }, client.ErrReserved},
		{"under itself", func(tx *client.Tx) error { return tx.Move(a, a, client.Last) }, client.ErrCycle},
		{"below itself", func(tx *client.Tx) error { return tx.Move(a, b, client.Last) }, client.ErrCycle},
		{"unknown node", func(tx *client.Tx) error { return tx.Move(unknown, a, client.Last) }, client.ErrUnknownNode},
		{"unknown parent", creating(unknown, client.Last), client.ErrUnknownNode},
		{"unknown sibling", creating(a, client.Before(unknown)), client.ErrUnknownNode},
		{"no sibling", creating(moveop.Root, client.After(b)), client.ErrNotSibling},
		{"value of unknown", func(tx *client.Tx) error { return tx.Set(unknown, "title", 1) }, client.ErrUnknownNode},
		{"no key", func(tx *client.Tx) error { return tx.Set(a, "", 1) }, moveop.ErrInvalidOp},
		{"no JSON", func(tx *client.Tx) error { return tx.Set(a, "title", make(chan int)) }, moveop.ErrInvalidOp},
		{"too large", func(tx *client.Tx) error { return tx.Set(a, "title", strings.Repeat("x", 1<<20)) }, moveop.ErrInvalidOp},
		{"inside deleted", func(tx *client.Tx) error { return tx.Restore(below) }, client.ErrInsideDeleted},
	} {
		before := c.Digest()
		err := c.Edit(t.Context(), func(tx *client.Tx) error {
			if _, err := tx.Create(a, client.Last); err != nil {
				return err
			}
			return test.do(tx)
		})
		if !errors.Is(err, test.want) {
			t.Errorf("%s: the error is %v, want %v", test.name, err, test.want)
		}
		if c.Digest() != before {
			t.Errorf("%s: something was kept", test.name)
		}
	}
}

// An edit whose function fails or panics has not happened, and the next one works.
func TestEditRollsBack(t *testing.T) {
	t.Parallel()
	c := setup(t)
	create(t, c, moveop.Root, client.Last, "a")
	before := c.Status()
	func() {
		defer func() { _ = recover() }()
		_ = c.Edit(t.Context(), func(tx *client.Tx) error {
			if _, err := tx.Create(moveop.Root, client.Last); err != nil {
				return err
			}
			panic("of the application")
		})
	}()
	ctx, cancel := context.WithCancel(t.Context())
	err := c.Edit(ctx, func(tx *client.Tx) error {
		cancel()
		_, err := tx.Create(moveop.Root, client.Last)
		return err
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
	if after := c.Status(); after != before {
		t.Errorf("status %+v has become %+v", before, after)
	}
	create(t, c, moveop.Root, client.Last, "b")
	wantOutline(t, c, "a,b")
}

// What is kept beyond its function says so, instead of writing or reading in the middle of something else.
func TestUsedAfterItsFunction(t *testing.T) {
	t.Parallel()
	c := setup(t)
	n := create(t, c, moveop.Root, client.Last, "a")
	var tx *client.Tx
	var v *client.View
	edit(t, c, func(inside *client.Tx) error { tx = inside; return nil })
	if err := c.View(t.Context(), func(inside *client.View) error { v = inside; return nil }); err != nil {
		t.Fatal(err)
	}
	before := c.Digest()
	for name, use := range map[string]func() error{
		"create":   func() error { _, err := tx.Create(moveop.Root, client.Last); return err },
		"set":      func() error { return tx.Set(n, "title", "b") },
		"delete":   func() error { return tx.Delete(n) },
		"read":     func() error { _, err := tx.Node(n); return err },
		"view":     func() error { _, err := v.Node(n); return err },
		"children": func() error { _, err := v.Children(moveop.Root, client.Cursor{}, 0); return err },
	} {
		if err := use(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if d := doctor(t, c); len(d.Findings) > 0 || c.Digest() != before {
		t.Errorf("found %+v", d)
	}
}

// Keys that leave no room are no concern of the user: siblings to the right get new ones.
func TestNoRoomBetweenKeys(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	longest := "zz" + strings.Repeat("z", 253)
	for i, key := range []string{"a1", "a1", "a1", longest, longest} {
		op := moveop.Op{
			Kind: moveop.Move, TS: moveop.NewTimestamp(int64(i+1), 0, 7), Node: moveop.NodeID{byte(i + 1)},
			Parent: moveop.Root, OrderKey: key,
		}
		title := moveop.Op{Kind: moveop.Set, TS: moveop.NewTimestamp(int64(i+1), 1, 7), Node: op.Node, Key: "title", Value: []byte(fmt.Sprint(i + 1))}
		if err := s.apply(op, title); err != nil {
			t.Fatal(err)
		}
	}
	c := s.join(t)
	s.synced(t, c)
	create(t, c, moveop.Root, client.After(moveop.NodeID{1}), "x")
	wantOutline(t, c, "1,x,2,3,4,5")
	create(t, c, moveop.Root, client.Before(moveop.NodeID{3}), "y")
	create(t, c, moveop.Root, client.Last, "z")
	create(t, c, moveop.Root, client.Before(moveop.NodeID{5}), "w")
	wantOutline(t, c, "1,x,2,y,3,4,w,5,z")
	s.synced(t, c)
}

// Ten thousand nodes with values in one edit: what an import does.
func TestImport(t *testing.T) {
	t.Parallel()
	c := setup(t)
	parent := moveop.Root
	edit(t, c, func(tx *client.Tx) error {
		for i := range 10_000 {
			id, err := tx.Create(parent, client.Last)
			if err != nil {
				return err
			}
			if err := tx.Set(id, "name", fmt.Sprintf("file %d", i)); err != nil {
				return err
			}
			if i%100 == 0 {
				parent = id
			}
		}
		return nil
	})
	n := 0
	err := c.Walk(t.Context(), moveop.Root, func(client.Node, int) error { n++; return nil })
	if err != nil || n != 10_000 {
		t.Errorf("%d nodes, %v", n, err)
	}
	if p := c.Pending(); p != 20_000 {
		t.Errorf("%d operations pending", p)
	}
}
