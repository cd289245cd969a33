package realtime

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// getBuckets answers with a level of the log's Merkle tree.
func (s *Server) getBuckets(w http.ResponseWriter, r *http.Request, room string) {
	span, ok := s.readSpan(w, r, room)
	if !ok {
		return
	}
	buckets, err := reading(r.Context(), s, func(ctx context.Context) (wire.Buckets, error) {
		return s.cfg.Store.Buckets(ctx, room, span)
	})
	if err != nil {
		failRoom(w, s.storeError(s.logOf(r.Context()), "read buckets", err))
		return
	}
	writeJSON(w, buckets)
}

// getBucketOps streams the ops of a span in timestamp order, one per line. If the log fails on the way, the
// response is cut off.
func (s *Server) getBucketOps(w http.ResponseWriter, r *http.Request, room string) {
	span, ok := s.readSpan(w, r, room)
	if !ok {
		return
	}
	if _, err := s.whereIs(r.Context(), room); err != nil {
		failRoom(w, s.storeError(s.logOf(r.Context()), "read room", err))
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	if err := s.streamSpan(r.Context(), room, span, json.NewEncoder(w)); err != nil {
		panic(http.ErrAbortHandler) // the peer must not take the part for the whole
	}
}

func (s *Server) streamSpan(ctx context.Context, room string, span wire.Span, lines *json.Encoder) error {
	after, chunk := span.First(), newChunk(s.cfg.Limits)
	for {
		ops, err := reading(ctx, s, func(ctx context.Context) ([]moveop.Op, error) {
			return s.cfg.Store.OpsBetween(ctx, room, after, span.Last(), chunk.n)
		})
		if err != nil {
			return s.storeError(s.logOf(ctx), "read ops", err)
		}
		for i := range ops {
			if err := lines.Encode(ops[i]); err != nil {
				return err // the peer is gone
			}
		}
		if len(ops) < chunk.n {
			return nil
		}
		chunk.adapt(ops)
		after = ops[len(ops)-1].TS
	}
}

// readSpan returns the span of a request. It answers the request itself if that is forbidden or malformed.
func (s *Server) readSpan(w http.ResponseWriter, r *http.Request, room string) (wire.Span, bool) {
	if !s.mayRead(w, r, room) {
		return "", false
	}
	q, err := parseQuery(r)
	if err == nil {
		var span wire.Span
		if span, err = wire.ParseSpan(q.Get("prefix")); err == nil {
			return span, true
		}
	}
	fail(w, wire.AsError(err))
	return "", false
}
