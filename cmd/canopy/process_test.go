//go:build unix

package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/canopysync/canopy/pgfuncs/pgtest"
)

// program is a running canopy.
type program struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdout *bufio.Reader
	stderr lockedBuffer
	exited chan struct{}
}

// start runs the program. It is killed at the end of the test if it still runs then.
func start(t *testing.T, args ...string) *program {
	t.Helper()
	return startIn(t, nil, args...)
}

// startIn is start with more variables.
func startIn(t *testing.T, vars []string, args ...string) *program {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &program{t: t, cmd: exec.Command(path, args...), exited: make(chan struct{})}
	p.cmd.Env = append(append(os.Environ(), beMain+"=1"), vars...)
	p.cmd.Stderr = &p.stderr
	// Not StdoutPipe, which Wait closes under the reader.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdout, p.stdout = w, bufio.NewReader(r)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	go func() {
		defer close(p.exited)
		_ = p.cmd.Wait() // the exit code is in ProcessState
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.exited
		_ = r.Close()
	})
	return p
}

// startDev starts `canopy dev` on free ports and waits until it is ready.
func startDev(t *testing.T, args ...string) (*program, devReady) {
	t.Helper()
	p := start(t, append([]string{"dev", "--json", "--realtime-addr=127.0.0.1:0", "--bootstrap-addr=127.0.0.1:0"}, args...)...)
	var ready devReady
	parseJSON(t, p.line(), &ready)
	if ready.Event != "ready" || ready.Auth || ready.PID != p.cmd.Process.Pid {
		t.Fatalf("%+v", ready)
	}
	return p, ready
}

func (p *program) line() string {
	p.t.Helper()
	line, err := p.stdout.ReadString('\n')
	if err != nil {
		p.t.Fatalf("%v: %s", err, p.stderr.String())
	}
	return line
}

func (p *program) signal(sig os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
}

// signalUntilExit signals again and again, as somebody impatient does.
func (p *program) signalUntilExit(sig os.Signal) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-p.exited:
			return
		case <-tick.C:
			_ = p.cmd.Process.Signal(sig) // it may just have ended
		}
	}
}

// wait returns the exit code.
func (p *program) wait() int {
	p.t.Helper()
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(time.Minute):
		p.t.Fatalf("it does not end: %s", p.stderr.String())
		return -1
	}
}

// publicTemp is a directory that the user whom Postgres runs as can get to, if the test runs as root.
func publicTemp(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "canopy-test-*")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// leftovers lists processes that have dir on their command line or as their working directory.
func leftovers(t *testing.T, dir string) (list []string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		out, err := exec.CommandContext(t.Context(), "ps", "-axo", "pid=,command=").Output()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, dir) {
				list = append(list, line)
			}
		}
		return list
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, proc := range processes {
		args, _ := os.ReadFile(filepath.Join(proc, "cmdline")) // it may be gone by now
		wd, _ := os.Readlink(filepath.Join(proc, "cwd"))
		if strings.Contains(string(args), dir) || strings.HasPrefix(wd, dir) {
			list = append(list, filepath.Base(proc)+" "+strings.ReplaceAll(string(args), "\x00", " "))
		}
	}
	return list
}

// gone waits until nothing is left of a program that was not let go in peace.
func gone(t *testing.T, dir string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(30 * time.Second)
	for {
		list := leftovers(t, dir)
		if len(list) == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("left running: %q", list)
		}
	}
}

