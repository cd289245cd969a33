package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/gorilla/websocket"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/realtime/wire"
	"github.com/canopysync/canopy/realtime/wire/socket"
)

// Reasons why a connection ends though nothing is wrong with it.
var (
	// errResync means that the cursor cannot be served: load a snapshot, then connect again.
	errResync = errors.New("the server cannot continue from our cursor")
	// errMismatch means that our log differs from the server's: see mend.
	errMismatch = errors.New("digests differ at the same cursor")
	// errRepair means that the application called Repair: see mend.
	errRepair = errors.New("the replica is to be repaired")
	// errLoaded means that the snapshot is in, and that this connection cannot continue from it.
	errLoaded = errors.New("the snapshot is loaded")
	// errRenamed means that we use another replica id from now on.
	errRenamed = errors.New("the file was copied or restored: new replica id")
)

// syncer keeps a replica in step: it loads a snapshot if one is needed, connects, and does both again when the
// connection ends, until it is told to stop. One goroutine runs it.
//
//	        ┌───────────► wait ◄──────────────┐
//	        │              │                  │
//	new or resync          ▼                  │ connection ends
//	    ───────────► bootstrap ──► connect ───┘
//	                       ▲          ▲
//	digests differ         │ too much │
//	    ────────────────► mend ───────┘
type syncer struct {
	c       *Client
	log     *slog.Logger
	backoff *backoff.ExponentialBackOff

	first        *firstLoad // nil when the room is here
	needSnapshot bool
	epoch        string        // of the last welcome or resync
	suspect      bool          // our log is not the server's: mend it, or load a snapshot
	mended       bool          // since digests were equal last: if they differ again, load a snapshot
	repairing    []chan error  // who waits for either
	inUse        int           // connections in a row that were refused because our replica is in use
	waited       time.Duration // before the last attempt
	maxBatch     int           // operations of one push; halved when the server finds it too large
}

func newSyncer(c *Client) *syncer {
	s := &syncer{
		c: c, backoff: newBackoff(&c.opts), maxBatch: wire.DefaultLimit,
		log: c.opts.Logger.With(slog.String("room", c.opts.Room)),
	}
	m := c.store.meta.Load()
	s.needSnapshot = m.partial || m.epoch == ""
	if s.needSnapshot && c.opts.BootstrapURL != "" {
		s.first = &firstLoad{s, make(chan struct{})}
	}
	return s
}

func newBackoff(opts *Options) *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval, b.Multiplier = opts.RetryMin, opts.RetryMax, 2
	b.Reset()
	return b
}

func (s *syncer) run(ctx context.Context) {
	var loading sync.WaitGroup
	defer loading.Wait()
	if s.first != nil {
		s.first.start(ctx, &loading)
	}
	for ctx.Err() == nil {
		err := s.once(ctx)
		if ctx.Err() != nil {
			break
		}
		delay := s.retryIn(ctx, err)
		s.waited = delay
		s.log.Info("sync ended", "error", err, "retry_in", delay)
		s.c.setMembers(nil)
		if errors.Is(err, errRepair) {
			err = nil // nothing is wrong with the connection
		}
		s.c.setProgress(func(p *progress) {
			p.err, p.state = err, stateAfter(err)
			if errors.Is(err, errMismatch) { // not before: it does not count as in step any more
				p.mismatches++
			}
		})
		s.wait(ctx, delay)
	}
	s.c.setMembers(nil)
	s.c.setProgress(func(p *progress) { p.state = StateOffline })
}

// stateAfter is the client's state after a connection has ended with err.
func stateAfter(err error) State {
	switch {
	case needsAuth(err):
		return StateNeedsAuth
	case errors.Is(err, socket.ErrProtocol), errors.Is(err, format.ErrVersion):
		return StateUpdateRequired
	}
	return StateOffline
}

