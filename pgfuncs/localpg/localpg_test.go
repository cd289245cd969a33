//go:build unix

package localpg_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/canopysync/canopy/pgfuncs/localpg"
)

// tempDir is t.TempDir for what another user, too, has to get to when root runs the tests.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "canopy-localpg-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

// start starts a server that is stopped when the test ends.
func start(t *testing.T, cfg localpg.Config) *localpg.Server {
	t.Helper()
	cfg.Volatile = true
	server, err := localpg.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return server
}

func exec1(t *testing.T, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func postmasterPID(t *testing.T, dir string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestDataOutlivesTheServer(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempDir(t), "parent", "data dir")
	server := start(t, localpg.Config{DataDir: dir})
	url := server.URL()
	exec1(t, url, "create table kept ()")
	pid := postmasterPID(t, dir)
	if err := server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-server.Done()
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the server process is still there: %v", err)
	}
	if err := server.Stop(t.Context()); err != nil {
		t.Errorf("second stop: %v", err)
	}
	again := start(t, localpg.Config{DataDir: dir})
	if again.URL() != url {
		t.Errorf("URL %s became %s", url, again.URL())
	}
	exec1(t, again.URL(), "drop table kept")
}

func TestOnlyItsUserCanConnect(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	server := start(t, localpg.Config{DataDir: dir})
	info, err := os.Stat(filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o700 {
		t.Errorf("socket directory has mode %o", mode)
	}
	conn, err := pgx.Connect(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var tcp string
	if err := conn.QueryRow(t.Context(), "show listen_addresses").Scan(&tcp); err != nil || tcp != "" {
		t.Errorf("listens on %q, %v", tcp, err)
	}
}

func TestServerProcess(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	server := start(t, localpg.Config{DataDir: dir})
	if server.Version().Major < 15 {
		t.Errorf("version %v", server.Version())
	}
	group, err := syscall.Getpgid(postmasterPID(t, dir))
	if err != nil || group == syscall.Getpgrp() {
		t.Errorf("process group %d, %v: a Ctrl-C for us would stop the server", group, err)
	}
	info, err := os.Stat(filepath.Join(dir, "data"))
	if err != nil {
		t.Fatal(err)
	}
	owner := int(info.Sys().(*syscall.Stat_t).Uid)
	if root := os.Geteuid() == 0; root && owner == 0 || !root && owner != os.Geteuid() {
		t.Errorf("run by user %d, the cluster belongs to user %d", os.Geteuid(), owner)
	}
}

func TestClosedParentDirectory(t *testing.T) {
	t.Parallel()
	closed := filepath.Join(tempDir(t), "closed")
	mode := os.FileMode(0o700)
	if os.Geteuid() != 0 {
		mode = 0o500
	}
	if err := os.Mkdir(closed, mode); err != nil {
		t.Fatal(err)
	}
	cfg := localpg.Config{DataDir: filepath.Join(closed, "data"), Settings: durable}
	switch root := os.Geteuid() == 0; {
	case root && runtime.GOOS == "linux":
		livesIn(t, cfg)
		if info, err := os.Stat(closed); err != nil || info.Mode().Perm() != mode {
			t.Errorf("mode of %s: %v, %v", closed, info, err)
		}
	case root:
		_, err := localpg.Start(t.Context(), cfg)
		access, ok := errors.AsType[*localpg.AccessError](err)
		if !ok || access.Path != closed || access.User == "" {
			t.Errorf("answer %v, want an AccessError for %s", err, closed)
		}
	default:
		if _, err := localpg.Start(t.Context(), cfg); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("answer %v", err)
		}
	}
}

// livesIn goes through a cluster's life: made, killed, brought back, stopped, left running by a run that
// died, found again.
func livesIn(t *testing.T, cfg localpg.Config) {
	t.Helper()
	server := start(t, cfg)
	exec1(t, server.URL(), "create table kept ()")
	if err := server.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	exec1(t, server.URL(), "drop table kept; create table kept ()")
	if err := server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	left := start(t, cfg)
	exec1(t, left.URL(), "drop table kept; create table kept ()")
	if err := os.Remove(filepath.Join(cfg.DataDir, "lock")); err != nil {
		t.Fatal(err) // as if the run that has it had died
	}
	again := start(t, cfg)
	exec1(t, again.URL(), "drop table kept")
	<-left.Done() // stopped as what a dead run left
}

func TestSecondRunIsRefused(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	server := start(t, localpg.Config{DataDir: dir})
	if _, err := localpg.Start(t.Context(), localpg.Config{DataDir: dir}); !errors.Is(err, localpg.ErrInUse) {
		t.Errorf("second run: %v", err)
	}
	if err := localpg.Remove(t.Context(), dir); !errors.Is(err, localpg.ErrInUse) {
		t.Errorf("remove: %v", err)
	}
	if err := server.Restart(t.Context()); !errors.Is(err, localpg.ErrRunning) {
		t.Errorf("restart: %v", err)
	}
	exec1(t, server.URL(), "select")
}

func TestParentsAreMadePassable(t *testing.T) {
	// Not parallel: the umask is the process's.
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	dir := filepath.Join(tempDir(t), "not", "there", "yet")
	exec1(t, start(t, localpg.Config{DataDir: dir}).URL(), "select")
}

func TestForeignDirectoryIsNotTouched(t *testing.T) {
	t.Parallel()
	for name, file := range map[string]string{
		"somebody's files":   "letter.txt",
		"somebody's cluster": "PG_VERSION",
		"another marker":     "canopy-postgres",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := tempDir(t)
			if err := os.WriteFile(filepath.Join(dir, file), []byte("15\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := localpg.Start(t.Context(), localpg.Config{DataDir: dir})
			if !errors.Is(err, localpg.ErrForeign) {
				t.Errorf("start: %v", err)
			}
			if err := localpg.Remove(t.Context(), dir); !errors.Is(err, localpg.ErrForeign) {
				t.Errorf("remove: %v", err)
			}
			entries, err := os.ReadDir(dir)
			if err != nil || len(entries) != 1 || entries[0].Name() != file {
				t.Errorf("left %v, %v", entries, err)
			}
		})
	}
}

func TestRemove(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempDir(t), "data")
	server := start(t, localpg.Config{DataDir: dir})
	if err := server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := localpg.Remove(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
}

func TestUnfinishedInitIsDoneAgain(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := localpg.Start(ctx, localpg.Config{DataDir: dir}); !errors.Is(err, context.Canceled) {
		t.Fatalf("start without time: %v", err)
	}
	unfinished := filepath.Join(dir, "init-123")
	if err := os.MkdirAll(filepath.Join(unfinished, "base"), 0o700); err != nil {
		t.Fatal(err)
	}
	exec1(t, start(t, localpg.Config{DataDir: dir}).URL(), "select")
	if _, err := os.Stat(unfinished); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
}

func TestBadSettingIsReported(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	settings := map[string]string{"shared_buffers": "plenty"}
	_, err := localpg.Start(t.Context(), localpg.Config{DataDir: dir, Volatile: true, Settings: settings})
	failed, ok := errors.AsType[*localpg.ProgramError](err)
	if !ok || failed.Program != "postgres" || !strings.Contains(failed.Output, "plenty") {
		t.Errorf("answer %v", err)
	}
	exec1(t, start(t, localpg.Config{DataDir: dir}).URL(), "select")
}

func TestClusterOfAnotherVersion(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	if err := start(t, localpg.Config{DataDir: dir}).Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "data", "PG_VERSION"), []byte("99\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := localpg.Start(t.Context(), localpg.Config{DataDir: dir})
	version, ok := errors.AsType[*localpg.VersionError](err)
	if !ok || version.Need != 99 || len(version.Found) == 0 {
		t.Errorf("answer %v", err)
	}
}

func TestPathTooLongForASocket(t *testing.T) {
	t.Parallel()
	for name, last := range map[string]string{
		"long":  strings.Repeat("long", 30),
		"comma": "a,b",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(tempDir(t), last)
			server := start(t, localpg.Config{DataDir: dir})
			url := server.URL()
			exec1(t, url, "select")
			sockets, err := os.Readlink(filepath.Join(dir, "socket"))
			if err != nil {
				t.Fatal(err)
			}
			if err := server.Kill(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := server.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			exec1(t, url, "select")
			if err := server.Kill(t.Context()); err != nil {
				t.Fatal(err)
			}
			other := start(t, localpg.Config{DataDir: dir})
			exec1(t, other.URL(), "select")
			if _, err := os.Stat(sockets); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the crashed run's %s: %v", sockets, err)
			}
			sockets, err = os.Readlink(filepath.Join(dir, "socket"))
			if err != nil {
				t.Fatal(err)
			}
			if err := other.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(sockets); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the stopped run's %s: %v", sockets, err)
			}
		})
	}
}

func TestLogIsPutAside(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	server := start(t, localpg.Config{DataDir: dir})
	if err := server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "postgres.log")
	if err := os.Truncate(log, 9<<20); err != nil {
		t.Fatal(err)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(log); err != nil || info.Size() > 1<<20 {
		t.Errorf("log: %v, %v", info, err)
	}
	if info, err := os.Stat(log + ".1"); err != nil || info.Size() != 9<<20 {
		t.Errorf("old log: %v, %v", info, err)
	}
}

// helper runs a server in a process of its own, in dir.
func helper(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helperEnv+"="+dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line := make([]byte, len("started\n"))
	if n, err := stdout.Read(line); err != nil || string(line[:n]) != "started\n" {
		t.Fatalf("helper said %q, %v", line[:n], err)
	}
	return cmd
}
