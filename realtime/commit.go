package realtime

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// job is a checked push on its way into the log.
type job struct {
	ops []moveop.Op
	// epoch is the history of the author's cursor; empty if it has none.
	epoch string
	// done is called exactly once, from the hub's goroutine; it must not block.
	done func(wire.Applied, error)
	// traces are the spans of the pushes that it is made of.
	traces []trace.Link
}

// submit hands a job to the committer, and waits if many are ahead. The caller keeps the hub alive until done is
// called, which happens unless submit fails.
func (h *hub) submit(ctx context.Context, j *job) error {
	h.srv.tracing.push(ctx, h.room, j)
	select {
	case h.jobs <- j:
		return nil
	case <-ctx.Done():
		return wire.NewError(wire.CodeBusy, "the server is overloaded or stopping")
	}
}

// commitLoop applies one transaction at a time; pushes that arrive meanwhile go together into the
// next one. It outlives a cancelled ctx, so that every job is answered.
func (h *hub) commitLoop(ctx context.Context) {
	q := queue{most: h.srv.cfg.Limits.MaxOps}
	for {
		if len(q.waiting) == 0 {
			select {
			case <-h.quit:
				return
			case j := <-h.jobs:
				q.waiting = append(q.waiting, j)
			}
		}
		q.fill(h.jobs)
		h.commitGuarded(ctx, q.next())
	}
}

// commitGuarded answers every job of the group, whatever happens.
func (h *hub) commitGuarded(ctx context.Context, group []*job) {
	answered := 0
	answer := func(applied wire.Applied, err error) {
		j := group[answered]
		answered++
		j.done(applied, err)
	}
	h.srv.guard(h.log, func() { h.commit(ctx, group, answer) })
	for answered < len(group) { // it panicked
		answer(wire.Applied{}, wire.NewError(wire.CodeInternal, "internal error"))
	}
}

// commit applies a group as one batch, and answers the jobs in order. A batch is atomic: if the group is refused,
// each job is applied by itself, so that only the faulty one is refused.
func (h *hub) commit(ctx context.Context, group []*job, answer func(wire.Applied, error)) {
	if len(group) > 1 && h.commitTogether(ctx, group, answer) {
		return
	}
	for _, j := range group {
		h.srv.metrics.grouped.Observe(1)
		answer(h.apply(ctx, j))
	}
}

func (h *hub) commitTogether(ctx context.Context, group []*job, answer func(wire.Applied, error)) bool {
	var all job
	for _, j := range group {
		if h.foreign(j) != nil {
			return false
		}
		all.ops = append(all.ops, j.ops...)
		all.epoch = cmp.Or(all.epoch, j.epoch) // the one that they have in common
		all.traces = append(all.traces, j.traces...)
	}
	applied, err := h.apply(ctx, &all)
	if err != nil {
		return false // applying what was perhaps committed again is harmless
	}
	h.srv.metrics.grouped.Observe(float64(len(group)))
	results := applied.Results
	for _, j := range group {
		answer(wire.Applied{Head: applied.Head, Results: results[:len(j.ops)]}, nil)
		results = results[len(j.ops):]
	}
	return true
}

// apply applies one batch. Its error is always a *wire.Error.
func (h *hub) apply(ctx context.Context, j *job) (applied wire.Applied, err error) {
	if err := h.foreign(j); err != nil {
		return wire.Applied{}, err
	}
	ctx, end := h.srv.tracing.apply(ctx, h.room, j)
	defer func() { end(err) }()
	ctx, cancel := h.srv.storeContext(ctx)
	defer cancel()
	begin := time.Now()
	applied, history, err := h.write(ctx, j)
	h.srv.metrics.commits.Observe(time.Since(begin).Seconds())
	if err != nil {
		return wire.Applied{}, h.srv.storeError(h.log, "apply batch", err)
	}
	if len(applied.Results) != len(j.ops) {
		h.log.Error("the store returned the wrong number of results", "ops", len(j.ops), "results", len(applied.Results))
		return wire.Applied{}, wire.NewError(wire.CodeInternal, "internal error")
	}
	h.commits(applied.Head)
	h.srv.tracing.committed(ctx, h)
	atHand := h.relayCommitted(ctx, history, logged(j.ops, applied))
	h.tell(applied.Head)
	if !atHand {
		signal(h.dirty) // after which the ops are told that wait to be read
	}
	return applied, nil
}

// write has the store apply a batch, and returns the history that it went into. The batch creates a room that does
// not exist yet, with the epoch that its sockets were told, unless another process was first.
func (h *hub) write(ctx context.Context, j *job) (applied wire.Applied, history int, err error) {
	h.mu.Lock()
	exists, epoch, before, history := h.exists, h.epoch, h.relayed, h.history
	h.mu.Unlock()
	if exists {
		applied, err = h.srv.cfg.Store.Apply(ctx, h.room, j.ops)
		return applied, history, err
	}
	room, applied, err := h.srv.cfg.Store.ApplyFirst(ctx, h.room, epoch, j.ops)
	if err != nil {
		return applied, history, err
	}
	h.adopt(room, before)
	if room.Epoch == epoch {
		return applied, history, nil
	}
	if err := h.foreign(j); err != nil {
		return applied, history, err
	}
	return h.write(ctx, j)
}

