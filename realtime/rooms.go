package realtime

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// mayRead answers the request itself if the token does not allow reading the room.
func (s *Server) mayRead(w http.ResponseWriter, r *http.Request, room string) bool {
	grant, err := s.authorize(r.Context(), bearer(r), room)
	if err == nil && !grant.Read {
		err = wire.UnknownRoom()
	}
	if err != nil {
		failRoom(w, err)
	}
	return err == nil
}

func (s *Server) getStats(w http.ResponseWriter, r *http.Request, room string) {
	if !s.mayRead(w, r, room) {
		return
	}
	stats, err := reading(r.Context(), s, func(ctx context.Context) (wire.Stats, error) { return s.cfg.Store.Stats(ctx, room) })
	if err != nil {
		failRoom(w, s.storeError(s.logOf(r.Context()), "read stats", err))
		return
	}
	stats.Connections = s.connections(r.Context(), room)
	writeJSON(w, stats)
}

func (s *Server) getChildren(w http.ResponseWriter, r *http.Request, room string) {
	s.getPage(w, r, room, func(ctx context.Context, q query) (wire.Page, error) {
		parent, after, limit := q.node("parent"), q.Get("after"), q.limit(wire.MaxNodes)
		most := q.number("count", 0, 1)
		if q.err != nil {
			return wire.Page{}, q.err
		}
		return s.cfg.Store.Children(ctx, room, parent, after, limit, int(min(most, 1<<31-1)))
	})
}

func (s *Server) getSubtree(w http.ResponseWriter, r *http.Request, room string) {
	s.getPage(w, r, room, func(ctx context.Context, q query) (wire.Page, error) {
		node, after, limit := q.node("node"), q.Get("after"), q.limit(wire.MaxNodes)
		depth := q.number("depth", 0, 1)
		if q.err != nil {
			return wire.Page{}, q.err
		}
		return s.cfg.Store.Subtree(ctx, room, node, int(min(depth, 1<<31-1)), after, limit)
	})
}

func (s *Server) getPage(w http.ResponseWriter, r *http.Request, room string, read func(context.Context, query) (wire.Page, error)) {
	if !s.mayRead(w, r, room) {
		return
	}
	q, err := parseQuery(r)
	if err != nil {
		fail(w, wire.AsError(err))
		return
	}
	page, err := reading(r.Context(), s, func(ctx context.Context) (wire.Page, error) { return read(ctx, q) })
	if err != nil {
		failRoom(w, s.storeError(s.logOf(r.Context()), "read nodes", err))
		return
	}
	if page.Nodes == nil {
		page.Nodes = []wire.Node{}
	}
	writeJSON(w, page)
}

// getOps streams a page of the log. The head at the beginning fixes its range, so the header line is exact. If the log
// fails on the way, the response is cut off.
func (s *Server) getOps(w http.ResponseWriter, r *http.Request, room string) {
	if !s.mayRead(w, r, room) {
		return
	}
	q, err := parseQuery(r)
	if err != nil {
		fail(w, wire.AsError(err))
		return
	}
	after, limit := min(q.number("after", 0, 0), math.MaxInt64-1), q.limit(wire.MaxOps) // what follows has a number, too
	if q.err != nil {
		fail(w, wire.AsError(q.err))
		return
	}
	at, err := s.whereIs(r.Context(), room)
	if err != nil {
		failRoom(w, s.storeError(s.logOf(r.Context()), "read room", err))
		return
	}
	if after < at.MinSeq {
		fail(w, wire.NewError(wire.CodeCompacted, "ops up to %d are no longer in the log: take a snapshot", at.MinSeq))
		return
	}
	to := max(after, min(after+int64(limit), at.Head))
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	lines := json.NewEncoder(w)
	_ = lines.Encode(wire.OpsHeader{From: after + 1, To: to, Head: at.Head, Epoch: at.Epoch})
	if err := s.streamOps(r.Context(), room, after, to, lines); err != nil {
		panic(http.ErrAbortHandler) // the peer must not take the part for the whole
	}
}

// whereIs reads a room's row for a request.
func (s *Server) whereIs(ctx context.Context, room string) (wire.Room, error) {
	return reading(ctx, s, func(ctx context.Context) (wire.Room, error) { return s.cfg.Store.Room(ctx, room) })
}

func (s *Server) streamOps(ctx context.Context, room string, after, to int64, lines *json.Encoder) error {
	chunk := newChunk(s.cfg.Limits)
	for after < to {
		limit := int(min(int64(chunk.n), to-after))
		ops, err := reading(ctx, s, func(ctx context.Context) ([]moveop.Op, error) { return s.cfg.Store.OpsAfter(ctx, room, after, limit) })
		if err != nil {
			return s.storeError(s.logOf(ctx), "read ops", err)
		}
		if len(ops) == 0 || !contiguous(ops, after) {
			s.logOf(ctx).Error("the log has a hole", "after", after)
			return errors.New("the log has a hole")
		}
		for i := range ops {
			if err := lines.Encode(ops[i]); err != nil {
				return err // the peer is gone
			}
		}
		chunk.adapt(ops)
		after += int64(len(ops))
	}
	return nil
}

