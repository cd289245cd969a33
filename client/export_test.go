package client_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
)

// An export made while edits go on is a state of the file, and goes on as another replica.
func TestExport(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	c := s.join(t)
	for i := range 5 {
		create(t, c, moveop.Root, client.Last, fmt.Sprint(i))
	}
	s.synced(t, c)
	path := filepath.Join(t.TempDir(), "copy")
	stop := make(chan struct{})
	var editing sync.WaitGroup
	editing.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if err := c.Edit(context.Background(), func(tx *client.Tx) error {
					for range 10 {
						if _, err := tx.Create(moveop.Root, client.Last); err != nil {
							return err
						}
					}
					return nil
				}); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	err := c.Export(t.Context(), path)
	close(stop)
	editing.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Export(t.Context(), path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second export to the same path: %v", err)
	}
	copied := open(t, path, client.Options{})
	if copied.Replica() == c.Replica() || !copied.CanUndo() {
		t.Errorf("the copy is replica %s, CanUndo %t", copied.Replica(), copied.CanUndo())
	}
	children, err := copied.Children(t.Context(), moveop.Root, client.Cursor{}, 0)
	if err != nil || len(children)%10 != 5 {
		t.Errorf("%d children, %v", len(children), err)
	}
	create(t, copied, moveop.Root, client.First, "copy")
	if err := copied.Close(); err != nil {
		t.Fatal(err)
	}
	s.synced(t, c)
	copied = open(t, path, s.options())
	s.synced(t, copied, c)
	s.checkOnce(t)
	wantOutline(t, c, outline(t, copied, moveop.Root))
	if left, _ := filepath.Glob(path + "-new*"); len(left) > 0 {
		t.Errorf("left behind: %s", left)
	}
}

// A fork is the same tree under the same ids in a new room, which it makes when it is opened.
func TestFork(t *testing.T) {
	t.Parallel()
	c := open(t, filepath.Join(t.TempDir(), "replica"), client.Options{Room: "meadow"})
	a := create(t, c, moveop.Root, client.Last, "a")
	b := create(t, c, a, client.First, "b")
	gone := create(t, c, a, client.Last, "gone")
	edit(t, c, func(tx *client.Tx) error {
		_, err := tx.CreateRun(b, client.Last, 9000)
		return errors.Join(err, tx.Delete(gone), tx.Set(b, "title", "B"), tx.Set(b, "color", nil))
	})
	path := filepath.Join(t.TempDir(), "fork")
	if err := c.Fork(t.Context(), path, "garden"); err != nil {
		t.Fatal(err)
	}
	s := newServer(t)
	fork := open(t, path, s.options())
	s.synced(t, fork)
	if fork.Replica() == c.Replica() || fork.Room() != "garden" || fork.CanUndo() {
		t.Errorf("the fork is replica %s of %s", fork.Replica(), fork.Room())
	}
	for _, top := range []moveop.NodeID{moveop.Root, moveop.Trash} {
		if got, want := outline(t, fork, top), outline(t, c, top); got != want {
			t.Errorf("the fork is %.100s, the room %.100s", got, want)
		}
	}
	if node(t, fork, b) != node(t, c, b) {
		t.Errorf("b is at %+v", node(t, fork, b))
	}
	edit(t, fork, func(tx *client.Tx) error { return tx.Restore(gone) })
	other := s.join(t)
	s.synced(t, fork, other)
	wantOutline(t, other, outline(t, fork, moveop.Root))
}

func TestForkRefuses(t *testing.T) {
	t.Parallel()
	c := setup(t)
	dir := t.TempDir()
	for _, room := range []string{"", "No Room"} {
		if err := c.Fork(t.Context(), filepath.Join(dir, "fork"), room); err == nil {
			t.Errorf("forked into room %q", room)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Fork(ctx, filepath.Join(dir, "fork"), "garden"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := c.Export(t.Context(), filepath.Join(dir, "none", "copy")); err == nil {
		t.Error("exported into a directory that is not there")
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) > 0 {
		t.Errorf("left behind: %v, %v", files, err)
	}
}
