package realtime

import (
	"context"
	"log/slog"
	"net/http"
	"regexp"

	"github.com/google/uuid"
)

// requestHeader names a request in the logs of everybody that it passes through: it is taken from the request,
// or made here, and comes back in the answer.
const requestHeader = "X-Request-Id"

var requestID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// request is the part of a request that every log line about it includes.
type request struct{ id, room string }

type requestKey struct{}

// named gives a request its name.
func named(w http.ResponseWriter, r *http.Request, room string) *http.Request {
	id := r.Header.Get(requestHeader)
	if !requestID.MatchString(id) {
		id = uuid.NewString()
	}
	w.Header().Set(requestHeader, id)
	return r.WithContext(context.WithValue(r.Context(), requestKey{}, request{id, room}))
}

// logOf is the log for what happens in a request.
func (s *Server) logOf(ctx context.Context) *slog.Logger {
	if r, ok := ctx.Value(requestKey{}).(request); ok {
		return s.cfg.Logger.With("room", r.room, "request", r.id)
	}
	return s.cfg.Logger
}

// reading runs a request's read of the store when it is its turn: however many such requests arrive, they must leave
// the database and its connections to pushes.
func reading[T any](ctx context.Context, s *Server, read func(context.Context) (T, error)) (result T, err error) {
	ctx, cancel := s.storeContext(ctx)
	defer cancel()
	select {
	case s.requests <- struct{}{}:
		defer func() { <-s.requests }()
		return read(ctx)
	case <-ctx.Done():
		return result, ctx.Err()
	}
}
