package realtime

import (
	"context"
	"errors"
	"time"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// relay appends the ops committed since the last time to the tail and wakes the sockets.
func (h *hub) relay(ctx context.Context) {
	ctx, end := h.srv.tracing.relay(ctx, h)
	defer end()
	defer h.tellOps()
	for {
		after, history := h.position()
		limit := h.chunk.n
		ops, err := h.readOps(ctx, after, limit)
		if compacted(err) && h.skip(ctx, after) {
			continue
		}
		if err != nil {
			if !errors.Is(err, wire.ErrUnknownRoom) && ctx.Err() == nil {
				_ = h.srv.storeError(h.log, "read ops", err) // logged there; the next poll tries again
			}
			return
		}
		if !contiguous(ops, after) {
			h.log.Error("the log has a hole", "after", after)
			return
		}
		h.chunk.adapt(ops)
		h.extend(history, ops)
		if len(ops) < limit {
			return
		}
	}
}

// compacted reports whether a store no longer has the ops asked for.
func compacted(err error) bool {
	refused, ok := errors.AsType[*wire.Error](err)
	return ok && refused.Code == wire.CodeCompacted
}

// skip continues after ops that were folded before they were relayed from here, and reports whether that was the case.
// A socket that has not got them finds out from the log that it needs a snapshot.
func (h *hub) skip(ctx context.Context, after int64) bool {
	if _, err := h.refresh(ctx); err != nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.relayed != after || h.minSeq <= after {
		return false
	}
	h.log.Warn("ops were folded before they were relayed", "from", after+1, "to", h.minSeq)
	h.tail.clear()
	h.relayed = h.minSeq
	h.wakeAll()
	return true
}

func (h *hub) readOps(ctx context.Context, after int64, limit int) ([]moveop.Op, error) {
	ctx, cancel := h.srv.storeContext(ctx)
	defer cancel()
	return h.srv.cfg.Store.OpsAfter(ctx, h.room, after, limit)
}

// position is a history and the seq up to which it was relayed.
func (h *hub) position() (seq int64, history int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.relayed, h.history
}

// extend appends ops read from a history to the tail, unless another history was adopted in between.
func (h *hub) extend(history int, ops []moveop.Op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.history == history {
		h.take(ops)
	}
}

// take appends those of the ops that directly follow the tail, and returns their number. Others may have arrived
// meanwhile from another process. The caller holds mu.
func (h *hub) take(ops []moveop.Op) (taken int) {
	for len(ops) > 0 && ops[0].Seq <= h.relayed {
		ops = ops[1:]
	}
	if len(ops) == 0 || ops[0].Seq != h.relayed+1 {
		return 0
	}
	taken = len(ops)
	h.srv.metrics.relayed.Add(float64(taken))
	for len(ops) > 0 {
		var f *opsFrame
		f, ops = takeFrame(ops, h.srv.cfg.Limits.MaxFrame)
		h.tail.push(f)
		h.relayed = f.to
	}
	h.exists = true
	h.committed = max(h.committed, h.relayed)
	h.lastSent = time.Now()
	h.wakeAll()
	return taken
}

func (h *hub) seq() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.relayed
}

// chunk is how many ops to read at a time: few where they are large, since a store bounds its answer
// in ops and memory is bounded in bytes.
type chunk struct {
	n, max int
	bytes  int // aim
}

func newChunk(limits Limits) chunk {
	return chunk{n: min(128, limits.MaxOps), max: limits.MaxOps, bytes: int(limits.MaxFrame)}
}

func (c *chunk) adapt(ops []moveop.Op) {
	size := 0
	for i := range ops {
		size += opSize(&ops[i])
	}
	switch {
	case size > 2*c.bytes:
		c.n = max(1, len(ops)*c.bytes/size)
	case len(ops) == c.n:
		c.n = min(c.max, 2*c.n)
	}
}
