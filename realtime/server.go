package realtime

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/canopysync/canopy/realtime/wire"
)

// Server is the realtime service.
type Server struct {
	cfg      Config
	metrics  *metrics
	tracing  tracing
	handler  http.Handler
	started  time.Time
	readers  chan struct{}  // slots for catch-up reads
	requests chan struct{}  // slots for reads by requests
	running  sync.WaitGroup // sockets, requests and hubs
	buffers  sync.Pool      // write buffers of sockets
	faults   throttle       // of the log
	hinted   atomic.Bool    // messages of other processes come through
	cluster  *cluster
	sockets  sockets

	mu       sync.Mutex // guards what follows
	draining bool
	hubs     map[string]*hub
	sessions map[*session]struct{}

	idle      list.List // of hubs that linger, the one without users for longest first
	idleBytes int       // of their tails
}

// New returns a server. It does no I/O and starts nothing. It fails if the configuration is inconsistent, or
// if the registry already has the service's metrics.
func New(cfg Config) (*Server, error) {
	cfg = cfg.WithDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	s := &Server{
		cfg:      cfg,
		tracing:  newTracing(cfg.TracerProvider),
		started:  time.Now(),
		readers:  make(chan struct{}, cfg.Limits.Readers),
		requests: make(chan struct{}, cfg.Limits.Readers),
		hubs:     map[string]*hub{},
		sessions: map[*session]struct{}{},
		sockets:  sockets{from: map[origin]int{}},
		faults:   throttle{every: 100 * time.Millisecond},
	}
	var err error
	if s.metrics, err = registerMetrics(cfg.Registry); err != nil {
		return nil, err
	}
	s.cluster = newCluster(s, cfg.Transport)
	s.handler = s.routes()
	return s, nil
}

// Serve serves on l until ctx is done, and closes l. Then it drains: it accepts nothing new, commits and answers
// pushes in flight, and closes the sockets in waves, with 1012 and the delay after which to reconnect. A push
// that is not answered by then was not committed. Serve returns when everything that it started has stopped. The
// error is nil unless l failed, or draining took longer than Timing.Drain and was cut short. There is no handler
// to mount in another server, because nobody would stop the goroutines that it starts.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: s.cfg.Timing.Header,
		ReadTimeout:       s.cfg.Timing.Body, // ends with the upgrade
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelWarn),
		BaseContext:       func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, allowanceKey{}, newAllowance(s.cfg.Limits.OpsPerSecond))
		},
	}
	defer s.cfg.Compaction.start(ctx, s)()
	defer s.cluster.start(ctx)() // to the end: what drain commits is told, too
	failed := make(chan error, 1)
	go func() {
		defer close(failed)
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			failed <- fmt.Errorf("serve realtime: %w", err)
		}
	}()
	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Timing.Drain)
	defer cancel()
	return errors.Join(err, s.drain(stopCtx, srv), <-failed)
}

// hub returns a room's hub, nil if the room is not in use here.
func (s *Server) hub(room string) *hub {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hubs[room]
}

func (s *Server) allHubs() []*hub {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.hubs))
}

// drain ends everything within ctx, and then by force.
func (s *Server) drain(ctx context.Context, srv *http.Server) error {
	s.mu.Lock()
	s.draining = true
	open := slices.Collect(maps.Keys(s.sessions))
	s.mu.Unlock()
	s.endIdle()

	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.closeInWaves(ctx, open)
		s.running.Wait()
	}()
	err := srv.Shutdown(ctx)
	select {
	case <-stopped:
	case <-ctx.Done():
		err = errors.Join(err, ctx.Err())
		s.kill()
		_ = srv.Close()
		<-stopped
	}
	if err != nil {
		return fmt.Errorf("drain: %w", err)
	}
	return nil
}

// closeInWaves closes a few sockets at a time, because they will come back at the same pace, to a server that must
// accept them all. It takes half of Timing.Drain at most.
func (s *Server) closeInWaves(ctx context.Context, open []*session) {
	size := s.cfg.Limits.Wave
	waves := time.Duration(len(open)/size + 1)
	ticker := time.NewTicker(max(min(s.cfg.Timing.Wave, s.cfg.Timing.Drain/2/waves), 1)) // a ticker takes no zero
	defer ticker.Stop()
	for i, session := range open {
		if i > 0 && i%size == 0 {
			select {
			case <-ticker.C:
			case <-ctx.Done():
			}
		}
		s.restart(session)
	}
}

// restart closes a session with the delay after which to come back, a different one for each.
func (s *Server) restart(session *session) {
	delay := s.cfg.Timing.Restart
	session.close(wire.CloseRestart, wire.RestartReason(delay+rand.N(delay)))
}

// kill fails store calls and cuts connections.
func (s *Server) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.hubs {
		h.cancel()
	}
	for session := range s.sessions {
		_ = session.conn.Close()
	}
}

// enter counts a request or socket that drain waits for; ok is false while draining.
func (s *Server) enter() (leave func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return nil, false
	}
	s.running.Add(1)
	return s.running.Done, true
}

// acquire returns the hub of a room, in use until release. The caller has entered.
func (s *Server) acquire(ctx context.Context, room string) (*hub, error) {
	s.mu.Lock()
	h := s.hubs[room]
	if h == nil {
		h = newHub(s, room)
		s.hubs[room] = h
	}
	h.refs++
	s.wake(h)
	s.mu.Unlock()
	if err := h.load(ctx); err != nil {
		s.release(h)
		return nil, err
	}
	return h, nil
}

func (s *Server) release(h *hub) {
	var ending []*hub
	s.mu.Lock()
	if h.refs--; h.refs == 0 {
		ending = s.retire(h)
	}
	s.mu.Unlock()
	for _, h := range ending {
		h.end()
	}
}

// connections counts the members of a room. It asks other processes if there may be members unknown to this one.
func (s *Server) connections(ctx context.Context, room string) int64 {
	h := s.hub(room)
	if h == nil {
		if s.cluster.alone() {
			return 0
		}
		var err error
		if h, err = s.acquire(ctx, room); err != nil {
			return 0
		}
		defer s.release(h)
	}
	h.meet(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	return int64(len(h.clients()))
}

// add registers a session for drain.
func (s *Server) add(session *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[session] = struct{}{}
	s.metrics.sockets.Inc()
	s.metrics.accepted.Inc()
	if s.draining {
		s.restart(session)
	}
}

func (s *Server) remove(session *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, session)
	s.metrics.sockets.Dec()
}

func (s *Server) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

// authorize asks the hook. Its error is always a *wire.Error.
func (s *Server) authorize(ctx context.Context, token, room string) (Grant, error) {
	grant, err := s.cfg.Authorize(ctx, token, room)
	if err != nil {
		return Grant{}, s.storeError(s.logOf(ctx), "authorize", err)
	}
	return grant, nil
}

// guard runs f and survives its panic; it reports whether there was none. One session's fault must
// not be everybody's.
func (s *Server) guard(log logger, f func()) (ok bool) {
	defer func() {
		if !ok {
			s.metrics.panics.Inc()
			log.Error("panic", "value", fmt.Sprint(recover()), "stack", string(debug.Stack()))
		}
	}()
	f()
	return true
}