// once runs one connection to its end, and loads a snapshot before it if needed.
func (s *syncer) once(ctx context.Context) error {
	if s.first != nil {
		if err := s.awaitBegun(ctx); err != nil {
			return err
		}
	}
	if s.first == nil && s.suspect {
		mended, err := s.mend(ctx)
		if err != nil {
			return fmt.Errorf("mend the log: %w", err)
		}
		s.suspect, s.mended, s.needSnapshot = false, mended, s.needSnapshot || !mended
		if mended {
			s.repaired(nil)
		}
	}
	if s.first == nil && s.needSnapshot && !s.mustAsk() {
		err := s.bootstrap(ctx)
		s.repaired(err)
		if err != nil {
			return err
		}
		s.needSnapshot, s.mended = false, false
	}
	s.c.setProgress(func(p *progress) { p.state = StateConnecting })
	l, err := s.dial(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	err = l.run(ctx)
	if l.caughtUp {
		s.inUse = 0
	}
	// One that ends as soon as it is made is a failure like one that is not made.
	if l.caughtUp && !logsDiffer(err) && time.Since(began) > s.waited {
		s.backoff.Reset()
	}
	return err
}

// mustAsk reports whether a welcome must come before a snapshot: an operation that got through without our knowing may
// be missing from the snapshot because it was folded.
func (s *syncer) mustAsk() bool {
	m := s.c.store.meta.Load()
	return s.c.store.unsure.Load() && m.epoch != "" && m.pending > 0
}

// retryIn reacts to the end of a connection and returns how long to wait before the next.
func (s *syncer) retryIn(ctx context.Context, err error) time.Duration {
	switch {
	case errors.Is(err, errRepair), errors.Is(err, errLoaded):
		return 0
	case s.first != nil && errors.Is(err, errResync):
		if err := s.c.forgetPreview(ctx, s.epoch); err != nil {
			s.log.Error("forget what was fetched ahead", "error", err)
		}
	case errors.Is(err, errResync), logsDiffer(err) && s.mended:
		s.needSnapshot = true
	case logsDiffer(err):
		s.suspect = true
	case replicaInUse(err) && s.secondInUse():
		s.rename(ctx)
	}
	delay := s.backoff.NextBackOff()
	if e := closeError(err); e != nil && e.Code == wire.CloseRestart {
		if after, ok := wire.ParseRestartReason(e.Text); ok {
			return after + rand.N(delay+1)
		}
	}
	return delay
}

// logsDiffer reports whether a connection ended because our log is not the server's.
func logsDiffer(err error) bool { return errors.Is(err, errMismatch) || errors.Is(err, errConflict) }

// secondInUse counts. The first time it may be our own last connection, of which the server has not
// noticed the end.
func (s *syncer) secondInUse() bool {
	s.inUse++
	return s.inUse > 1
}

func (s *syncer) rename(ctx context.Context) {
	s.inUse = 0
	if err := s.c.store.update(ctx, Local, (*txn).rename); err != nil {
		s.log.Error("take a new replica id", "error", err)
		return
	}
	s.log.Warn("the file was copied or restored: took a new replica id", "replica", s.c.Replica().String())
}

// wait waits for the delay, or until the application calls Reconnect or Repair.
func (s *syncer) wait(ctx context.Context, delay time.Duration) {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.c.retries:
	case done := <-s.c.repairs:
		s.repair(done)
	case <-ctx.Done():
	}
}

// repair has the log mended next, unless a snapshot is being loaded.
func (s *syncer) repair(done chan error) {
	s.suspect = true
	s.repairing = append(s.repairing, done)
}

// repaired tells the callers of Repair the outcome, unless another try may help.
func (s *syncer) repaired(err error) {
	if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrDiskFull) && !errors.Is(err, ErrReadOnly) {
		return
	}
	for _, done := range s.repairing {
		done <- err
	}
	s.repairing = nil
}

func closeError(err error) *websocket.CloseError {
	if e, ok := errors.AsType[*websocket.CloseError](err); ok {
		return e
	}
	return nil
}

func replicaInUse(err error) bool {
	if e := closeError(err); e != nil {
		return e.Code == wire.CloseReplicaInUse
	}
	e, ok := errors.AsType[*wire.Error](err)
	return ok && e.Code == wire.CodeReplicaInUse
}

func needsAuth(err error) bool {
	if errors.Is(err, errToken) {
		return true
	}
	if e := closeError(err); e != nil {
		return e.Code == wire.CloseUnauthorized || e.Code == wire.CloseForbidden
	}
	e, ok := errors.AsType[*wire.Error](err)
	return ok && (e.Code == wire.CodeUnauthorized || e.Code == wire.CodeForbidden)
}
