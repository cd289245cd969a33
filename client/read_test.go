package client_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
)

func TestChildrenByPage(t *testing.T) {
	t.Parallel()
	c := setup(t)
	var want []moveop.NodeID
	edit(t, c, func(tx *client.Tx) (err error) {
		want, err = tx.CreateRun(moveop.Root, client.Last, 25)
		return err
	})
	for _, limit := range []int{1, 7, 25, 0} {
		var got []moveop.NodeID
		var after client.Cursor
		for {
			page, err := c.Children(t.Context(), moveop.Root, after, limit)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			for _, n := range page {
				got = append(got, n.ID)
			}
			after = page[len(page)-1].Cursor()
		}
		if !slices.Equal(got, want) {
			t.Errorf("pages of %d: %v", limit, got)
		}
		if got := backwards(t, c, limit); !slices.Equal(got, want) {
			t.Errorf("pages of %d, backwards: %v", limit, got)
		}
	}
	// The node that a cursor was taken from may go away.
	page, err := c.Children(t.Context(), moveop.Root, client.Cursor{}, 10)
	if err != nil {
		t.Fatal(err)
	}
	edit(t, c, func(tx *client.Tx) error { return tx.Delete(page[9].ID) })
	behind, err := c.Children(t.Context(), moveop.Root, page[9].Cursor(), 1)
	if err != nil || len(behind) != 1 || behind[0].ID != want[10] {
		t.Errorf("behind a deleted node is %v, %v", behind, err)
	}
	front, err := c.ChildrenBefore(t.Context(), moveop.Root, page[9].Cursor(), 1)
	if err != nil || len(front) != 1 || front[0] != page[8] {
		t.Errorf("before a deleted node is %v, %v", front, err)
	}
}

// backwards reads the children of Root, last page first.
func backwards(t *testing.T, c *client.Client, limit int) (got []moveop.NodeID) {
	t.Helper()
	var before client.Cursor
	for {
		page, err := c.ChildrenBefore(t.Context(), moveop.Root, before, limit)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			slices.Reverse(got)
			return got
		}
		for _, n := range slices.Backward(page) {
			got = append(got, n.ID)
		}
		before = page[0].Cursor()
	}
}

func TestReads(t *testing.T) {
	t.Parallel()
	c := setup(t)
	a := create(t, c, moveop.Root, client.Last, "a")
	b := create(t, c, a, client.Last, "b")
	d := create(t, c, b, client.Last, "d")
	edit(t, c, func(tx *client.Tx) error {
		return errors.Join(tx.Set(d, "size", 3), tx.Set(d, "gone", true), tx.Set(d, "gone", nil))
	})
	if n, err := c.Node(t.Context(), d); err != nil || n.ID != d || n.Parent != b || n.OrderKey == "" {
		t.Errorf("node is %+v, %v", n, err)
	}
	if _, err := c.Node(t.Context(), moveop.NodeID{9}); !errors.Is(err, client.ErrUnknownNode) {
		t.Errorf("unknown node: %v", err)
	}
	above, err := c.Ancestors(t.Context(), d)
	if want := []moveop.NodeID{b, a, moveop.Root}; err != nil || !slices.Equal(above, want) {
		t.Errorf("ancestors are %v, %v", above, err)
	}
	for _, top := range []moveop.NodeID{moveop.Root, moveop.Trash} {
		if above, err := c.Ancestors(t.Context(), top); err != nil || len(above) != 0 {
			t.Errorf("ancestors of %s are %v, %v", top, above, err)
		}
		if deleted, err := c.IsDeleted(t.Context(), top); err != nil || deleted {
			t.Errorf("%s is deleted: %t, %v", top, deleted, err)
		}
	}
	values, err := c.Values(t.Context(), d)
	if got := fmt.Sprintf("%s", values); err != nil || got != `map[size:3 title:"d"]` {
		t.Errorf("values are %s, %v", got, err)
	}
	if v, ok, err := c.Value(t.Context(), d, "size"); err != nil || !ok || string(v) != "3" {
		t.Errorf("value is %s, %t, %v", v, ok, err)
	}
	if v, ok, err := c.Value(t.Context(), d, "gone"); err != nil || ok {
		t.Errorf("cleared value is %s, %t, %v", v, ok, err)
	}
	for _, want := range []bool{false, true} {
		if deleted, err := c.IsDeleted(t.Context(), d); err != nil || deleted != want {
			t.Errorf("deleted: %t, %v", deleted, err)
		}
		edit(t, c, func(tx *client.Tx) error { return tx.Delete(a) })
	}
	if trash, err := c.Children(t.Context(), moveop.Trash, client.Cursor{}, 0); err != nil || len(trash) != 1 || trash[0].ID != a {
		t.Errorf("in Trash is %v, %v", trash, err)
	}
}

func TestWalk(t *testing.T) {
	t.Parallel()
	c := setup(t)
	a := create(t, c, moveop.Root, client.Last, "a")
	edit(t, c, func(tx *client.Tx) error {
		below := a
		for range 200 {
			nodes, err := tx.CreateRun(below, client.Last, 100)
			if err != nil {
				return err
			}
			below = nodes[50]
		}
		return nil
	})
	n, deepest := 0, 0
	err := c.Walk(t.Context(), moveop.Root, func(_ client.Node, depth int) error {
		n++
		deepest = max(deepest, depth)
		return nil
	})
	if err != nil || n != 20_001 || deepest != 201 {
		t.Errorf("%d nodes, %d deep, %v", n, deepest, err)
	}
	n = 0
	err = c.Walk(t.Context(), moveop.Root, func(node client.Node, depth int) error {
		if n++; depth == 2 {
			return client.SkipChildren
		}
		return nil
	})
	if err != nil || n != 101 {
		t.Errorf("%d nodes without the children of the second level, %v", n, err)
	}
	stop := errors.New("stop")
	if err := c.Walk(t.Context(), moveop.Root, func(client.Node, int) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the error is %v", err)
	}
}

// A view does not see what is edited beside it.
func TestViewIsConsistent(t *testing.T) {
	t.Parallel()
	c := setup(t)
	a := create(t, c, moveop.Root, client.Last, "a")
	err := c.View(t.Context(), func(v *client.View) error {
		before, err := v.Digest()
		if err != nil {
			return err
		}
		edit(t, c, func(tx *client.Tx) error { return tx.Delete(a) })
		n, err := v.Node(a)
		if err != nil || n.Parent != moveop.Root {
			t.Errorf("the node is %+v, %v", n, err)
		}
		if after, err := v.Digest(); err != nil || after != before {
			t.Errorf("the digest has become %+v, %v", after, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Reads inside reads and edits do not lock each other out, however many there are.
func TestNestedReads(t *testing.T) {
	t.Parallel()
	c := setup(t)
	n := create(t, c, moveop.Root, client.Last, "a")
	for name, nested := range map[string]func() error{
		"a value in a walk": func() error {
			return c.Walk(t.Context(), moveop.Root, func(n client.Node, _ int) error {
				_, _, err := c.Value(t.Context(), n.ID, "title")
				return err
			})
		},
		"an edit in a view, a node in an edit": func() error {
			return c.View(t.Context(), func(*client.View) error {
				return c.Edit(t.Context(), func(*client.Tx) error {
					_, err := c.Node(t.Context(), n)
					return err
				})
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			var all errgroup.Group
			var inside sync.WaitGroup
			inside.Add(10)
			for range 10 {
				all.Go(func() error {
					return c.View(t.Context(), func(*client.View) error { // all ten at once
						inside.Done()
						inside.Wait()
						return nested()
					})
				})
			}
			if err := all.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}