// postOps is a push without a socket: the same checks, the same committer.
func (s *Server) postOps(w http.ResponseWriter, r *http.Request, room string) {
	grant, err := s.authorize(r.Context(), bearer(r), room)
	if err == nil && !grant.Read && !grant.Write {
		err = wire.UnknownRoom()
	}
	if err != nil {
		failRoom(w, err)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.cfg.Limits.MaxFrame))
	if err != nil {
		failBody(w, err)
		return
	}
	request, err := wire.DecodePushRequest(body)
	if err != nil && request.Replica == 0 {
		fail(w, wire.AsError(err))
		return
	}
	if err == nil {
		err = s.checkPush(request.Replica, request.Ops)
	}
	if err == nil {
		err = s.spendOn(r.Context(), len(request.Ops))
	}
	var applied wire.Applied
	if err == nil {
		applied, err = s.commitRequest(r.Context(), room, grant, request)
	}
	s.answerRequest(w, request.ID, applied, err)
}

// commitRequest applies the batch in the room's hub, next to what sockets push.
func (s *Server) commitRequest(ctx context.Context, room string, grant Grant, request wire.PushRequest) (wire.Applied, error) {
	h, err := s.acquire(ctx, room)
	if err != nil {
		return wire.Applied{}, err
	}
	defer s.release(h)
	if !grant.Write {
		if err := h.mustExist(ctx); err != nil {
			return wire.Applied{}, wire.ErrUnknownRoom
		}
		return wire.Applied{}, wire.NewError(wire.CodeForbidden, "the token does not allow writing")
	}
	type outcome struct {
		applied wire.Applied
		err     error
	}
	done := make(chan outcome, 1)
	j := &job{ops: request.Ops, done: func(applied wire.Applied, err error) { done <- outcome{applied, err} }}
	if err := h.submit(ctx, j); err != nil {
		return wire.Applied{}, err
	}
	result := <-done // bounded by Timing.Store for each of what is ahead of it
	return result.applied, result.err
}

func (s *Server) answerRequest(w http.ResponseWriter, id string, applied wire.Applied, err error) {
	if errors.Is(err, wire.ErrUnknownRoom) {
		failRoom(w, err)
		return
	}
	status := http.StatusOK
	msg := s.answerPush(id, applied, err)
	if nack, ok := msg.(wire.Nack); ok {
		status = nack.Code.HTTPStatus()
		if nack.Code == wire.CodeInternal {
			status = http.StatusServiceUnavailable // pushing again is what helps
		}
		if nack.Code == wire.CodeBadRequest {
			fail(w, &nack.Error)
			return
		}
	}
	body, err := wire.JSON.Encode(msg)
	if err != nil {
		fail(w, s.storeError(s.cfg.Logger, "encode answer", err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // the peer is gone if this fails
}

func failBody(w http.ResponseWriter, err error) {
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		wire.WriteError(w, http.StatusRequestEntityTooLarge,
			wire.NewError(wire.CodeTooLarge, "the body is larger than %d bytes", tooLarge.Limit))
		return
	}
	fail(w, wire.NewError(wire.CodeBadRequest, "the body could not be read"))
}

// query reads parameters and keeps the first error.
type query struct {
	url.Values
	err error
}

func parseQuery(r *http.Request) (query, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return query{}, wire.NewError(wire.CodeBadRequest, "malformed query")
	}
	return query{Values: values}, nil
}

// node reads a node id; Root if it is missing.
func (q *query) node(name string) moveop.NodeID {
	text := q.Get(name)
	if text == "" {
		return moveop.Root
	}
	id, err := moveop.ParseNodeID(text)
	if err != nil {
		q.fail(wire.NewError(wire.CodeBadRequest, "%s: %.200s", name, err.Error()))
	}
	return id
}

// number reads a number not less than least; absent where it is missing.
func (q *query) number(name string, absent, least int64) int64 {
	text := q.Get(name)
	if text == "" {
		return absent
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < least {
		q.fail(wire.NewError(wire.CodeBadRequest, "%s is %.40q, not an integer of at least %d", name, text, least))
	}
	return n
}

// limit reads the size of a page; more than most gives most, and the rest comes with the next page.
func (q *query) limit(most int) int {
	return int(min(q.number("limit", wire.DefaultLimit, 1), int64(most)))
}

func (q *query) fail(err error) {
	if q.err == nil {
		q.err = err
	}
}

func writeJSON(w http.ResponseWriter, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		fail(w, wire.NewError(wire.CodeInternal, "internal error"))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(append(body, '\n')) // the peer is gone if this fails
}
