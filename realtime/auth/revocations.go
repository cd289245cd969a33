package auth

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/canopysync/canopy/realtime/wire"
)

// Revocation is one revoked token.
type Revocation struct {
	// Version is greater than that of every earlier revocation.
	Version int64
	ID      string
	Expires time.Time // zero if unknown
}

// RevocationLog stores revocations. RevocationsAfter returns at most limit of those with a version greater than
// after, in order of version, and as head the greatest version given so far. Versions become visible in
// order: a reader that has seen one has seen all before it.
type RevocationLog interface {
	RevocationsAfter(ctx context.Context, after int64, limit int) (list []Revocation, head int64, err error)
}

// RevocationsConfig configures NewRevocations. Only Log is required.
type RevocationsConfig struct {
	Log RevocationLog
	// Poll is how often Run reads new revocations from the log. Defaults to 1 s.
	Poll time.Duration
	// Stale is the age of the list beyond which tokens are refused with busy, because they may have been
	// revoked. Defaults to 10 s.
	Stale time.Duration
	// Logger receives a message when the log cannot be read. Defaults to none.
	Logger *slog.Logger
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
}

// Revocations is one process's list of revoked tokens.
type Revocations struct {
	cfg RevocationsConfig

	mu      sync.Mutex // guards the fields below
	last    int64      // the greatest known version
	expires map[string]time.Time
	fresh   time.Time // when the list was last known to be complete; zero: never
	pruned  time.Time
	failing bool // the last read failed; logged once
}

// keepExpired is how long a token is kept in the list after its expiry: beyond any leeway.
const keepExpired = 2 * MaxLeeway

// NewRevocations returns an empty list. It cannot be used until Load or Run has read the log.
func NewRevocations(cfg RevocationsConfig) *Revocations {
	if cfg.Poll == 0 {
		cfg.Poll = time.Second
	}
	if cfg.Stale == 0 {
		cfg.Stale = 10 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Revocations{cfg: cfg, expires: map[string]time.Time{}}
}

// Run keeps the list up to date until ctx is done. It retries failed reads.
func (r *Revocations) Run(ctx context.Context) {
	tick := time.NewTicker(r.cfg.Poll)
	defer tick.Stop()
	for {
		err := r.Load(ctx)
		if ctx.Err() != nil {
			return
		}
		r.report(err)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// report logs that reading has started to fail, or works again.
func (r *Revocations) report(err error) {
	r.mu.Lock()
	failing := r.failing
	r.failing = err != nil
	r.mu.Unlock()
	switch {
	case err != nil && !failing:
		r.cfg.Logger.Error("revoked tokens cannot be read", "error", err)
	case err == nil && failing:
		r.cfg.Logger.Info("revoked tokens can be read again")
	}
}

// batch is how many revocations are read at once.
const batch = 1000

// Load reads new revocations from the log.
func (r *Revocations) Load(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Stale)
	defer cancel()
	for {
		begin := r.cfg.Now()
		list, head, err := r.cfg.Log.RevocationsAfter(ctx, r.known(), batch)
		if err != nil {
			return fmt.Errorf("read revoked tokens: %w", err)
		}
		if r.take(list, head, begin) {
			return nil
		}
	}
}

func (r *Revocations) known() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

// take adds to the list, and reports whether it is complete.
func (r *Revocations) take(list []Revocation, head int64, at time.Time) (whole bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if head < r.last { // the log was restored from a backup: read it from the start
		r.last = 0
		return false
	}
	for _, revoked := range list {
		r.expires[revoked.ID] = revoked.Expires
		r.last = revoked.Version
	}
	if len(list) == batch {
		return false
	}
	r.last, r.fresh = head, at
	r.prune(at)
	return true
}

// prune forgets tokens that have expired anyway. The caller holds mu.
func (r *Revocations) prune(now time.Time) {
	if now.Sub(r.pruned) < time.Minute {
		return
	}
	r.pruned = now
	for id, expires := range r.expires {
		if !expires.IsZero() && now.Sub(expires) > keepExpired {
			delete(r.expires, id)
		}
	}
}

// Revoked reports whether a token is known to be revoked. It does no I/O.
func (r *Revocations) Revoked(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, revoked := r.expires[id]
	return revoked
}

// check refuses a revoked token, and every token with an id while the list is stale. Tokens without an id cannot be
// revoked.
func (r *Revocations) check(id string) error {
	if id == "" {
		return nil
	}
	r.mu.Lock()
	stale := r.cfg.Now().Sub(r.fresh) > r.cfg.Stale
	r.mu.Unlock()
	switch {
	case r.Revoked(id):
		return unauthorized("the token was revoked")
	case stale:
		return wire.NewError(wire.CodeBusy, "the server cannot tell at the moment which tokens are revoked: try again")
	}
	return nil
}
