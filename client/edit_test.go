package client_test

import (
	"context"
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

func TestSmoke(t *testing.T) {
	c := setup(t)
	a := create(t, c, moveop.Root, client.Last, "a")
	b := create(t, c, moveop.Root, client.Last, "b")
	create(t, c, a, client.Last, "c")
	wantOutline(t, c, "a{c},b")
	edit(t, c, func(tx *client.Tx) error { return tx.Move(b, a, client.First) })
	wantOutline(t, c, "a{b,c}")
	fmt.Println(c.Digest(), c.Status())
}
