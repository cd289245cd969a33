package client_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
)

func TestReopen(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a name with % and ?", "replica")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	c := open(t, path, client.Options{})
	a := create(t, c, moveop.Root, client.Last, "a")
	before, replica := c.Digest(), c.Replica()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, err := c.Node(t.Context(), a); !errors.Is(err, client.ErrClosed) {
		t.Errorf("read after Close: %v", err)
	}
	if err := c.Edit(t.Context(), nil); !errors.Is(err, client.ErrClosed) {
		t.Errorf("edit after Close: %v", err)
	}
	c, err := client.Open(t.Context(), path, client.Options{}) // the file knows its room
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Digest() != before || c.Replica() != replica || c.Room() != "garden" || c.Pending() != 2 {
		t.Errorf("reopened as %+v of replica %s, room %s", c.Digest(), c.Replica(), c.Room())
	}
	create(t, c, a, client.Last, "b")
	wantOutline(t, c, "a{b}")
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	write := func(content []byte) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			if err := os.WriteFile(path, content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	patched := func(offset int, b byte) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			if err := open(t, path, client.Options{}).Close(); err != nil {
				t.Fatal(err)
			}
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			content[offset] = b
			write(content)(t, path)
		}
	}
	for _, test := range []struct {
		name    string
		prepare func(t *testing.T, path string)
		room    string
		want    error
	}{
		{"empty", write(nil), "garden", client.ErrNotCanopyFile},
		{"text", write([]byte("Dear diary")), "garden", client.ErrNotCanopyFile},
		{"long text", write(make([]byte, 10_000)), "garden", client.ErrNotCanopyFile},
		{"other database", patched(71, 0), "garden", client.ErrNotCanopyFile},
		{"newer version", patched(63, 200), "garden", client.ErrNewerVersion},
		{"other room", func(t *testing.T, path string) {
			if err := open(t, path, client.Options{}).Close(); err != nil {
				t.Fatal(err)
			}
		}, "meadow", client.ErrOtherRoom},
		{"damaged", patched(100, 0xff), "garden", client.ErrCorrupt},
		{"cut off", func(t *testing.T, path string) {
			c := open(t, path, client.Options{})
			edit(t, c, func(tx *client.Tx) error { _, err := tx.CreateRun(moveop.Root, client.Last, 500); return err })
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(path, 8192); err != nil {
				t.Fatal(err)
			}
		}, "garden", client.ErrCorrupt},
		{"in use", func(t *testing.T, path string) { open(t, path, client.Options{}) }, "garden", client.ErrLocked},
		{"a directory", func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o755); err != nil {
				t.Fatal(err)
			}
		}, "garden", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "replica")
			test.prepare(t, path)
			before, _ := os.ReadFile(path)
			_, err := client.Open(t.Context(), path, client.Options{Room: test.room})
			if err == nil || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("the error is %v, want %v", err, test.want)
			}
			if after, _ := os.ReadFile(path); string(after) != string(before) {
				t.Error("the file was changed")
			}
		})
	}
}

// Who waits for a file that is in use gets it when it is free, or the error when he has waited enough.
func TestOpenWaits(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "replica")
	first := open(t, path, client.Options{})
	create(t, first, moveop.Root, client.Last, "a")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := client.Open(ctx, path, client.Options{WaitForFile: true}); !errors.Is(err, client.ErrLocked) {
		t.Errorf("the error is %v", err)
	}
	opened := make(chan error)
	var second *client.Client
	go func() {
		var err error
		second, err = client.Open(t.Context(), path, client.Options{WaitForFile: true})
		opened <- err
	}()
	create(t, first, moveop.Root, client.Last, "b")
	select {
	case err := <-opened:
		t.Fatalf("opened while in use, %v", err)
	default:
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	wantOutline(t, second, "a,b")
}

func TestOpenInMissingDirectory(t *testing.T) {
	t.Parallel()
	_, err := client.Open(t.Context(), filepath.Join(t.TempDir(), "missing", "replica"), client.Options{Room: "garden"})
	if !errors.Is(err, client.ErrReadOnly) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the error is %v", err)
	}
}

