package client_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
)

// A file or a directory that may not be written is an error at once, not at the first edit, and stays as
// it was.
func TestOpenReadOnly(t *testing.T) {
	t.Parallel()
	for name, modes := range map[string]struct{ replica, lock, dir os.FileMode }{
		"file":         {0o444, 0o444, 0o777},
		"replica only": {0o444, 0o666, 0o777},
		"lock only":    {0o666, 0o444, 0o777},
		"directory":    {0o666, 0o666, 0o555},
		"no lock":      {0o444, 0, 0o555},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "replica")
			c := open(t, path, client.Options{})
			create(t, c, moveop.Root, client.Last, "a")
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			chmod(t, filepath.Dir(filepath.Dir(path)), 0o755) // or nobody gets there at all
			chmod(t, path, modes.replica)
			if modes.lock != 0 {
				chmod(t, path+"-lock", modes.lock)
			} else if err := os.Remove(path + "-lock"); err != nil {
				t.Fatal(err)
			}
			chmod(t, filepath.Dir(path), modes.dir)
			err = asNobody(func() error {
				c, err := client.Open(t.Context(), path, client.Options{})
				if err == nil {
					return errors.Join(errors.New("opened"), c.Close())
				}
				return err
			})
			if !errors.Is(err, client.ErrReadOnly) {
				t.Errorf("the error is %v", err)
			}
			if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
				t.Errorf("the file was changed, %v", err)
			}
		})
	}
}

// A room is nobody else's to read, nor its lock to take, unless its owner has said so.
func TestFilesArePrivate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "replica")
	c := open(t, path, client.Options{})
	defer c.Close()
	create(t, c, moveop.Root, client.Last, "a")
	if err := c.Export(t.Context(), filepath.Join(dir, "copy")); err != nil {
		t.Fatal(err)
	}
	if err := c.Fork(t.Context(), filepath.Join(dir, "fork"), "elsewhere"); err != nil {
		t.Fatal(err)
	}
	modes := func() map[string]os.FileMode {
		t.Helper()
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]os.FileMode{}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil {
				t.Fatal(err)
			}
			found[e.Name()] = info.Mode()
		}
		return found
	}
	before := modes()
	for _, name := range []string{"replica", "replica-wal", "replica-shm", "replica-lock", "copy", "fork"} {
		if before[name] != 0o600 {
			t.Errorf("%s: %v", name, before[name])
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"replica", "replica-lock"} {
		if err := os.Chmod(filepath.Join(dir, name), 0o664); err != nil {
			t.Fatal(err)
		}
	}
	shared := open(t, path, client.Options{})
	defer shared.Close()
	create(t, shared, moveop.Root, client.Last, "b")
	after := modes()
	for _, name := range []string{"replica", "replica-wal", "replica-shm", "replica-lock"} {
		if after[name] != 0o664 {
			t.Errorf("shared %s: %v", name, after[name])
		}
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(path, 0o700) })
}

// asNobody runs fn without the rights that root has on every file. They are those of the thread, which
// ends with the goroutine.
func asNobody(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if os.Geteuid() == 0 {
			if err := syscall.Setfsuid(65534); err != nil {
				done <- err
				return
			}
		}
		done <- fn()
	}()
	return <-done
}

// However little room there is, a replica is opened, or the disk is full and the file as it was.
func TestOpenOnFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=1m", "canopy-client", dir).CombinedOutput(); err != nil {
		t.Logf("only root can make a small disk (%v: %s): full disks are those of the other tests", err, out)
		return
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "--lazy", dir).CombinedOutput(); err != nil {
			t.Errorf("unmount: %v: %s", err, out)
		}
	})
	path := filepath.Join(dir, "replica")
	c := open(t, path, client.Options{})
	create(t, c, moveop.Root, client.Last, "a")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	opened, full := map[string]int{}, map[string]int{}
	for pages := range 40 {
		rest := fill(t, filepath.Join(dir, "rest"), pages)
		for _, file := range []string{path, path + "-other"} { // one that is there, and a new one
			c, err := client.Open(t.Context(), file, client.Options{Room: "garden"})
			switch {
			case err == nil:
				opened[file]++
				if err := c.Close(); err != nil {
					t.Fatal(err)
				}
			case errors.Is(err, client.ErrDiskFull):
				full[file]++
			default:
				t.Errorf("with %d pages left: %v", pages, err)
			}
		}
		if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
			t.Fatalf("with %d pages left the file was changed, %v", pages, err)
		}
		left, err := filepath.Glob(path + "-other*")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range append(left, rest) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(opened) != 2 || len(full) != 2 {
		t.Errorf("opened %v, disk full %v", opened, full)
	}
	wantOutline(t, open(t, path, client.Options{}), "a")
}

// fill fills a disk but for some pages, with a file of that name.
func fill(t *testing.T, path string, pages int) string {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var page [4096]byte
	written := 0
	for err == nil {
		if _, err = file.Write(page[:]); err == nil {
			written++
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if err := file.Truncate(int64(max(0, written-pages)) * int64(len(page))); err != nil {
		t.Fatal(err)
	}
	return path
}
