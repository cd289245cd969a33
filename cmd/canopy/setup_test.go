package main

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/canopysync/canopy/bootstrap"
	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/pgfuncs/pgtest"
	"github.com/canopysync/canopy/realtime"
)

// beMain is the environment variable that makes the test binary the program itself, so that tests of
// the program as a process need no build of their own, and have the race detector in it.
const beMain = "CANOPY_TEST_BE_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(beMain) != "" {
		main()
	}
	pgtest.Main(m)
}

// world is both services, on a database of their own.
type world struct {
	t         testing.TB
	db        *pgfuncs.DB
	database  string // URLs
	realtime  string
	bootstrap string
}

// setup starts the services in this process; they stop with the test.
func setup(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, database: pgtest.New(t)}
	var err error
	if w.db, err = pgfuncs.Open(t.Context(), w.database); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.db.Close)
	rt, err := realtime.New(realtime.Config{Store: w.db})
	if err != nil {
		t.Fatal(err)
	}
	bs, err := bootstrap.New(bootstrap.Config{Source: w.db})
	if err != nil {
		t.Fatal(err)
	}
	w.realtime = serveOn(t, rt.Serve)
	w.bootstrap = serveOn(t, bs.Serve)
	return w
}

// serveOn runs a service on a free port of the loopback interface and returns its URL.
func serveOn(t testing.TB, serve func(context.Context, net.Listener) error) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("service: %v", err)
		}
	})
	return httpURL(ln)
}

// result is what a command did.
type result struct {
	code           int
	stdout, stderr string
}

// canopy runs a command as main would, with the services of the world in its environment.
func (w *world) canopy(args ...string) result {
	w.t.Helper()
	return w.canopyIn(w.t.Context(), nil, args...)
}

func (w *world) canopyIn(ctx context.Context, stdin io.Reader, args ...string) result {
	w.t.Helper()
	return command(ctx, stdin, map[string]string{
		"CANOPY_REALTIME_URL": w.realtime, "CANOPY_BOOTSTRAP_URL": w.bootstrap,
	}, args...)
}

// must is canopy for commands that have to succeed; it returns their output.
func (w *world) must(args ...string) string {
	w.t.Helper()
	r := w.canopy(args...)
	if r.code != 0 {
		w.t.Fatalf("canopy %s: exit code %d: %s", strings.Join(args, " "), r.code, r.stderr)
	}
	return r.stdout
}

// command runs a command in an environment of its own.
func command(ctx context.Context, stdin io.Reader, vars map[string]string, args ...string) result {
	var stdout, stderr lockedBuffer
	if stdin == nil {
		stdin = strings.NewReader("")
	}
	code := run(ctx, &Env{
		Stdin: stdin, Stdout: &stdout, Stderr: &stderr,
		LookupEnv: func(name string) (string, bool) { v, ok := vars[name]; return v, ok },
	}, args)
	return result{code, stdout.String(), stderr.String()}
}

// lockedBuffer takes output from several goroutines.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// seedOf is the seed of a random test: CANOPY_SEED, else a new one. It is printed.
func seedOf(t testing.TB) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("CANOPY_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("CANOPY_SEED=%d", seed)
	return seed
}

// cable is a network connection that can be pulled: a forwarder to a service.
type cable struct {
	ln net.Listener

	mu      sync.Mutex // guards what follows
	target  string
	cut     bool
	left    int // connections to let through before it is cut by itself; negative for no limit
	conns   map[net.Conn]struct{}
	running sync.WaitGroup
}

// newCable forwards to the service at url until the test ends. It returns the URL to use instead.
func newCable(t testing.TB, url string) (*cable, string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{target: strings.TrimPrefix(url, "http://"), ln: ln, left: -1, conns: map[net.Conn]struct{}{}}
	c.running.Go(c.accept)
	t.Cleanup(func() {
		_ = ln.Close()
		c.pull()
		c.running.Wait()
	})
	return c, httpURL(ln)
}

func (c *cable) accept() {
	for {
		near, err := c.ln.Accept()
		if err != nil {
			return
		}
		c.running.Go(func() { c.forward(near) })
	}
}

func (c *cable) forward(near net.Conn) {
	defer near.Close()
	c.mu.Lock()
	target := c.target
	c.mu.Unlock()
	far, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer far.Close()
	if !c.hold(near, far) {
		return
	}
	defer c.release(near, far)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(far, near)
		_ = far.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(near, far)
	_ = near.Close()
	<-done
}

func (c *cable) hold(conns ...net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut || c.left == 0 {
		return false
	}
	c.left--
	for _, conn := range conns {
		c.conns[conn] = struct{}{}
	}
	return true
}

func (c *cable) release(conns ...net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range conns {
		delete(c.conns, conn)
	}
}

// pull cuts what is connected, in the middle of whatever it is doing, and lets nothing through.
func (c *cable) pull() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
	for conn := range c.conns {
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
	}
}

// limit lets n more connections through.
func (c *cable) limit(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = n
}

// to plugs the cable in at another service, for the connections that are made from then on.
func (c *cable) to(url string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.target = strings.TrimPrefix(url, "http://")
}

func (c *cable) plug() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = false
}

// outputLines collects output by line, for a test that waits for it.
type outputLines struct {
	lockedBuffer
	grown chan struct{} // one element when something was written since it was last empty
}

func newLines() *outputLines { return &outputLines{grown: make(chan struct{}, 1)} }

func (l *outputLines) Write(p []byte) (int, error) {
	n, err := l.lockedBuffer.Write(p)
	select {
	case l.grown <- struct{}{}:
	default:
	}
	return n, err
}

// wait returns the first n lines, when they are there.
func (l *outputLines) wait(t testing.TB, n int) []string {
	t.Helper()
	timeout := time.NewTimer(time.Minute)
	defer timeout.Stop()
	for {
		if all := strings.SplitAfter(l.String(), "\n"); len(all) > n {
			return all[:n]
		}
		select {
		case <-l.grown:
		case <-timeout.C:
			t.Fatalf("not %d lines in %q", n, l.String())
		}
	}
}
