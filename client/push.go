package client

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// pushing is the state of pushing on one connection. One batch is on its way at a time.
type pushing struct {
	inflight []moveop.Op
	pushed   time.Time // when it was sent
	id       int64
	after    time.Time // not before
	adopted  bool      // the outbox was looked through for operations under an earlier replica id
}

const (
	// forbiddenWait is how long to wait after the server said that the token does not allow pushing:
	// rights change, but seldom.
	forbiddenWait = time.Minute
	// answerTimeout is how long the server may take to answer a push while it sends other messages; then it
	// has lost the push. It allows itself 30 s, and its earlier messages must be read first.
	answerTimeout = 2 * time.Minute
	// slowClock is how far our clock may be behind the server's when it finds operations too old.
	slowClock = time.Second
	// besideOthers is the maximum number of operations of a push while others are in the room, because they wait
	// while it is committed. With fewer, we would wait for the network more than for the server.
	besideOthers = 50
	// pushOverhead is the size in bytes of a push without its operations.
	pushOverhead = 256
)

// push sends the next batch if it is time to, or returns how long until it may be. It waits until the client has
// caught up: operations whose acknowledgement was lost have come back by then and left the outbox.
func (l *link) push(ctx context.Context) (later time.Duration, err error) {
	m := l.c.store.meta.Load()
	if l.inflight != nil && time.Since(l.pushed) > answerTimeout {
		return 0, errors.New("the server did not answer a push in time")
	}
	if !l.caughtUp || l.inflight != nil || m.pending == m.refused {
		return pingInterval, nil
	}
	if wait := time.Until(l.after); wait > 0 {
		return wait, nil
	}
	if ready, err := l.adopt(ctx); err != nil || !ready {
		return pingInterval, err
	}
	batch, err := l.nextBatch(ctx)
	if err != nil || len(batch) == 0 {
		return pingInterval, err
	}
	if !l.ofOurs(l.c.store.meta.Load()) {
		return 0, errLoaded // an edit's Known may be of another history
	}
	frame, err := l.conn.Codec.Encode(wire.Push{ID: strconv.FormatInt(l.id+1, 10), Ops: batch})
	if err != nil {
		return 0, err
	}
	if l.limits.MaxFrame > 0 && int64(len(frame)) > l.limits.MaxFrame {
		e := wire.NewError(wire.CodeTooLarge, "a push of %d bytes, the server takes %d", len(frame), l.limits.MaxFrame)
		return 0, l.refuseOp(ctx, batch[0].TS, e) // alone in its batch, or it would fit
	}
	l.id++
	l.inflight, l.pushed = batch, time.Now()
	l.c.store.unsure.Store(true)
	return pingInterval, l.conn.Write(frame)
}

// adopt stamps operations made under an earlier replica id anew, once. During the first load that must wait: the
// server may have got some of them without our knowing.
func (l *link) adopt(ctx context.Context) (ready bool, err error) {
	if l.adopted {
		return true, nil
	}
	err = l.c.store.update(ctx, Local, func(t *txn) error {
		strangers, err := t.strangers(t.meta.replica)
		if ready = !strangers || !t.meta.partial; err != nil || !strangers || !ready {
			return err
		}
		return t.restamp()
	})
	if err != nil {
		return false, fmt.Errorf("stamp pending operations anew: %w", err)
	}
	l.adopted = ready
	return ready, nil
}

