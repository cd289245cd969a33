package realtime

import (
	"context"
	"errors"
	"time"

	"github.com/canopysync/canopy/realtime/wire"
)

// poll reads the room's row to find other processes' commits and a replaced history, and sends the head if nothing
// has happened for a while.
func (h *hub) poll(ctx context.Context) {
	if h.sleeping.Load() {
		return
	}
	room, err := h.refresh(ctx)
	if err != nil {
		return
	}
	if room.Head > h.seq() {
		h.relay(ctx)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.presence.expire(h)
	idle := time.Since(h.lastSent) >= h.srv.cfg.Timing.Head
	if !idle || room.Head != h.relayed || room.Epoch != h.epoch {
		return // the digest belongs to room.Head and to nothing else
	}
	h.head, h.headSeq = newFrame(wire.Head{Head: room.Head, Digest: room.Digest}), room.Head
	h.headVer++
	h.lastSent = time.Now()
	h.wakeAll()
}

// refresh reads the room's row and adopts it. A room that does not exist gives the proposed one.
func (h *hub) refresh(ctx context.Context) (wire.Room, error) {
	ctx, cancel := h.srv.storeContext(ctx)
	defer cancel()
	before := h.seq()
	room, err := h.srv.cfg.Store.Room(ctx, h.room)
	if errors.Is(err, wire.ErrUnknownRoom) {
		h.mu.Lock()
		defer h.mu.Unlock()
		return wire.Room{Name: h.room, Epoch: h.epoch}, nil
	}
	if err != nil {
		return wire.Room{}, h.srv.storeError(h.log, "read room", err)
	}
	h.adopt(room, before)
	return room, nil
}

// reach reads the room's row if a cursor is ahead of the head known here, or of another history: another process, or a
// snapshot, may know more. Sockets that arrive together, from a process that has ended, share one read.
func (h *hub) reach(ctx context.Context, epoch string, seq int64) error {
	for range 2 { // a read that was under way may have begun before what this socket knows was committed
		if h.reached(epoch, seq) {
			return nil
		}
		_, err, shared := h.looks.Do("", func() (any, error) {
			return h.refresh(context.WithoutCancel(ctx)) // whoever asked first may be gone before the others
		})
		if err != nil || !shared {
			return err
		}
	}
	return nil
}

// reached reports whether a cursor is not news. One without an epoch is of no history.
func (h *hub) reached(epoch string, seq int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return seq <= h.committed && (epoch == "" || epoch == h.epoch)
}

// adopt takes over the room's row. before is the seq relayed when the read began: a head behind it means that the
// history was cut, whatever the epoch.
func (h *hub) adopt(room wire.Room, before int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.exists, h.minSeq = true, room.MinSeq
	if room.Epoch == h.epoch && room.Head >= before {
		if room.Head > h.committed {
			h.committed = room.Head
			signal(h.dirty)
		}
		return
	}
	h.log.Warn("the room's history was replaced", "epoch", room.Epoch, "head", room.Head)
	h.history++
	h.epoch, h.committed, h.relayed, h.told = room.Epoch, room.Head, room.Head, room.Head
	h.away.spread = room.Head
	h.tail.clear()
	for s := range h.members {
		h.unsync(s, wire.ResyncEpoch)
	}
	h.wakeAll()
}

// unsync takes a socket's cursor away and has it told why. The caller holds mu.
func (h *hub) unsync(s *session, reason string) {
	h.srv.metrics.resyncs.WithLabelValues(reason).Inc()
	s.place.synced = false
	s.place.generation++
	s.place.resync = &wire.Resync{Reason: reason, Epoch: h.epoch, Head: h.committed}
}

// seek moves a socket's cursor, or has it told that it cannot be served. The caller holds mu.
func (h *hub) seek(s *session, epoch string, seq int64) {
	switch {
	case seq == 0 && h.minSeq == 0: // everything, whatever history the socket thought of
	case seq != 0 && (epoch != h.epoch || seq > h.committed):
		h.unsync(s, wire.ResyncEpoch)
		return
	case seq < h.minSeq:
		h.unsync(s, wire.ResyncCompacted)
		return
	}
	s.place.synced, s.place.cursor, s.place.epoch = true, seq, h.epoch
	s.place.resync, s.place.wasLive = nil, false
	s.place.generation++
}

// known reports whether the room exists.
func (h *hub) known() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.exists
}

// mustExist reads the row again if the room did not exist: another process may have created it.
func (h *hub) mustExist(ctx context.Context) error {
	if h.known() {
		return nil
	}
	if _, err := h.refresh(ctx); err != nil {
		return err
	}
	if !h.known() {
		return wire.UnknownRoom()
	}
	return nil
}
