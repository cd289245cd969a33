package client_test

import (
	"errors"
	"os"
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
	for name, prepare := range map[string]func(t *testing.T, path string){
		"file": func(t *testing.T, path string) {
			for _, suffix := range []string{"", "-lock"} {
				chmod(t, path+suffix, 0o444)
			}
			chmod(t, filepath.Dir(path), 0o777)
		},
		"replica only": func(t *testing.T, path string) {
			chmod(t, path, 0o444)
			chmod(t, path+"-lock", 0o666)
			chmod(t, filepath.Dir(path), 0o777)
		},
		"lock only": func(t *testing.T, path string) {
			chmod(t, path, 0o666)
			chmod(t, path+"-lock", 0o444)
			chmod(t, filepath.Dir(path), 0o777)
		},
		"directory": func(t *testing.T, path string) {
			chmod(t, path, 0o666)
			chmod(t, path+"-lock", 0o666)
			chmod(t, filepath.Dir(path), 0o555)
		},
		"no lock": func(t *testing.T, path string) {
			if err := os.Remove(path + "-lock"); err != nil {
				t.Fatal(err)
			}
			chmod(t, path, 0o444)
			chmod(t, filepath.Dir(path), 0o555)
		},
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
			prepare(t, path)
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
