package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gorilla/websocket"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// link is one connection to the room, from hello to its end. All of it but the connection's reader
// runs in the sync loop's goroutine.
type link struct {
	*syncer
	conn *connection

	welcomed bool
	caughtUp bool // the cursor has reached what was the head at welcome
	target   int64
	limits   wire.Limits
	pulled   bool // a pull is on its way
	pushing
	pings    []int64   // the round that was wanted at each ping not answered yet
	asked    int64     // the last round that a ping was sent for
	answers  []answer  // what rounds wait for
	lastSeen time.Time // when presence was sent last
}

// answer is the server's head in answer to a ping.
type answer struct{ round, head int64 }

func (s *syncer) dial(ctx context.Context) (*link, error) {
	conn, err := connect(ctx, &s.c.opts)
	if err != nil {
		return nil, err
	}
	return &link{syncer: s, conn: conn}, nil
}

// run says hello, follows the connection to its end and returns the reason for that.
func (l *link) run(ctx context.Context) error {
	go l.conn.read()
	defer l.conn.close()
	// A write that the network does not take must not hold up Close.
	stop := context.AfterFunc(ctx, l.conn.Expire)
	defer stop()
	m := l.c.store.meta.Load()
	hello := wire.Hello{Replica: m.replica, Seq: m.seq, Name: l.c.opts.Name}
	if m.epoch != "" {
		hello.Epoch = &m.epoch
	}
	err := l.conn.Send(hello)
	if err == nil {
		l.c.presence.connected()
		err = l.follow(ctx)
	}
	if errors.Is(err, websocket.ErrCloseSent) {
		return l.hearOut(ctx)
	}
	return err
}

// hearOut handles the server's last messages, acknowledgements perhaps, when we notice only by a failed write that
// it closed the connection. Its close frame says when to come back.
func (l *link) hearOut(ctx context.Context) error {
	for msg := range l.conn.in {
		if err := l.handleAll(ctx, msg); err != nil && !errors.Is(err, websocket.ErrCloseSent) {
			return err
		}
	}
	return l.conn.err
}