func listening(url string) bool {
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

func TestDevServesStopsAndServesTheSameAgain(t *testing.T) {
	t.Parallel()
	dir := publicTemp(t)
	p, ready := startDev(t, "--data-dir", dir)
	w := &world{t: t, realtime: ready.Realtime, bootstrap: ready.Bootstrap, database: ready.Database}
	w.must("import", "garden", write(t, "garden.json", garden))
	if got := w.must("export", "garden"); got != garden {
		t.Errorf("exported\n%s", got)
	}
	w.must("snapshot", "export", "garden", "-o", os.DevNull)
	if out := w.must("room", "list", "--database-url", ready.Database); !strings.Contains(out, "garden") {
		t.Errorf("rooms:\n%s", out)
	}
	if len(leftovers(t, dir)) == 0 {
		t.Error("no process has the directory: the check for leftovers is blind")
	}
	p.signal(syscall.SIGTERM)
	if code := p.wait(); code != exitOK {
		t.Errorf("exit code %d: %s", code, p.stderr.String())
	}
	checkStopped(t, dir, ready)

	// The second start finds everything, and says so quickly.
	begin := time.Now()
	p, ready = startDev(t, "--data-dir", dir)
	t.Logf("second start: ready after %s", time.Since(begin).Round(time.Millisecond))
	w.realtime, w.bootstrap = ready.Realtime, ready.Bootstrap
	if got := w.must("export", "garden"); got != garden {
		t.Errorf("after a restart, exported\n%s", got)
	}
	p.signal(os.Interrupt)
	if code := p.wait(); code != exitOK {
		t.Errorf("exit code %d: %s", code, p.stderr.String())
	}
	checkStopped(t, dir, ready)
}

func checkStopped(t *testing.T, dir string, ready devReady) {
	t.Helper()
	if list := leftovers(t, dir); len(list) != 0 {
		t.Errorf("left running: %q", list)
	}
	if _, err := os.Stat(filepath.Join(dir, "postgres", "data", "postmaster.pid")); !os.IsNotExist(err) {
		t.Errorf("postmaster.pid: %v", err)
	}
	for _, url := range []string{ready.Realtime, ready.Bootstrap} {
		if listening(url) {
			t.Errorf("somebody listens on %s", url)
		}
	}
}

func TestDevSaysWhatItIs(t *testing.T) {
	t.Parallel()
	p := start(t, "dev", "--database-url", pgtest.New(t, pgtest.Empty()), "--realtime-addr=localhost:0", "--bootstrap-addr=127.0.0.1:0")
	for line := ""; !strings.Contains(line, "Ctrl-C"); line = p.line() {
		if strings.HasPrefix(line, "  data ") {
			t.Errorf("with a database of its own: %s", line)
		}
	}
	p.signal(syscall.SIGTERM)
	rest, err := io.ReadAll(p.stdout)
	if code := p.wait(); code != exitOK || err != nil || !strings.Contains(string(rest), "Stopped.") {
		t.Errorf("exit code %d, %q, %v: %s", code, rest, err, p.stderr.String())
	}
}

// timeout(1) sends its signal to the process and then to the group that it is in. (Two kinds, because
// a signal that is pending is not sent a second time.)
func TestASignalThatComesTwiceIsOne(t *testing.T) {
	t.Parallel()
	dir := publicTemp(t)
	p, ready := startDev(t, "--data-dir", dir)
	p.signal(syscall.SIGTERM)
	p.signal(syscall.SIGINT)
	if code := p.wait(); code != exitOK {
		t.Errorf("exit code %d: %s", code, p.stderr.String())
	}
	checkStopped(t, dir, ready)
}

// Somebody began a request and does not finish it: that holds up an orderly end, and the second signal
// does not wait for it.
// Whoever reads the output may go away, as head does: the temporary replica goes all the same.
func TestNobodyReadsTheOutput(t *testing.T) {
	t.Parallel()
	w := withGarden(t)
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	_ = r.Close()
	temp := t.TempDir()
	var stderr lockedBuffer
	cmd := exec.CommandContext(t.Context(), path, "export", "garden", "--realtime-url", w.realtime, "--bootstrap-url", w.bootstrap)
	cmd.Env = append(os.Environ(), beMain+"=1", "TMPDIR="+temp)
	cmd.Stdout, cmd.Stderr = out, &stderr
	if err := cmd.Run(); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != exitUnread || stderr.String() != "" {
		t.Errorf("%v: %s", err, stderr.String())
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestASecondSignalForces(t *testing.T) {
	t.Parallel()
	dir := publicTemp(t)
	p, ready := startDev(t, "--data-dir", dir)
	conn, err := net.Dial("tcp", strings.TrimPrefix(ready.Realtime, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	request := "POST /v1/rooms/notes/ops HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") {
		t.Fatalf("%q, %v", line, err)
	}
	p.signal(syscall.SIGTERM)
	p.signalUntilExit(syscall.SIGTERM)
	if code := p.wait(); code != exitInterrupted {
		t.Errorf("exit code %d: %s", code, p.stderr.String())
	}
	if runtime.GOOS == "linux" { // elsewhere Postgres lives on until the next start
		gone(t, dir)
	}
	p, _ = startDev(t, "--data-dir", dir)
	p.signal(syscall.SIGTERM)
	if code := p.wait(); code != exitOK {
		t.Errorf("after that, exit code %d: %s", code, p.stderr.String())
	}
}

// A service that is only to be reached through a proxy is, by sockets as by requests.
func TestTailGoesThroughAProxy(t *testing.T) {
	t.Parallel()
	w := withGarden(t)
	proxy := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		to, err := net.Dial("tcp", strings.TrimPrefix(w.realtime, "http://"))
		if err != nil {
			t.Error(err)
			return
		}
		from, _, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		if r.Method == http.MethodConnect {
			_, err = io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n")
		} else {
			err = r.Write(to)
		}
		if err != nil {
			t.Error(err)
		}
		go func() {
			_, _ = io.Copy(to, from)
			_ = to.Close()
		}()
		_, _ = io.Copy(from, to)
		_ = from.Close()
	}))
	t.Cleanup(proxy.Close)
	p := startIn(t, []string{"HTTP_PROXY=" + proxy.URL, "http_proxy=" + proxy.URL},
		"tail", "garden", "--realtime-url", "http://canopy.invalid", "--after=0", "-n", "1")
	if code := p.wait(); code != exitOK {
		t.Errorf("exit code %d: %s", code, p.stderr.String())
	}
}

func TestDevWithoutItsPostgresEnds(t *testing.T) {
	t.Parallel()
	dir := publicTemp(t)
	p, _ := startDev(t, "--data-dir", dir)
	text, err := os.ReadFile(filepath.Join(dir, "postgres", "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGQUIT); err != nil { // Postgres' immediate shutdown
		t.Fatal(err)
	}
	if code := p.wait(); code != exitFailure || !strings.Contains(p.stderr.String(), "Postgres ended by itself") {
		t.Errorf("exit code %d: %s", code, p.stderr.String())
	}
	gone(t, dir)
}

func TestAnAddressInUse(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dir := filepath.Join(t.TempDir(), "data")
	addr := ln.Addr().String()
	for _, args := range [][]string{
		{"dev", "--data-dir", dir, "--realtime-addr", addr},
		{"dev", "--data-dir", dir, "--realtime-addr=127.0.0.1:0", "--bootstrap-addr", addr},
		{"serve", "realtime", "--insecure-no-auth", "--database-url=postgres://x", "--addr", addr},
	} {
		r := command(t.Context(), nil, nil, args...)
		if r.code != exitFailure || !strings.Contains(r.stderr, addr+" is in use") {
			t.Errorf("%v: exit code %d: %s", args, r.code, r.stderr)
		}
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the data directory: %v", err)
	}
}

func TestADataDirectoryInUse(t *testing.T) {
	t.Parallel()
	dir := publicTemp(t)
	p, _ := startDev(t, "--data-dir", dir)
	r := command(t.Context(), nil, nil, "dev", "--data-dir", dir, "--realtime-addr=127.0.0.1:0", "--bootstrap-addr=127.0.0.1:0")
	if r.code != exitFailure || !strings.Contains(r.stderr, "in use by another canopy") {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
	p.signal(syscall.SIGTERM)
	if code := p.wait(); code != exitOK {
		t.Errorf("exit code %d: %s", code, p.stderr.String())
	}
}

func TestServe(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	key := filepath.Join(t.TempDir(), "key.json")
	if r := command(t.Context(), nil, nil, "token", "keygen", "-o", key); r.code != exitOK {
		t.Fatalf("%+v", r)
	}
	for _, name := range []string{"realtime", "bootstrap"} {
		for auth, args := range map[bool][]string{
			false: {"--addr=127.0.0.1:0", "--insecure-no-auth"}, true: {"--addr=0.0.0.0:0", "--auth-key-file=" + key},
		} {
			p := start(t, append([]string{"serve", name, "--json", "--database-url", database}, args...)...)
			var ready serviceReady
			parseJSON(t, p.line(), &ready)
			if ready.Event != "ready" || ready.Service != name || ready.Auth != auth {
				t.Errorf("%+v", ready)
			}
			get(t, strings.Replace(ready.URL, "[::]", "127.0.0.1", 1)+"/readyz")
			p.signal(syscall.SIGTERM)
			if code := p.wait(); code != exitOK {
				t.Errorf("serve %s: exit code %d: %s", name, code, p.stderr.String())
			}
		}
	}
}

// A page of another site, be it one whose name was made to point to this machine, cannot use dev.
func TestDevKeepsOtherOriginsOut(t *testing.T) {
	t.Parallel()
	w := withDev(t, "--allow-origin=http://app.example:5173")
	for origin, want := range map[string]int{
		"http://evil.example": http.StatusForbidden, "http://app.example:5173": http.StatusNotFound, w.realtime: http.StatusNotFound,
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.realtime+"/v1/rooms/x/stats", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Origin", origin)
		if origin == "http://evil.example" {
			req.Host = "evil.example" // as after DNS rebinding
		}
		req.Close = true
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("origin %s: %s, want %d", origin, resp.Status, want)
		}
	}
}

// Nor can it read: with requests to its own host, which it had point here, a browser sends no Origin.
func TestWithoutAuthenticationTheHostIsThisMachine(t *testing.T) {
	t.Parallel()
	dev := withDev(t, "--allow-origin=http://app.example:5173")
	urls := map[string]bool{dev.realtime: true, dev.bootstrap: true} // whether app.example was named
	for _, name := range []string{"realtime", "bootstrap"} {
		var ready serviceReady
		p := start(t, "serve", name, "--addr=127.0.0.1:0", "--insecure-no-auth", "--json", "--database-url", dev.database)
		parseJSON(t, p.line(), &ready)
		urls[ready.URL] = false
	}
	for url, named := range urls {
		for host, ok := range map[string]bool{
			"": true, "localhost": true, "LocalHost:80": true, "127.0.0.2:8420": true, "[::1]:8420": true, "[::1]": true,
			"app.example:8420": named, "evil.example": false, "evil.example:8420": false, "127.0.0.1.evil.example": false,
			"localhost.evil.example:8420": false, "10.0.0.1:8420": false, "evil.example:127.0.0.1": false,
		} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/v1/rooms/x/stats", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host, req.Close = host, true
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if served := resp.StatusCode == http.StatusNotFound; served != ok || !ok && resp.StatusCode != http.StatusForbidden && resp.StatusCode != http.StatusBadRequest {
				t.Errorf("%s as %q: %s", url, host, resp.Status)
			}
		}
	}
}

// What dev prints may be kept in a log.
func TestDevShowsNoPassword(t *testing.T) {
	t.Parallel()
	for given, shown := range map[string]string{
		"postgres://ann:secret@db/canopy?pool_max_conns=5":     "postgres://ann@db/canopy?pool_max_conns=5",
		"postgres://db/canopy?password=secret&user=ann":        "postgres://db/canopy?user=ann",
		"postgres://canopy@/canopy?host=%2Ftmp%2Fpg&port=5432": "postgres://canopy@/canopy?host=%2Ftmp%2Fpg&port=5432",
		"host=db user=ann password='se cret' dbname=canopy":    "as given",
		"host=db user=ann dbname=canopy":                       "host=db user=ann dbname=canopy",
	} {
		if got := withoutPassword(given); got != shown {
			t.Errorf("%s is shown as %s", given, got)
		}
	}
}

// withDev runs `canopy dev` inside this process, on a database for tests.
func withDev(t *testing.T, args ...string) *world {
	t.Helper()
	out := newLines()
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(t.Context()))
	done := make(chan int, 1)
	var stderr lockedBuffer
	args = append([]string{
		"dev", "--json", "--realtime-addr=127.0.0.1:0", "--bootstrap-addr=127.0.0.1:0", "--database-url", pgtest.New(t),
	}, args...)
	go func() {
		done <- run(ctx, &Env{
			Stdin: strings.NewReader(""), Stdout: out, Stderr: &stderr, LookupEnv: func(string) (string, bool) { return "", false },
		}, args)
	}()
	t.Cleanup(func() {
		cancel(interrupted{os.Interrupt})
		if code := <-done; code != exitOK {
			t.Errorf("dev: exit code %d: %s", code, stderr.String())
		}
	})
	var ready devReady
	parseJSON(t, out.wait(t, 1)[0], &ready)
	return &world{t: t, realtime: ready.Realtime, bootstrap: ready.Bootstrap, database: ready.Database}
}
