//go:build unix

package localpg

import (
	"path/filepath"
	"syscall"
	"testing"
)

// Between fork and exec a child of another goroutine has all our files, the lock among them.
func TestAChildDoesNotKeepTheLock(t *testing.T) {
	t.Parallel()
	path := filepath.Join(worldDir(t), "data")
	first, err := openDirectory(path)
	if err != nil {
		t.Fatal(err)
	}
	childs, err := syscall.Dup(int(first.lock.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(childs)
	first.close()
	second, err := openDirectory(path)
	if err != nil {
		t.Fatalf("the directory is closed: %v", err)
	}
	second.close()
}
