//go:build unix

package chaos_test

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// proxy forwards TCP connections, and does to them what networks do. It never changes a byte: it delays,
// stalls, splits, and ends connections at any byte, one direction at a time or both, with an orderly end
// or a reset.
type proxy struct {
	addr     string
	ln       net.Listener
	up, down gate // towards the server, and back
	running  sync.WaitGroup

	mu      sync.Mutex // guards what follows
	dial    func() (net.Conn, error)
	open    map[*pair]struct{}
	refuses bool
	weather *weather
}

// pair is a forwarded connection.
type pair struct {
	near, far net.Conn
	gone      chan struct{} // closed when it is cut
	cutting   sync.Once
	bad       *spell // nil in fair weather
}

func newProxy(t testing.TB, dial func() (net.Conn, error)) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: ln.Addr().String(), dial: dial, ln: ln, open: map[*pair]struct{}{}}
	p.up.changed, p.down.changed = make(chan struct{}), make(chan struct{})
	p.running.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

func (p *proxy) url() string { return "http://" + p.addr }

// close ends everything.
func (p *proxy) close() {
	_ = p.ln.Close()
	p.refuse(true)
	p.cut()
	p.running.Wait()
}

func (p *proxy) accept() {
	for {
		near, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.running.Go(func() { p.forward(near) })
	}
}

func (p *proxy) forward(near net.Conn) {
	p.mu.Lock()
	dial := p.dial
	p.mu.Unlock()
	far, err := dial()
	if err != nil {
		reset(near)
		return
	}
	c := &pair{near: near, far: far, gone: make(chan struct{})}
	defer c.cut()
	if !p.add(c) {
		return
	}
	defer p.remove(c)
	var up sync.WaitGroup
	up.Go(func() { c.pump(far, near, &p.up) })
	c.pump(near, far, &p.down)
	up.Wait()
}

func (p *proxy) add(c *pair) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuses {
		return false
	}
	p.open[c] = struct{}{}
	c.bad = p.weather.spell()
	return true
}

func (p *proxy) remove(c *pair) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, c)
}

// count is the number of connections.
func (p *proxy) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.open)
}

// cut resets all connections, in the middle of whatever they are doing.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		c.cut()
	}
}

// halfClose tells the near sides that nothing more comes, while what they send still gets through.
func (p *proxy) halfClose() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		closeWrite(c.near)
	}
}

// setDial has new connections go elsewhere.
func (p *proxy) setDial(dial func() (net.Conn, error)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dial = dial
}

// refuse turns new connections away.
func (p *proxy) refuse(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuses = on
}

// setWeather is for connections from now on; nil is fair weather.
func (p *proxy) setWeather(w *weather) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.weather = w
}

// heal lets through what is held, and everything from now on.
func (p *proxy) heal() {
	p.setWeather(nil)
	p.refuse(false)
	p.up.release()
	p.down.release()
}

func (c *pair) cut() {
	c.cutting.Do(func() {
		close(c.gone)
		reset(c.near)
		reset(c.far)
	})
}

// pump forwards one direction to its end. An orderly end is passed on, any other ends the connection.
func (c *pair) pump(dst, src net.Conn, g *gate) {
	buf := make([]byte, 16<<10)
	for {
		n, err := src.Read(buf)
		for rest := buf[:n]; len(rest) > 0; {
			m := g.take(c.bad.chunk(len(rest)), c.gone)
			if m == 0 || !c.bad.pass(m, c.gone) {
				c.cut()
				return
			}
			if _, err := dst.Write(rest[:m]); err != nil {
				c.cut()
				return
			}
			rest = rest[m:]
		}
		switch {
		case errors.Is(err, io.EOF):
			closeWrite(dst)
			return
		case err != nil:
			c.cut()
			return
		}
	}
}

func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

func closeWrite(conn net.Conn) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

// gate is what one direction of all connections of a proxy goes through.
type gate struct {
	mu      sync.Mutex
	held    chan struct{} // nil while open; closed when something is held
	left    int           // bytes that still get through
	changed chan struct{} // closed and replaced by release
}

// hold lets so many more bytes through, and then nothing. What it returns is closed when there are
// bytes that it does not let through.
func (g *gate) hold(left int) (held <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held, g.left = make(chan struct{}), left
	return g.held
}

func (g *gate) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = nil
	close(g.changed)
	g.changed = make(chan struct{})
}

// take waits until some of n bytes may pass and returns how many, 0 once the connection is gone.
func (g *gate) take(n int, gone <-chan struct{}) int {
	for {
		g.mu.Lock()
		if g.held == nil {
			g.mu.Unlock()
			return n
		}
		if g.left > 0 {
			n = min(n, g.left)
			g.left -= n
			g.mu.Unlock()
			return n
		}
		select {
		case <-g.held:
		default:
			close(g.held)
		}
		changed := g.changed
		g.mu.Unlock()
		select {
		case <-changed:
		case <-gone:
			return 0
		}
	}
}

// weather makes connections bad, each in its own way, which its number and the seed decide.
type weather struct {
	seed  uint64
	mean  int // bytes between two events
	conns uint64
}

// spell is bad weather for one connection. Which byte of it something happens at depends on how many bytes
// went before, not on time.
type spell struct {
	mu   sync.Mutex // both directions
	rng  *rand.Rand
	mean int
	next int // bytes to the next event
	fate fate
}

type fate int

const (
	delayed fate = iota // some milliseconds
	stalled             // up to a few hundred
	broken
)

// spell makes the weather of the next connection. The proxy's mu is held.
func (w *weather) spell() *spell {
	if w == nil {
		return nil
	}
	w.conns++
	s := &spell{rng: rand.New(rand.NewPCG(w.seed, w.conns)), mean: w.mean}
	s.draw()
	return s
}

// draw decides what comes next.
func (s *spell) draw() {
	s.next = 1 + int(s.rng.ExpFloat64()*float64(s.mean))
	switch dice := s.rng.IntN(10); {
	case dice < 6:
		s.fate = delayed
	case dice < 8:
		s.fate = stalled
	default:
		s.fate = broken
	}
}

// chunk is how many of n bytes to forward at a time.
func (s *spell) chunk(n int) int {
	if s == nil {
		return n
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return min(n, s.next)
}

// pass counts bytes and has happen what is due; false is the end of the connection.
func (s *spell) pass(n int, gone <-chan struct{}) bool {
	if s == nil {
		return true
	}
	s.mu.Lock()
	var wait time.Duration
	alive := true
	if s.next -= n; s.next <= 0 {
		switch s.fate {
		case delayed:
			wait = time.Duration(s.rng.IntN(20)) * time.Millisecond
		case stalled:
			wait = time.Duration(s.rng.IntN(300)) * time.Millisecond
		case broken:
			alive = false
		}
		s.draw()
	}
	s.mu.Unlock()
	if wait > 0 {
		select {
		case <-time.After(wait):
		case <-gone:
			return false
		}
	}
	return alive
}