// follow sends and handles messages until something ends the connection.
func (l *link) follow(ctx context.Context) error {
	ping := time.NewTicker(pingInterval)
	defer ping.Stop()
	due := time.NewTimer(0)
	defer due.Stop()
	fresh, stopRefresh := l.startRefresh(ctx)
	defer stopRefresh()
	for {
		later, err := l.send(ctx)
		if err != nil {
			return err
		}
		due.Reset(later)
		select {
		case msg, ok := <-l.conn.in:
			if !ok {
				return l.conn.err
			}
			if err := l.handleAll(ctx, msg); err != nil {
				return err
			}
		case <-l.c.wakeups:
		case done := <-l.c.repairs:
			l.repair(done)
			if l.first == nil {
				return errRepair
			}
		case <-l.loading():
			if err := l.loaded(); err != nil {
				return err
			}
		case token := <-fresh:
			if err := l.sendToken(token); err != nil {
				return err
			}
		case <-due.C:
		case <-ping.C:
			if err := l.ping(0); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// send does what is due, and returns how long until the next task if nothing happens before.
func (l *link) send(ctx context.Context) (later time.Duration, err error) {
	if !l.welcomed {
		return pingInterval, nil
	}
	if !l.ofOurs(l.c.store.meta.Load()) {
		return 0, errLoaded
	}
	if later, err = l.push(ctx); err != nil {
		return 0, err
	}
	if round := l.c.rounds.want(); round > l.asked {
		l.asked = round
		if err := l.ping(round); err != nil {
			return 0, err
		}
	}
	l.finishRounds()
	presence, err := l.sendPresence()
	return min(later, presence), err
}

func (l *link) sendPresence() (later time.Duration, err error) {
	if wait := presenceInterval - time.Since(l.lastSeen); wait > 0 {
		return wait, nil
	}
	state, ok := l.c.presence.take()
	if !ok {
		return pingInterval, nil
	}
	l.lastSeen = time.Now()
	return pingInterval, l.conn.Send(wire.Presence{State: state})
}

// ofOurs reports whether a replica at m has the history of the connection. A first snapshot that was taken before
// the server's history was replaced may come in at any time.
func (l *link) ofOurs(m *meta) bool { return m.epoch == l.epoch }

// ping requests a sign of life, the members, and the head.
func (l *link) ping(round int64) error {
	if !l.welcomed {
		return nil
	}
	l.pings = append(l.pings, round)
	return l.conn.Send(wire.Ping{})
}

// finishRounds tells WaitSynced.
func (l *link) finishRounds() {
	m := l.c.store.meta.Load()
	if !l.ofOurs(m) || m.partial || m.pending > m.refused {
		return
	}
	for len(l.answers) > 0 && l.answers[0].head <= m.seq {
		l.c.rounds.finish(l.answers[0].round, m.refused)
		l.answers = l.answers[1:]
	}
}

// handleAll handles a message, and takes ops frames that wait behind one with it into one transaction.
func (l *link) handleAll(ctx context.Context, msg wire.Message) error {
	for {
		frame, ok := msg.(wire.Ops)
		if !ok {
			return l.handle(ctx, msg)
		}
		next, err := l.ops(ctx, frame)
		if err != nil || next == nil {
			return err
		}
		msg = next
	}
}

func (l *link) handle(ctx context.Context, msg wire.Message) error {
	switch msg := msg.(type) {
	case *wire.Error:
		return l.refused(msg)
	case wire.Welcome:
		return l.welcome(ctx, msg)
	case wire.Resync:
		l.epoch = msg.Epoch
		return fmt.Errorf("%w: %s", errResync, msg.Reason)
	}
	if !l.welcomed {
		return fmt.Errorf("%s before welcome", msg.Type())
	}
	switch msg := msg.(type) {
	case wire.Ack:
		return l.ack(ctx, msg)
	case wire.Nack:
		return l.nack(ctx, msg)
	case wire.Head:
		return l.head(msg)
	case wire.ServerStatus:
		return l.status(msg)
	case wire.Presence:
		l.c.showStates(msg.Updates)
	case wire.Connections:
		l.c.setMembers(msg.Clients)
	}
	return nil
}

// refused handles an error that is not about a push. Before welcome, the server closes the socket after it. Later,
// it is about a message that the server did not understand, and the socket stays open.
func (l *link) refused(e *wire.Error) error {
	if !l.welcomed {
		return e
	}
	l.log.Warn("error from the server", "error", e)
	return nil
}

func (l *link) welcome(ctx context.Context, w wire.Welcome) error {
	m := l.c.store.meta.Load()
	l.epoch = w.Epoch
	if err := l.hold(ctx, w); err != nil {
		return err
	}
	resync := fmt.Errorf("%w: it is at %s %d", errResync, w.Epoch, w.Head)
	if l.first == nil && l.needSnapshot || !l.goesOn(m, w) {
		return resync
	}
	if w.LastTS != nil && m.issued.Before(*w.LastTS) {
		l.rename(ctx)
		return errRenamed
	}
	err := l.c.store.update(ctx, Remote, func(t *txn) error {
		if m = &t.meta; !l.goesOn(m, w) {
			return resync // another snapshot has come in, or the preview was forgotten
		}
		t.meta.epoch = w.Epoch
		if t.meta.offset != 0 { // it was wrong once: follow it
			t.meta.offset = l.offset(w.ServerTime)
			t.store.clock.SetOffset(t.meta.offset)
		}
		return nil
	})
	if err != nil {
		return err
	}
	l.welcomed, l.target, l.limits = true, w.Head, w.Limits
	l.c.setMembers(w.Clients)
	l.c.setProgress(func(p *progress) { p.state, p.from, p.head, p.err = StateCatchingUp, m.seq, w.Head, nil })
	l.reached(m.seq)
	return nil
}

// goesOn reports whether a server can send the operations after the cursor of a replica at m. A replica without an
// epoch needs everything; during the first load, it has dropped its preview since the hello and begins with another
// one.
func (l *link) goesOn(m *meta, w wire.Welcome) bool {
	if l.first != nil && m.epoch == "" {
		return false
	}
	return m.seq == 0 || m.epoch == w.Epoch && m.seq <= w.Head
}

// hold notes what the server says that it holds.
func (l *link) hold(ctx context.Context, w wire.Welcome) error {
	held := held{epoch: w.Epoch, head: w.Head}
	if w.LastTS != nil {
		held.last = *w.LastTS
	}
	return l.c.store.exclusively(ctx, func(*session) error {
		l.c.store.held = held
		l.c.store.unsure.Store(false)
		return nil
	})
}

// offset is the server's clock less ours.
func (l *link) offset(serverTime int64) time.Duration {
	return time.UnixMilli(serverTime).Sub(l.c.opts.Now()).Truncate(time.Millisecond)
}

func (l *link) reached(seq int64) {
	if !l.caughtUp && seq >= l.target {
		l.caughtUp = true
		l.log.Info("caught up", "seq", seq)
	}
}

// maxMerged bounds the operations that one transaction takes from frames that wait, beyond the first.
const maxMerged = 4096

// ops applies a frame, with those that wait behind it. It returns the message that it took from the
// queue and did not handle.
func (l *link) ops(ctx context.Context, frame wire.Ops) (next wire.Message, err error) {
	seq := l.c.store.meta.Load().seq
	var batch []moveop.Op
	for more := true; more; {
		fresh, gap, err := following(frame, seq)
		if err != nil {
			return nil, err
		}
		if gap {
			if err := l.pull(seq); err != nil {
				return nil, err
			}
			break
		}
		batch = append(batch, fresh...)
		seq += int64(len(fresh))
		if len(batch) >= maxMerged {
			break
		}
		select {
		case msg, open := <-l.conn.in:
			if !open {
				more = false
			} else if frame, more = msg.(wire.Ops); !more {
				next = msg
			}
		default:
			more = false
		}
	}
	if len(batch) == 0 {
		return next, nil
	}
	return next, l.apply(ctx, batch)
}

// following returns the part of a frame that is after the cursor; gap is set if operations between the two are
// missing.
func following(frame wire.Ops, seq int64) (ops []moveop.Op, gap bool, err error) {
	if frame.To-frame.From+1 != int64(len(frame.Ops)) || frame.From < 1 {
		return nil, false, fmt.Errorf("a frame of %d operations claims to hold seq %d to %d", len(frame.Ops), frame.From, frame.To)
	}
	if frame.From > seq+1 {
		return nil, true, nil
	}
	if frame.To <= seq {
		return nil, false, nil
	}
	ops = frame.Ops[seq+1-frame.From:]
	for i := range ops {
		if ops[i].Seq != seq+1+int64(i) {
			return nil, false, fmt.Errorf("operation %s has seq %d instead of %d", ops[i].TS, ops[i].Seq, seq+1+int64(i))
		}
	}
	return ops, false, nil
}

// pull asks for what is missing, once.
func (l *link) pull(seq int64) error {
	if l.pulled {
		return nil
	}
	l.pulled = true
	l.log.Warn("gap in the operations", "after", seq)
	return l.conn.Send(wire.Pull{After: seq})
}

// errMoved means that a snapshot has moved the cursor.
var errMoved = errors.New("the cursor was moved")

// apply merges operations and moves the cursor, in one transaction.
func (l *link) apply(ctx context.Context, ops []moveop.Op) error {
	var foreign bool
	err := l.c.store.update(ctx, Remote, func(t *txn) (err error) {
		if t.meta.epoch != l.epoch || t.meta.seq != ops[0].Seq-1 {
			return errMoved
		}
		foreign, err = t.receive(ops)
		return err
	})
	if errors.Is(err, errMoved) {
		return nil // what is missing from there on is pulled, see loaded
	}
	if err != nil {
		return fmt.Errorf("apply operations: %w", err)
	}
	seq := ops[len(ops)-1].Seq
	l.pulled = false
	l.c.setProgress(func(p *progress) { p.head = max(p.head, seq) })
	l.reached(seq)
	if foreign {
		l.rename(ctx)
		return errRenamed
	}
	return nil
}

// head compares the server's head and digest with ours: a lost last frame shows here, and a faulty replica too.
func (l *link) head(h wire.Head) error {
	m := l.c.store.meta.Load()
	if !l.ofOurs(m) {
		return errLoaded
	}
	l.c.setProgress(func(p *progress) { p.head = max(p.head, h.Head) })
	if h.Head > m.seq {
		l.pulled = false // the room is idle, so what was asked for would be here
		return l.pull(m.seq)
	}
	if m.partial || h.Head != m.seq || m.pending > 0 || m.acked > m.seq {
		return nil
	}
	if h.Digest == m.digest {
		l.mended = false
		return nil
	}
	l.log.Error("digest mismatch", "seq", m.seq, "ours", m.digest, "theirs", h.Digest)
	return errMismatch
}

// status hears the answer to a ping.
func (l *link) status(s wire.ServerStatus) error {
	if len(l.pings) == 0 {
		return errors.New("the server sent a status without a ping")
	}
	if round := l.pings[0]; round > 0 {
		l.answers = append(l.answers, answer{round, s.Head})
	}
	l.pings = l.pings[1:]
	return nil
}
