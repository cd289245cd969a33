package realtime

import (
	"container/list"
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// Sockets leave together (a proxy restarts, a network breaks) and come back together. So the hub of an existing room
// lingers after its last user, with the tail that they will need. It sleeps meanwhile: it reads nothing and its tail
// does not grow. The first to come back has it read the room's row once for all.

// retire lets a hub without users linger, and returns the hubs that must end now, perhaps including this one. The
// caller holds mu.
func (s *Server) retire(h *hub) (ending []*hub) {
	size, exists := h.size()
	if s.draining || !exists || s.cfg.Timing.Linger < 0 {
		return []*hub{s.forget(h)}
	}
	h.sleeping.Store(true)
	h.idleBytes, h.idleSince = size, time.Now()
	h.idle = s.idle.PushBack(h)
	s.idleBytes += size
	h.bedtime = time.AfterFunc(s.cfg.Timing.Linger, func() { s.expire(h) })
	for s.idle.Len() > s.cfg.Limits.IdleRooms || s.idleBytes > s.cfg.Limits.IdleBytes {
		ending = append(ending, s.forget(s.idle.Front().Value.(*hub)))
	}
	s.metrics.lingering.Set(float64(s.idle.Len()))
	return ending
}

// wake takes a hub out of its sleep. The caller holds mu.
func (s *Server) wake(h *hub) {
	if h.idle == nil {
		return
	}
	if time.Since(h.idleSince) > s.cfg.Timing.Poll {
		h.stale.Store(true)
	}
	s.rouse(h)
	h.sleeping.Store(false)
	signal(h.pace)
}

// rouse takes a hub from the list of those that linger. The caller holds mu.
func (s *Server) rouse(h *hub) {
	h.bedtime.Stop()
	s.idle.Remove(h.idle)
	s.idleBytes -= h.idleBytes
	h.idle = nil
	s.metrics.lingering.Set(float64(s.idle.Len()))
}

// forget takes a hub out of the server's books; it is the caller's to end. The caller holds mu.
func (s *Server) forget(h *hub) *hub {
	if h.idle != nil {
		s.rouse(h)
	}
	delete(s.hubs, h.room)
	return h
}

// expire ends a hub that has lingered for long enough, unless somebody has come meanwhile.
func (s *Server) expire(h *hub) {
	s.mu.Lock()
	due := h.idle != nil && time.Since(h.idleSince) >= s.cfg.Timing.Linger
	if due {
		s.forget(h)
	}
	s.mu.Unlock()
	if due {
		h.end()
	}
}

// endIdle ends all hubs that linger, at once.
func (s *Server) endIdle() {
	var ending []*hub
	s.mu.Lock()
	for e := s.idle.Front(); e != nil; e = s.idle.Front() {
		ending = append(ending, s.forget(e.Value.(*hub)))
	}
	s.mu.Unlock()
	for _, h := range ending {
		h.end()
	}
}

// lingering is a hub's state while it has no users, guarded by srv.mu but for the two flags.
type lingering struct {
	idle      *list.Element // in srv.idle; nil while there are users
	idleSince time.Time
	idleBytes int
	bedtime   *time.Timer

	sleeping atomic.Bool // nothing is read from the store
	stale    atomic.Bool // it has slept for so long that the room's row is to be read first
}

func (h *hub) size() (bytes int, exists bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.tail.bytes, h.exists
}

// freshen reads the room's row if the hub has slept. The caller holds loading, so everybody else who
// comes waits for this one read.
func (h *hub) freshen(ctx context.Context) error {
	if !h.stale.Load() {
		return nil
	}
	if _, err := h.refresh(ctx); err != nil {
		return err
	}
	h.stale.Store(false)
	return nil
}

// backfill extends the tail back to a cursor that is a little behind it, by one read for all such sockets: after a
// restart they all need about the same ops. It reports whether the tail has them now; if not, the socket must read
// for itself.
func (h *hub) backfill(ctx context.Context, cursor int64) bool {
	_, err, _ := h.fills.Do("", func() (any, error) { return nil, h.fill(ctx, cursor) })
	if err != nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.tail.after(cursor) != nil
}

// fill puts ops in front of the tail, if that is of use to the cursor.
func (h *hub) fill(ctx context.Context, cursor int64) error {
	most := int64(h.srv.cfg.Limits.MaxOps)
	h.mu.Lock()
	start, epoch := h.tailStart(), h.epoch
	after := max(h.minSeq, start-1-most)
	useless := h.tail.after(cursor) != nil || cursor < after || h.tail.bytes > h.tail.limit/2
	h.mu.Unlock()
	if useless {
		return nil
	}
	limit := int(start - 1 - after)
	h.srv.metrics.catchUps.Inc()
	ops, err := h.readOps(ctx, after, limit)
	if err != nil {
		return err
	}
	if len(ops) != limit || !contiguous(ops, after) {
		return fmt.Errorf("%d ops after %d, not %d", len(ops), after, limit)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.epoch == epoch && h.tailStart() == start {
		h.tail.prepend(ops, h.srv.cfg.Limits.MaxFrame)
	}
	return nil
}

// tailStart is the first seq that the tail has, or will have. The caller holds mu.
func (h *hub) tailStart() int64 {
	if len(h.tail.frames) == 0 {
		return h.relayed + 1
	}
	return h.tail.frames[0].from
}