func (l *link) nextBatch(ctx context.Context) (batch []moveop.Op, err error) {
	n := l.maxBatch
	if l.limits.MaxOps > 0 {
		n = min(n, l.limits.MaxOps)
	}
	if len(l.c.Peers()) > 0 {
		n = min(n, besideOthers)
	}
	bytes := int64(1 << 20)
	if l.limits.MaxFrame > 0 {
		bytes = l.limits.MaxFrame
	}
	err = l.c.store.view(ctx, func(s *session) error {
		batch, err = s.batch(n, bytes-pushOverhead)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read outbox: %w", err)
	}
	return batch, nil
}

// ack takes what was acknowledged out of the outbox.
func (l *link) ack(ctx context.Context, ack wire.Ack) error {
	if err := l.answered(ack.ID); err != nil {
		return err
	}
	if err := answersFor(l.inflight, ack); err != nil {
		return err
	}
	err := l.c.store.update(ctx, Remote, func(t *txn) error {
		if !l.ofOurs(&t.meta) {
			return errLoaded
		}
		return t.acknowledge(ack.Results)
	})
	if err != nil {
		return fmt.Errorf("record acknowledgement: %w", err)
	}
	l.inflight = nil
	l.c.store.unsure.Store(false)
	l.maxBatch = min(2*l.maxBatch, wire.DefaultLimit)
	l.backoff.Reset()
	l.c.setProgress(func(p *progress) { p.head, p.err = max(p.head, ack.Head), nil })
	return nil
}

func (l *link) answered(id string) error {
	if l.inflight == nil || id != strconv.FormatInt(l.id, 10) {
		return fmt.Errorf("the server answered push %q, which is not under way", id)
	}
	return nil
}

// answersFor checks that an acknowledgement covers exactly the pushed operations: one left out would be pushed again
// at once, one added would be dropped though nobody has it.
func answersFor(batch []moveop.Op, ack wire.Ack) error {
	pushed := make(map[moveop.Timestamp]bool, len(batch))
	for i := range batch {
		pushed[batch[i].TS] = true
	}
	for _, r := range ack.Results {
		if !pushed[r.TS] || r.Seq < 1 || r.Seq > ack.Head {
			return fmt.Errorf("the server acknowledged %s at seq %d with head %d, which is impossible", r.TS, r.Seq, ack.Head)
		}
		delete(pushed, r.TS)
	}
	if len(pushed) > 0 {
		return fmt.Errorf("the server acknowledged %d operations instead of %d", len(ack.Results), len(batch))
	}
	return nil
}

// nack reacts to a refused batch, none of which was applied.
func (l *link) nack(ctx context.Context, nack wire.Nack) error {
	if err := l.answered(nack.ID); err != nil {
		return err
	}
	batch := l.inflight
	l.inflight = nil
	l.c.store.unsure.Store(false)
	l.log.Warn("push refused", "ops", len(batch), "error", &nack.Error)
	switch nack.Code {
	case wire.CodeClockSkew:
		return l.correctClock(ctx, &nack.Error)
	case wire.CodeTooOld:
		if l.offset(nack.ServerTime) > slowClock {
			return l.correctClock(ctx, &nack.Error) // or the new timestamps may be too old as well
		}
		l.holdPushes(l.backoff.NextBackOff(), &nack.Error) // it may say so again
		return l.update(ctx, (*txn).restamp)
	case wire.CodeConflict, wire.CodeOutOfOrder:
		// Another copy of the file pushed under our id.
		l.rename(ctx)
		return errRenamed
	case wire.CodeUnauthorized:
		return &nack.Error
	case wire.CodeForbidden, wire.CodeForbiddenReplica:
		l.holdPushes(forbiddenWait, &nack.Error)
		return nil
	}
	if nack.Retryable || nack.Code.Retryable() {
		l.holdPushes(l.backoff.NextBackOff(), &nack.Error)
		return nil
	}
	return l.narrow(ctx, batch, &nack.Error)
}

// narrow finds the operation that the server refuses for good: the one that it names, or else the one left when the
// batch has been halved often enough. That one goes into quarantine, so that it does not hold up the others.
func (l *link) narrow(ctx context.Context, batch []moveop.Op, e *wire.Error) error {
	if e.Op != nil && e.Code != wire.CodeTooLarge {
		for i := range batch {
			if batch[i].TS == *e.Op {
				return l.refuseOp(ctx, *e.Op, e)
			}
		}
	}
	if len(batch) == 1 {
		return l.refuseOp(ctx, batch[0].TS, e)
	}
	l.maxBatch = max(1, len(batch)/2)
	l.after = time.Time{}
	return nil
}

// refuseOp puts an operation into quarantine.
func (l *link) refuseOp(ctx context.Context, ts moveop.Timestamp, e *wire.Error) error {
	l.log.Error("operation refused for good", "op", ts, "error", e)
	err := l.update(ctx, func(t *txn) error { return t.refuse(ts, e) })
	signal(l.c.wakeups) // the others can go on
	return err
}

// correctClock follows the server's clock from now on, and stamps the refused operations anew.
func (l *link) correctClock(ctx context.Context, e *wire.Error) error {
	offset := l.offset(e.ServerTime)
	l.log.Warn("clock corrected", "offset", offset)
	// Ours may still run ahead of what the server allows, if it runs fast: not in a tight loop.
	l.holdPushes(l.backoff.NextBackOff(), e)
	return l.update(ctx, func(t *txn) error { return t.setClock(offset) })
}

func (l *link) update(ctx context.Context, fn func(t *txn) error) error {
	if err := l.c.store.update(ctx, Local, fn); err != nil {
		return fmt.Errorf("update outbox: %w", err)
	}
	l.c.statusChanged()
	return nil
}

// holdPushes waits before the next push, and says why.
func (l *link) holdPushes(wait time.Duration, e *wire.Error) {
	l.after = time.Now().Add(wait)
	l.c.setProgress(func(p *progress) { p.err = e })
}
