package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Limits that protect the HTTP server from peers that send nothing, or too much.
const (
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 16 << 10
)

// Serve serves on ln until ctx is done, and closes ln. Then it accepts no new connections or snapshots, gives
// running snapshots Config.DrainTimeout, cuts off the rest, and returns after the last handler. The error is nil
// if ctx ended it. Serve may be called once.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	gate := &gate{next: s.handler}
	srv := &http.Server{
		Handler:           gate,
		ReadHeaderTimeout: s.cfg.HeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		BaseContext:       func(net.Listener) context.Context { return base },
		ErrorLog:          slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ln) }()

	var err error
	select {
	case err = <-failed: // the listener broke
	case <-ctx.Done():
		s.shutdown(ctx, srv)
		err = <-failed
	}
	cancel()
	_ = srv.Close() // aborts what is left; the error says nothing new
	gate.close()
	s.Close()
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve snapshots: %w", err)
	}
	return nil
}

func (s *Server) shutdown(ctx context.Context, srv *http.Server) {
	s.draining.Store(true)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DrainTimeout)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		s.cfg.Logger.Warn("snapshots are cut off", "running", len(s.slots), "drain_timeout", s.cfg.DrainTimeout)
	}
}

// gate counts running handlers, because http.Server.Close does not wait for them.
type gate struct {
	next http.Handler

	mu      sync.Mutex // held when closed changes or running grows, so that Wait cannot miss one
	closed  bool
	running sync.WaitGroup
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !g.enter() {
		panic(http.ErrAbortHandler)
	}
	defer g.running.Done()
	g.next.ServeHTTP(w, r)
}

func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.running.Add(1)
	}
	return !g.closed
}

// close lets nobody else in and waits for those inside.
func (g *gate) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.running.Wait()
}