// logged returns a committed batch as it is in the log now, which Store.Apply guarantees. It returns nil if that is
// unknown without reading the log, because there were duplicates or corrections.
func logged(ops []moveop.Op, applied wire.Applied) []moveop.Op {
	before := applied.Head - int64(len(ops))
	as := make([]moveop.Op, len(ops))
	for i, r := range applied.Results {
		if r.Status == wire.StatusDuplicate || r.Seq != before+1+int64(i) {
			return nil
		}
		as[i] = ops[i]
		as[i].Seq, as[i].Known = r.Seq, min(ops[i].Known, before)
	}
	return as
}

// relayCommitted appends the ops just committed to the tail, without reading them from the log, and reports whether
// it could: if another process has committed in between, the tail ends before them.
func (h *hub) relayCommitted(ctx context.Context, history int, ops []moveop.Op) bool {
	if len(ops) == 0 || ops[0].Seq > h.seq()+1 {
		return false
	}
	_, end := h.srv.tracing.relay(ctx, h)
	defer end()
	h.extend(history, ops)
	return h.seq() >= ops[len(ops)-1].Seq
}

// commits notes a head that is about to be acknowledged, though it is not relayed yet, so that anybody who asks for
// the head after an acknowledgement, even over another socket, gets at least the acknowledged one.
func (h *hub) commits(head int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.committed = max(h.committed, head)
}

// foreign refuses a job whose author's cursor belongs to another history: the ops' known means nothing in this one.
// The author has been sent a resync, and pushes again after it.
func (h *hub) foreign(j *job) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if j.epoch != "" && j.epoch != h.epoch {
		return wire.NewError(wire.CodeBusy, "the room's history was replaced: resync, then push again")
	}
	return nil
}

// answerPush makes the reply to a push from its outcome.
func (s *Server) answerPush(id string, applied wire.Applied, err error) wire.Message {
	if err == nil {
		s.metrics.pushes.WithLabelValues("ack").Inc()
		s.metrics.pushedOps.Add(float64(len(applied.Results)))
		return wire.Ack{ID: id, Head: applied.Head, Results: applied.Results}
	}
	nack := wire.Nack{ID: id, Error: *wire.AsError(err)}
	if nack.ServerTime == 0 { // where the store judged the time, it is the store's clock that counts
		nack.ServerTime = s.cfg.Now().UnixMilli()
	}
	s.metrics.pushes.WithLabelValues(string(nack.Code)).Inc()
	return nack
}

// checkPush makes the checks that do not need the log, and clears the fields that only the server sets.
func (s *Server) checkPush(replica moveop.ReplicaID, ops []moveop.Op) error {
	if len(ops) == 0 {
		return wire.NewError(wire.CodeBadRequest, "a push needs at least one op")
	}
	if limit := s.cfg.Limits.MaxOps; len(ops) > limit {
		return wire.NewError(wire.CodeTooLarge, "%d ops in one push, the limit is %d", len(ops), limit)
	}
	for i := range ops {
		op := &ops[i]
		if err := op.Validate(s.cfg.Limits.Op); err != nil {
			return wire.OpError(wire.CodeInvalidOp, op.TS, "%s", err.Error())
		}
		if op.TS.Replica() != replica {
			return wire.OpError(wire.CodeForbiddenReplica, op.TS, "the op is by replica %s, the session is replica %s's", op.TS.Replica(), replica)
		}
		if i > 0 && ops[i-1].TS == op.TS && !ops[i-1].SameBody(*op) {
			return wire.OpError(wire.CodeConflict, op.TS, "the batch has two different ops with this timestamp")
		}
		if i > 0 && !ops[i-1].TS.Before(op.TS) {
			return wire.OpError(wire.CodeOutOfOrder, op.TS, "the batch is not in ascending order of timestamps")
		}
		op.Seq, op.Cause = 0, moveop.Timestamp{}
	}
	return nil
}

// storeError turns the error of a store call into the client's error: refusals and unknown rooms stay as they are, a
// deadline or a lost database becomes busy, anything else internal. It logs the latter two, but only some if there
// are many, as when the database is lost.
func (s *Server) storeError(log logger, doing string, err error) *wire.Error {
	if refused, ok := errors.AsType[*wire.Error](err); ok {
		return refused
	}
	if errors.Is(err, wire.ErrUnknownRoom) {
		return wire.UnknownRoom()
	}
	if errors.Is(err, context.Canceled) { // by the peer, or by a drain cut short
		return wire.NewError(wire.CodeBusy, "the request was cancelled")
	}
	s.metrics.storeFails.Inc()
	if s.faults.allow() {
		log.Error(doing, "error", err)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return wire.NewError(wire.CodeBusy, "the database took too long")
	}
	return wire.AsError(err)
}

// storeContext bounds one store call.
func (s *Server) storeContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.cfg.Timing.Store)
}

// throttle lets one event through in each interval.
type throttle struct {
	mu    sync.Mutex
	every time.Duration
	last  time.Time
}

func (t *throttle) allow() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.last.IsZero() && time.Since(t.last) < t.every {
		return false
	}
	t.last = time.Now()
	return true
}

// logger is the part of slog.Logger that faults are logged with.
type logger interface {
	Error(msg string, args ...any)
}
