package realtime

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"github.com/canopysync/canopy/realtime/wire"
)

// write sends to the socket until the session closes: replies first, then the room's data. Nothing waits for the
// socket: data ahead of its place stays where it is.
func (s *session) write(ctx context.Context) {
	ping := time.NewTicker(s.srv.cfg.Timing.Ping)
	defer ping.Stop()
	w := writer{session: s, chunk: newChunk(s.srv.cfg.Limits)}
	for ctx.Err() == nil {
		sent, err := w.step(ctx)
		if err != nil {
			s.close(wire.CloseOverloaded, "") // the reader must not wait for room any more
			_ = s.conn.Close()
			return
		}
		if sent {
			select {
			case <-ping.C:
				w.ping()
			default:
			}
			continue
		}
		if w.closeIfDone() {
			return
		}
		select {
		case <-ctx.Done():
		case <-s.wake:
		case <-ping.C:
			w.ping()
		}
	}
}

// writer is the state of the writing goroutine alone.
type writer struct {
	*session
	chunk       chunk
	behindSince time.Time // since when an up-to-date socket has fallen behind; zero: it has not
}

// step sends one frame if there is one.
func (w *writer) step(ctx context.Context) (sent bool, err error) {
	if data := w.nextReply(); data != nil {
		return true, w.send("reply", len(data), func() error {
			return w.conn.WriteMessage(frameType(w.codec), data)
		})
	}
	if w.closeFrame() != nil || !w.inside.Load() {
		return false, nil
	}
	f, behind := w.hub.next(w.session)
	w.watchLag(behind)
	if f == nil && behind {
		f = w.catchUp(ctx)
		if f == nil {
			return w.closeFrame() == nil, nil
		}
	}
	if f == nil {
		return false, nil
	}
	prepared, size, err := f.prepare(w.codec)
	if err != nil {
		w.log.Error("encode frame", "kind", f.kind, "error", err)
		return false, err
	}
	return true, w.send(f.kind, size, func() error { return w.conn.WritePreparedMessage(prepared) })
}

func (w *writer) nextReply() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.replies) == 0 {
		w.replies = nil // its array may be large
		return nil
	}
	data := w.replies[0]
	w.replies[0] = nil
	w.replies = w.replies[1:]
	w.queued -= len(data)
	signal(w.room)
	return data
}

// send writes one frame. After a frame cut off in the middle nothing more can be sent on the connection, so the
// deadline is generous; a peer that was too slow is told so.
func (w *writer) send(kind string, size int, write func() error) error {
	begin := time.Now()
	lag, deadline := w.srv.cfg.Timing.Lag, begin.Add(2*w.srv.cfg.Timing.Lag)
	if w.closeFrame() != nil {
		deadline = begin.Add(w.srv.cfg.Timing.Close)
	}
	_ = w.conn.SetWriteDeadline(deadline)
	if err := write(); err != nil {
		return fmt.Errorf("write %s: %w", kind, err)
	}
	w.srv.metrics.sentFrames.WithLabelValues(kind).Inc()
	w.srv.metrics.sentBytes.Add(float64(size))
	if time.Since(begin) > lag {
		w.close(wire.CloseOverloaded, "too slow: reconnect and catch up")
	}
	return nil
}

// watchLag closes a socket that was up to date and then stayed behind the tail for too long.
func (w *writer) watchLag(behind bool) {
	if !behind {
		w.behindSince = time.Time{}
		return
	}
	if w.behindSince.IsZero() && w.hub.wasLive(w.session) {
		w.behindSince = time.Now()
	}
	if !w.behindSince.IsZero() && time.Since(w.behindSince) > w.srv.cfg.Timing.Lag {
		w.close(wire.CloseOverloaded, "too slow: reconnect and catch up")
	}
}

// ping asks for a sign of life; the reader gives up on a peer that gives none.
func (w *writer) ping() {
	_ = w.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(w.srv.cfg.Timing.Lag))
}

// closeIfDone sends the close frame when everything before it is sent, and gives the peer some time
// to answer it.
func (w *writer) closeIfDone() bool {
	w.mu.Lock()
	frame, ready := w.closing, w.inFlight == 0 && len(w.replies) == 0
	w.mu.Unlock()
	if frame == nil || !ready {
		return false
	}
	deadline := time.Now().Add(w.srv.cfg.Timing.Close)
	_ = w.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(frame.code, clip(frame.reason)), deadline)
	_ = w.conn.SetReadDeadline(deadline)
	w.srv.metrics.closed.WithLabelValues(strconv.Itoa(frame.code)).Inc()
	return true
}

