package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/realtime/wire"
)

// spooled answers from a spool, creating one if no existing one is usable.
func (s *Server) spooled(ctx context.Context, st *stream, r *http.Request, key spoolKey) (format.Header, error) {
	sp, err := s.spoolFor(ctx, r, key)
	if err != nil {
		return format.Header{}, err
	}
	defer sp.release()
	st.etag = sp.etag
	size, whole := int64(0), r.Header.Get("Range") != "" // a range needs the total length
	if whole {
		size, err = sp.wait(ctx)
	} else if e := sp.extent(); e.done {
		size, err, whole = e.size, e.err, true
	}
	switch {
	case err != nil:
	case whole:
		err = st.serveFile(r, io.NewSectionReader(sp.file, 0, size))
	default:
		if err = sp.follow(ctx, st, st.flushSocket); err == nil {
			err = st.flushSocket()
		}
	}
	sp.owner.mu.Lock()
	defer sp.owner.mu.Unlock()
	return sp.header, err
}

// spoolFor returns the spool that a resumed request names, or one that is usable for a new client: the operations since
// are still in the log, and not too many.
func (s *Server) spoolFor(ctx context.Context, r *http.Request, key spoolKey) (*spool, error) {
	if etag := r.Header.Get("If-Range"); etag != "" && r.Header.Get("Range") != "" {
		if sp := s.spools.tagged(key, etag); sp != nil {
			return sp, nil
		}
	}
	asking, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
	defer cancel()
	room, err := s.cfg.Source.Room(asking, key.room)
	if err != nil {
		return nil, err
	}
	return s.spools.acquire(ctx, key, func(sp *spool) bool {
		return !sp.begun || sp.header.Epoch == room.Epoch && sp.header.Seq >= room.MinSeq &&
			room.Head-sp.header.Seq <= s.cfg.SpoolTail
	}, s.fill)
}

// fill writes a snapshot to a spool, occupying a place and a database connection.
func (s *Server) fill(ctx context.Context, sp *spool) (err error) {
	if !s.take() {
		return errNoPlace
	}
	defer s.release()
	defer func() {
		if cause := recover(); cause != nil { // as in a handler, it affects only this snapshot
			s.metrics.panics.Inc()
			err = fmt.Errorf("panic: %v", cause)
		}
		if err != nil && isFault(err) && !errors.Is(err, context.Canceled) {
			s.cfg.Logger.Warn("spool snapshot", slog.String("room", sp.key.room), slog.Any("error", err))
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, s.cfg.MaxDuration)
	defer cancel()
	began := time.Now()
	w := &spoolWriter{sp: sp, metrics: s.metrics}
	if sp.key.coding == zstdCode {
		w.encoder = s.encoders.Get().(*zstd.Encoder)
		w.encoder.Reset(sp)
		defer func() {
			w.encoder.Reset(nil)
			s.encoders.Put(w.encoder)
		}()
	}
	err = s.cfg.Source.Snapshot(ctx, sp.key.room, func(snap format.Snapshot) error {
		sp.begin(snap.Header())
		_, err := format.WriteSnapshot(ctx, w, snap)
		return err
	})
	if err == nil && w.encoder != nil {
		err = w.encoder.Close()
	}
	if err == nil {
		s.metrics.spools.Inc()
		s.cfg.Logger.Info("snapshot spooled", slog.String("room", sp.key.room), slog.Int64("seq", sp.header.Seq),
			slog.String("coding", string(sp.key.coding)), slog.Duration("took", time.Since(began)))
	}
	return err
}

// spoolWriter is the upper end of a spool. It flushes the first write, the snapshot's header, at once.
type spoolWriter struct {
	sp      *spool
	encoder *zstd.Encoder // nil for identity
	metrics *metrics
	begun   bool
}

func (w *spoolWriter) Write(p []byte) (n int, err error) {
	w.metrics.raw.Add(float64(len(p)))
	if w.encoder == nil {
		return w.sp.Write(p)
	}
	n, err = w.encoder.Write(p)
	if !w.begun && err == nil {
		w.begun = true
		err = w.encoder.Flush()
	}
	return n, err
}

// serveFile answers with the file or the requested part of it.
func (st *stream) serveFile(r *http.Request, file io.ReadSeeker) error {
	st.setHeaders()
	st.begun = true
	http.ServeContent(&answer{st: st}, r, "", time.Time{}, file)
	if st.err != nil {
		return st.err
	}
	return st.flushSocket()
}

// answer is a ResponseWriter that keeps to the stream's deadlines and sends errors in this package's form.
type answer struct {
	st      *stream
	refused bool
}

func (a *answer) Header() http.Header { return a.st.w.Header() }

func (a *answer) WriteHeader(status int) {
	if a.refused = status >= http.StatusBadRequest; !a.refused {
		a.st.w.WriteHeader(status)
		return
	}
	a.Header().Del("Content-Encoding")
	wire.WriteError(a.st.w, status, wire.NewError(wire.CodeBadRequest, "%s", http.StatusText(status)))
}

func (a *answer) Write(p []byte) (int, error) {
	if a.refused {
		return len(p), nil // a plain text, which our error replaced
	}
	return (*socket)(a.st).Write(p)
}