func TestOpenChecksOptions(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string]client.Options{
		"no room":       {},
		"room name":     {Room: "Not A Name"},
		"realtime URL":  {Room: "garden", RealtimeURL: "localhost:8420"},
		"bootstrap URL": {Room: "garden", BootstrapURL: "ftp://localhost"},
		"long name":     {Room: "garden", Name: strings.Repeat("x", client.MaxName+1)},
		"name":          {Room: "garden", Name: "\xff"}, // which grows to three bytes on the wire
		"synchronous":   {Room: "garden", Synchronous: "OFF"},
	} {
		path := filepath.Join(t.TempDir(), "replica")
		if c, err := client.Open(t.Context(), path, opts); err == nil {
			t.Errorf("%s: opened", name)
			_ = c.Close()
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: made a file", name)
		}
	}
}

// A copy of the file and its log taken at any moment is what a crash leaves behind: it opens, and
// holds the edits up to some point, whole ones only.
func TestCrash(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "replica")
	c := open(t, path, client.Options{})
	var copies sync.WaitGroup
	for i := range 30 {
		edit(t, c, func(tx *client.Tx) error {
			nodes, err := tx.CreateRun(moveop.Root, client.Last, 3)
			if err != nil {
				return err
			}
			if i == 17 { // in the middle of a transaction too
				crash(t, path, i)
			}
			return tx.Set(nodes[2], "title", "x")
		})
		copies.Go(func() { crash(t, path, 3*(i+1)) })
		copies.Wait()
	}
}

// crash opens a copy and checks that it has at least that many nodes and no part of an edit.
func crash(t *testing.T, path string, nodes int) {
	dir := t.TempDir()
	for _, suffix := range []string{"", "-wal"} {
		content, err := os.ReadFile(path + suffix)
		if err != nil {
			t.Error(err)
			return
		}
		if err := os.WriteFile(filepath.Join(dir, "replica"+suffix), content, 0o644); err != nil {
			t.Error(err)
			return
		}
	}
	c, err := client.Open(t.Context(), filepath.Join(dir, "replica"), client.Options{})
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	children, err := c.Children(t.Context(), moveop.Root, client.Cursor{}, 1000)
	if err != nil || len(children)%3 != 0 || len(children) < nodes/3*3-3 {
		t.Errorf("%d nodes after a crash behind %d: %v", len(children), nodes, err)
	}
	if got := c.Pending(); got != int64(len(children)/3*4) {
		t.Errorf("%d operations pending with %d nodes", got, len(children))
	}
}

// What a file that was removed after a crash has left is not taken for edits of the next one of that name.
func TestLogOfAnotherFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "replica")
	crashed := open(t, path, client.Options{})
	create(t, crashed, moveop.Root, client.Last, "old")
	left, err := os.ReadFile(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	opened, exported := filepath.Join(t.TempDir(), "replica"), filepath.Join(t.TempDir(), "replica")
	for _, path := range []string{opened, exported} {
		if err := os.WriteFile(path+"-wal", left, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := open(t, opened, client.Options{})
	create(t, c, moveop.Root, client.Last, "new")
	if err := c.Export(t.Context(), exported); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*client.Client{c, open(t, exported, client.Options{})} {
		wantOutline(t, c, "new")
		if d := doctor(t, c); len(d.Findings) > 0 {
			t.Errorf("found %+v", d)
		}
	}
}

// A file that is removed while it is open is gone; there is nothing in its place that keeps a new one from being
// made.
func TestRemovedWhileOpen(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "replica")
	c := open(t, path, client.Options{})
	n := create(t, c, moveop.Root, client.Last, "a")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Node(t.Context(), n); err == nil {
		t.Error("read by a connection that was made since")
	}
	if err := c.Export(t.Context(), path+"-copy"); err == nil {
		t.Error("exported")
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	wantOutline(t, open(t, path, client.Options{}), "")
}

func TestOpenByLink(t *testing.T) {
	t.Parallel()
	path, link := filepath.Join(t.TempDir(), "replica"), filepath.Join(t.TempDir(), "link")
	c := open(t, path, client.Options{})
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Open(t.Context(), link, client.Options{}); !errors.Is(err, client.ErrLocked) {
		t.Errorf("the error is %v", err)
	}
	create(t, c, moveop.Root, client.Last, "a")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	wantOutline(t, open(t, link, client.Options{}), "a")
}
