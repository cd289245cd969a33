//go:build unix

package localpg_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/canopysync/canopy/pgfuncs/localpg"
)

// durable makes a volatile server keep what it has committed.
var durable = map[string]string{"synchronous_commit": "on"}

func TestKilledServerComesBack(t *testing.T) {
	t.Parallel()
	server := start(t, localpg.Config{DataDir: tempDir(t), Settings: durable})
	url := server.URL()
	exec1(t, url, "create table kept ()")
	if err := server.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-server.Done()
	if err := server.Kill(t.Context()); err != nil {
		t.Errorf("second kill: %v", err)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	exec1(t, url, "drop table kept")
}

// The process number in the state file of a crashed run can be anybody's by now.
func TestStateFileNamesAnotherProcess(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	server := start(t, localpg.Config{DataDir: dir})
	pid := postmasterPID(t, dir)
	if err := server.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "data", "postmaster.pid")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), fmt.Sprint(pid), fmt.Sprint(os.Getpid()), 1)
	if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	exec1(t, server.URL(), "select")
}

// A backend that is busy does not notice that its server was killed.
func TestBusyChildOfAKilledServer(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	server := start(t, localpg.Config{DataDir: dir, Settings: durable})
	conn, err := pgx.Connect(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	// The lock tells that the loop has begun.
	exec1(t, server.URL(), "create table begun ()")
	ended := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.Background(), "do $$ begin lock begun; loop end loop; end $$")
		ended <- err
	}()
	awaitLock(t, server.URL())
	if err := syscall.Kill(postmasterPID(t, dir), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-server.Done()
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("the loop ended in peace")
	}
	exec1(t, server.URL(), "drop table begun")
}

// awaitLock waits until somebody has locked the table begun.
func awaitLock(t *testing.T, url string) {
	t.Helper()
	const query = "select exists (select from pg_locks where relation = 'begun'::regclass and mode = 'AccessExclusiveLock')"
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for locked := false; !locked; {
		if err := conn.QueryRow(t.Context(), query).Scan(&locked); err != nil {
			t.Fatal(err)
		}
	}
}

// A server that nobody's death has stopped, as it happens where the kernel does not pass that on.
func TestOrphanIsStopped(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	server := start(t, localpg.Config{DataDir: dir})
	orphan := orphanOf(t, dir, server)
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	exec1(t, server.URL(), "select")
	if err := orphan.Wait(); err != nil {
		t.Errorf("not stopped in order: %v", err)
	}
}

func TestOrphanIsStoppedBeforeRemoval(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempDir(t), "data")
	orphan := orphanOf(t, dir, start(t, localpg.Config{DataDir: dir}))
	if err := localpg.Remove(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if err := orphan.Wait(); err != nil {
		t.Errorf("not stopped in order: %v", err)
	}
}

// orphanOf stops the server and runs another one behind its back, in the same cluster.
func orphanOf(t *testing.T, dir string, server *localpg.Server) *exec.Cmd {
	t.Helper()
	program, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.opts"))
	if err != nil {
		t.Fatal(err)
	}
	postgres, _, _ := strings.Cut(string(program), " ")
	if err := server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	info, err := os.Stat(data)
	if err != nil {
		t.Fatal(err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	sockets := filepath.Join(data, "pg_tblspc")
	cmd := exec.Command(postgres, "-D", data, "-c", "listen_addresses=", "-c", "unix_socket_directories="+sockets)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Dir = "/"
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	awaitReady(t, data, cmd.Process.Pid)
	return cmd
}

// awaitReady waits until the server's state file says that it is ready.
func awaitReady(t *testing.T, data string, pid int) {
	t.Helper()
	for t.Context().Err() == nil {
		text, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
		if err == nil && strings.HasPrefix(string(text), fmt.Sprint(pid, "\n")) && strings.Contains(string(text), "\nready") {
			return
		}
		if err := syscall.Kill(pid, 0); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStopWithoutTime(t *testing.T) {
	t.Parallel()
	server := start(t, localpg.Config{DataDir: tempDir(t)})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := server.Stop(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("answer %v", err)
	}
	<-server.Done()
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestOwnerIsKilled(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	owner := helper(t, dir)
	if _, err := localpg.Start(t.Context(), localpg.Config{DataDir: dir}); !errors.Is(err, localpg.ErrInUse) {
		t.Errorf("beside the other process: %v", err)
	}
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = owner.Wait()
	exec1(t, start(t, localpg.Config{DataDir: dir}).URL(), "select")
}
