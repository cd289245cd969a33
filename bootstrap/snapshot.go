package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/realtime/wire"
)

// The results of a snapshot, in the log line and as the label of the metric.
const (
	resultComplete = "complete"
	resultRefused  = "refused" // by the source, before the first byte, for an unknown room for instance
	resultBusy     = "busy"    // turned away
	resultGone     = "gone"    // the client went away, or the server was told to stop
	resultStalled  = "stalled" // the client accepted nothing for StallTimeout
	resultExpired  = "expired" // it took longer than MaxDuration
	resultFailed   = "failed"  // the source failed
)

func (s *Server) snapshot(w http.ResponseWriter, r *http.Request, room string) {
	w.Header().Set("Vary", "Accept-Encoding")
	code, ok := negotiate(r.Header.Values("Accept-Encoding"))
	if !ok {
		e := wire.NewError(wire.CodeBadRequest, "a snapshot is sent as identity or zstd: accept one of them")
		wire.WriteError(w, http.StatusNotAcceptable, e)
		return
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(r.Context(), s.cfg.MaxDuration)
	defer cancel()
	st := s.newStream(w, code, began.Add(s.cfg.MaxDuration))
	header, err := s.answer(ctx, st, r, room)
	s.report(r, st, header, st.outcome(r.Context(), err), time.Since(began), err)
	switch {
	case err != nil && st.begun:
		panic(http.ErrAbortHandler) // aborts the body: the client must not take it for complete
	case err != nil:
		s.refuse(w, r, err)
	}
}

// answer sends the snapshot from a spool, or straight from the database if spooling is off or there is no space.
func (s *Server) answer(ctx context.Context, st *stream, r *http.Request, room string) (format.Header, error) {
	if key := (spoolKey{room, st.coding}); s.spools != nil && s.spools.fits(key) {
		header, err := s.spooled(ctx, st, r, key)
		if st.begun || !errors.Is(err, errSpoolFull) {
			return header, err
		}
		st.etag = ""
	}
	if !s.take() {
		return format.Header{}, errNoPlace
	}
	defer s.release()
	s.compress(st)
	defer s.recycle(st)
	return s.send(ctx, room, st)
}

// take occupies a place for a snapshot if there is one.
func (s *Server) take() bool {
	if s.draining.Load() {
		return false
	}
	select {
	case s.slots <- struct{}{}:
		s.metrics.running.Inc()
		return true
	default:
		return false
	}
}

func (s *Server) release() {
	s.metrics.running.Dec()
	<-s.slots
}

// send streams the snapshot. It finishes the compressor only after the source has ended its transaction successfully:
// if the source fails at the very end, the compressed stream stays incomplete.
func (s *Server) send(ctx context.Context, room string, st *stream) (header format.Header, err error) {
	err = s.cfg.Source.Snapshot(ctx, room, func(snap format.Snapshot) error {
		header = snap.Header()
		_, err := format.WriteSnapshot(ctx, st, snap)
		return err
	})
	if err != nil {
		return header, err
	}
	return header, st.finish()
}

// outcome names the reason why the snapshot ended. Deadlines and the stream's own error take precedence: after a failed
// write, net/http cancels the request as if the client had left, and a source aborted by either may report anything.
func (st *stream) outcome(request context.Context, err error) string {
	switch {
	case err == nil:
		return resultComplete
	case !time.Now().Before(st.until):
		return resultExpired
	case errors.Is(st.err, os.ErrDeadlineExceeded):
		return resultStalled
	case st.err != nil || request.Err() != nil:
		return resultGone
	case errors.Is(err, errNoPlace):
		return resultBusy
	case !isFault(err):
		return resultRefused
	}
	return resultFailed
}

func (s *Server) report(r *http.Request, st *stream, h format.Header, result string, took time.Duration, err error) {
	s.metrics.snapshots.WithLabelValues(result).Inc()
	if result == resultComplete {
		s.metrics.seconds.Observe(took.Seconds())
	}
	attrs := []slog.Attr{
		slog.String("result", result), slog.String("room", r.PathValue("room")), slog.Int64("seq", h.Seq),
		slog.String("coding", string(st.coding)), slog.Int64("bytes", st.raw), slog.Int64("sent_bytes", st.sent),
		slog.Duration("took", took), slog.String("remote", r.RemoteAddr),
	}
	level := slog.LevelInfo
	switch result {
	case resultStalled, resultExpired:
		level = slog.LevelWarn
	case resultFailed:
		level = slog.LevelError
	}
	if err != nil {
		attrs = append(attrs, slog.Any("error", err))
	}
	s.cfg.Logger.LogAttrs(r.Context(), level, "snapshot", attrs...)
}

// stream is the body of one answer. The first write, which is the snapshot's header, is flushed at once, so that the
// client knows what to expect while the database still gathers rows.
type stream struct {
	coding  coding
	encoder *zstd.Encoder // nil for identity, and if the bytes are already compressed
	etag    string        // of the spool that the bytes come from
	w       http.ResponseWriter
	control *http.ResponseController
	stall   time.Duration
	until   time.Time
	metrics *metrics

	begun     bool
	raw, sent int64 // bytes before and after compression
	err       error // of the socket
}

func (s *Server) newStream(w http.ResponseWriter, code coding, until time.Time) *stream {
	return &stream{
		coding: code, w: w, control: http.NewResponseController(w),
		stall: s.cfg.StallTimeout, until: until, metrics: s.metrics,
	}
}

// compress inserts a compressor into the stream if its coding needs one.
func (s *Server) compress(st *stream) {
	if st.coding == zstdCode {
		st.encoder = s.encoders.Get().(*zstd.Encoder)
		st.encoder.Reset((*socket)(st))
	}
}

// recycle returns the compressor to the pool. It detaches the socket first, so that nothing of an aborted stream can
// still be written.
func (s *Server) recycle(st *stream) {
	if st.encoder != nil {
		st.encoder.Reset(nil)
		s.encoders.Put(st.encoder)
	}
}

// Write implements io.Writer for the snapshot's bytes.
func (st *stream) Write(p []byte) (n int, err error) {
	first := !st.begun
	if first {
		st.begin()
	}
	if st.encoder != nil {
		n, err = st.encoder.Write(p)
	} else {
		n, err = (*socket)(st).Write(p)
	}
	st.raw += int64(n)
	if st.etag == "" {
		st.metrics.raw.Add(float64(n))
	}
	if first && err == nil {
		err = st.flush()
	}
	return n, err
}

func (st *stream) begin() {
	st.begun = true
	st.setHeaders()
	st.w.WriteHeader(http.StatusOK)
}

func (st *stream) setHeaders() {
	h := st.w.Header()
	h.Set("Content-Type", format.ContentType)
	h.Set("Cache-Control", "no-store")
	if st.coding == zstdCode {
		h.Set("Content-Encoding", string(zstdCode))
	}
	if st.etag != "" {
		h.Set("ETag", st.etag)
		h.Set("Accept-Ranges", "bytes")
	}
}

func (st *stream) flush() error {
	if st.encoder != nil {
		if err := st.encoder.Flush(); err != nil {
			return err
		}
	}
	return st.flushSocket()
}

// finish flushes and ends the compressed stream.
func (st *stream) finish() error {
	if st.encoder != nil {
		if err := st.encoder.Close(); err != nil {
			return fmt.Errorf("finish compression: %w", err)
		}
	}
	return st.flushSocket()
}

func (st *stream) flushSocket() error {
	st.extend()
	if err := st.control.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		st.err = err
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}

// extend extends the socket's deadline if it has one (see Server.allowWrite).
func (st *stream) extend() {
	deadline := time.Now().Add(st.stall)
	if st.until.Before(deadline) {
		deadline = st.until
	}
	_ = st.control.SetWriteDeadline(deadline)
}

// socket is the stream's lower end, below the compressor.
type socket stream

func (s *socket) Write(p []byte) (int, error) {
	(*stream)(s).extend()
	n, err := s.w.Write(p)
	s.sent += int64(n)
	s.metrics.sent.Add(float64(n))
	if err != nil {
		s.err = err
	}
	return n, err
}
