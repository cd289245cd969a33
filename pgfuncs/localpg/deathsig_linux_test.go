package localpg_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/canopysync/canopy/pgfuncs/localpg"
)

func TestRemovalFreesSharedMemory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempDir(t), "data")
	server := start(t, localpg.Config{DataDir: dir})
	text, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := strconv.Atoi(strings.Fields(strings.Split(string(text), "\n")[6])[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := localpg.Remove(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	var desc unix.SysvShmDesc
	if _, err := unix.SysvShmCtl(id, unix.IPC_STAT, &desc); err == nil {
		t.Errorf("segment %d is still there", id)
	}
}

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