// clip shortens a reason to fit into a close frame, as valid UTF-8.
func clip(reason string) string { return strings.ToValidUTF8(reason[:min(len(reason), 123)], "") }

// next returns the room's next frame for a socket; behind is set if the op right after the socket's cursor is no
// longer in the tail and must be read from the log.
func (h *hub) next(s *session) (f *frame, behind bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := &s.place
	if !p.greeted {
		return nil, false
	}
	if p.resync != nil {
		f = newFrame(*p.resync)
		p.resync = nil
		return f, false
	}
	if p.peers < h.peers.version {
		p.peers = h.peers.version
		return h.peers.frame, false
	}
	if p.synced && p.cursor < h.relayed {
		if ops := h.behind(p); ops != nil {
			p.cursor = ops.to
			return ops.frame, false
		}
		return nil, true
	}
	p.wasLive = p.synced
	if p.presence < h.presence.published {
		f, p.presence = h.presence.after(p.presence, p.joinedAt, h.srv.cfg.Limits.MaxFrame)
		if f != nil {
			return f, false
		}
	}
	if p.synced && p.head < h.headVer && p.cursor == h.headSeq { // otherwise something has come since
		p.head = h.headVer
		return h.head, false
	}
	return nil, false
}

// behind returns the next frame of ops from the tail, nil if it is not there: for a socket that is up
// to date the one that all of them share. The caller holds mu.
func (h *hub) behind(p *place) *opsFrame {
	if p.wasLive {
		return h.tail.after(p.cursor)
	}
	return h.tail.together(p.cursor, h.srv.cfg.Limits.MaxOps, h.srv.cfg.Limits.MaxFrame)
}

func (h *hub) wasLive(s *session) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return s.place.wasLive
}

// catchUp reads the ops right after the socket's cursor from the log. It returns nil if they are in the tail now, and
// if it failed; then the cursor is unchanged, or the socket has been told.
func (w *writer) catchUp(ctx context.Context) *frame {
	w.hub.mu.Lock()
	at := w.place
	w.hub.mu.Unlock()
	if w.hub.backfill(ctx, at.cursor) {
		return nil
	}
	select {
	case w.srv.readers <- struct{}{}:
		defer func() { <-w.srv.readers }()
	case <-ctx.Done():
		return nil
	}
	w.srv.metrics.catchUps.Inc()
	ops, err := w.hub.readOps(ctx, at.cursor, w.chunk.n)
	if compacted(err) {
		w.lost(ctx, at.cursor)
		return nil
	}
	if err != nil {
		_ = w.srv.storeError(w.log, "read ops", err) // logged there
		w.pause(ctx)
		return nil
	}
	if len(ops) == 0 || !contiguous(ops, at.cursor) {
		w.lost(ctx, at.cursor)
		return nil
	}
	w.chunk.adapt(ops)
	f, _ := takeFrame(ops, w.srv.cfg.Limits.MaxFrame)
	if !w.hub.advance(w.session, at.generation, f.to) {
		return nil
	}
	return f.frame
}

// advance moves a cursor unless somebody else has set it meanwhile.
func (h *hub) advance(s *session, generation int, to int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.place.generation != generation {
		return false
	}
	s.place.cursor = to
	return true
}

// lost finds out why the log does not have the ops after a cursor: history was folded or replaced. If neither, the log
// is damaged and the socket cannot be served.
func (w *writer) lost(ctx context.Context, cursor int64) {
	if _, err := w.hub.refresh(ctx); err != nil {
		w.pause(ctx)
		return
	}
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	if !w.place.synced || w.place.cursor != cursor {
		return
	}
	if cursor < w.hub.minSeq {
		w.hub.unsync(w.session, wire.ResyncCompacted)
		return
	}
	w.log.Error("the log has a hole", "after", cursor)
	w.close(wire.CloseOverloaded, "internal error")
}

// pause keeps a socket from asking a store that fails over and over.
func (w *writer) pause(ctx context.Context) {
	timer := time.NewTimer(w.srv.cfg.Timing.Poll)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
