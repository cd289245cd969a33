package localpg_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestServerDiesWithItsOwner(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	owner := helper(t, dir)
	server, err := unix.PidfdOpen(postmasterPID(t, dir), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(server)
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	const patience = 20_000 // ms
	n, err := 0, error(unix.EINTR)
	for err == unix.EINTR {
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(server), Events: unix.POLLIN}}, patience)
	}
	if err != nil || n != 1 {
		t.Fatalf("the server outlives its owner: %d, %v", n, err)
	}
	log, err := os.ReadFile(filepath.Join(dir, "postgres.log"))
	if err != nil || !strings.Contains(string(log), "received fast shutdown request") {
		t.Errorf("not a clean shutdown: %s, %v", log, err)
	}
}
