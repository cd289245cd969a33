package realtime

import (
	"context"
	"time"

	"github.com/canopysync/canopy/realtime/wire"
)

// admit returns what a token allows in the room.
func (h *hub) admit(ctx context.Context, token string) (Grant, error) {
	grant, err := h.srv.authorize(ctx, token, h.room)
	if err != nil {
		return Grant{}, err
	}
	return grant, h.allow(ctx, grant)
}

// letIn acquires a room for a grant that allows entering it.
func (s *Server) letIn(ctx context.Context, room string, grant Grant) (*hub, error) {
	if !grant.Read {
		return nil, wire.UnknownRoom()
	}
	h, err := s.acquire(ctx, room)
	if err != nil {
		return nil, err
	}
	if err := h.allow(ctx, grant); err != nil {
		s.release(h)
		return nil, err
	}
	return h, nil
}

// allow checks a grant against the room: it must allow reading, and writing if the room does not exist yet.
func (h *hub) allow(ctx context.Context, grant Grant) error {
	if !grant.Read {
		return wire.UnknownRoom()
	}
	if !grant.Write {
		return h.mustExist(ctx)
	}
	return nil
}

// check returns the reason why a grant is no longer valid, nil if it is.
func (s *Server) check(grant Grant) error {
	if !grant.Expires.IsZero() && !s.cfg.Now().Before(grant.Expires) {
		return wire.NewError(wire.CodeUnauthorized, "the token has expired")
	}
	if grant.Withdrawn != nil && grant.Withdrawn() {
		return wire.NewError(wire.CodeUnauthorized, "the token is no longer valid")
	}
	return nil
}

// recheck ends the session if its grant is no longer valid, and schedules the next check. Pushes accepted before
// are still committed and answered.
func (s *session) recheck(ctx context.Context) {
	if ctx.Err() != nil || s.closeFrame() != nil {
		return
	}
	s.hub.mu.Lock()
	grant := s.grant
	s.hub.mu.Unlock()
	if err := s.srv.check(grant); err != nil {
		s.log.Info("turned away", "replica", s.replica.String(), "user", grant.User, "error", err)
		s.turnAway(err)
		return
	}
	s.access.Reset(s.srv.recheckIn(grant))
}

// recheckIn is never longer than Timing.Recheck: clocks are set, and machines sleep.
func (s *Server) recheckIn(grant Grant) time.Duration {
	in := s.cfg.Timing.Recheck
	if !grant.Expires.IsZero() {
		in = min(in, grant.Expires.Sub(s.cfg.Now()))
	}
	return max(in, 0)
}
