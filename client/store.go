package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/canopysync/canopy/moveop"
)

// meta is the file's one row of facts that belong to no single operation.
type meta struct {
	room    string
	replica moveop.ReplicaID

	issued   moveop.Timestamp // the greatest that this replica has issued
	accepted moveop.Timestamp // the greatest that the server is known to hold, of any replica
	newest   moveop.Timestamp // at least that of every move in the log
	offset   time.Duration    // the server's clock less ours, once the server complained

	epoch string // "" before the first contact
	seq   int64  // the cursor: everything up to it is applied
	acked int64  // the greatest seq that an acknowledgement named; may be ahead of the cursor

	version int64 // counts the transactions that changed what can be read
	pending int64 // operations in the outbox, refused ones included
	refused int64 // of these, those that the server refused for good

	digest moveop.Digest // of everything that the log ever held, pending operations included

	horizon moveop.Timestamp // where the log begins, see tree.Log; zero if it is whole
	folded  moveop.Digest    // the part of digest that the server had taken out of the log

	history history
	partial bool // the table pages is not empty: not all of the room is here; not in the row
}

// last is the greatest timestamp that the log can hold.
func (m *meta) last() moveop.Timestamp {
	if m.accepted.Before(m.issued) {
		return m.issued
	}
	return m.accepted
}

func (m *meta) load(s *session) error {
	var replica, offset, log, state, foldedLog, foldedState int64
	ok, err := s.row(`SELECT room, replica, issued, accepted, newest, clock_offset, epoch, seq, acked,
		version, pending, refused, digest_ops, digest_log, digest_state, undo_next, undo_ended,
		horizon, folded_ops, folded_log, folded_state FROM meta`, nil,
		&m.room, &replica, (*blob)(&m.issued), (*blob)(&m.accepted), (*blob)(&m.newest), &offset, &m.epoch,
		&m.seq, &m.acked, &m.version, &m.pending, &m.refused, &m.digest.Ops, &log, &state,
		&m.history.next, &m.history.ended, (*blob)(&m.horizon), &m.folded.Ops, &foldedLog, &foldedState)
	if err != nil {
		return fmt.Errorf("read replica file: %w", err)
	}
	if !ok {
		return fmt.Errorf("%w: no meta row", ErrCorrupt)
	}
	m.replica, m.offset = moveop.ReplicaID(replica), time.Duration(offset)*time.Millisecond
	m.digest.Log, m.digest.State = uint64(log), uint64(state)
	m.folded.Log, m.folded.State = uint64(foldedLog), uint64(foldedState)
	if _, err := s.row(`SELECT EXISTS (SELECT 1 FROM pages)`, nil, &m.partial); err != nil {
		return fmt.Errorf("read replica file: %w", err)
	}
	return m.history.load(s)
}

// insert writes the row of a new file; save fills in what is not zero.
func (m *meta) insert(s *session) error {
	zero := make([]byte, 16)
	_, err := s.exec(`INSERT INTO meta VALUES (1, ?1, 0, ?2, ?2, ?2, 0, '', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ?2, 0, 0, 0)`, m.room, zero)
	if err != nil {
		return err
	}
	if err := s.own(m.replica); err != nil {
		return err
	}
	return m.save(s)
}

// own notes an id that this replica goes by.
func (s *session) own(replica moveop.ReplicaID) error {
	_, err := s.exec(`INSERT INTO own VALUES (?) ON CONFLICT DO NOTHING`, replicaBytes(replica))
	return err
}

func (m *meta) save(s *session) error {
	_, err := s.exec(`UPDATE meta SET replica = ?, issued = ?, accepted = ?, newest = ?, clock_offset = ?,
		epoch = ?, seq = ?, acked = ?, version = ?, pending = ?, refused = ?,
		digest_ops = ?, digest_log = ?, digest_state = ?, undo_next = ?, undo_ended = ?,
		horizon = ?, folded_ops = ?, folded_log = ?, folded_state = ?`,
		int64(m.replica), m.issued[:], m.accepted[:], m.newest[:], m.offset.Milliseconds(),
		m.epoch, m.seq, m.acked, m.version, m.pending, m.refused,
		m.digest.Ops, int64(m.digest.Log), int64(m.digest.State), m.history.next, m.history.ended,
		m.horizon[:], m.folded.Ops, int64(m.folded.Log), int64(m.folded.State))
	return err
}

// store runs transactions on the file, one writer at a time.
type store struct {
	file *replicaFile
	// writing holds one token: whoever took it has the writer, the clock and the right to replace meta.
	writing chan struct{}
	closed  chan struct{} // closed when no new transaction may begin
	clock   *moveop.Clock
	now     func() time.Time
	random  io.Reader // used by the holder of the token
	undo    undoOptions
	meta    atomic.Pointer[meta] // as last committed; replaced, never changed
	publish func(Event)          // called in commit order

	held   held        // what the last welcome said; guarded by the token
	unsure atomic.Bool // there was no welcome yet, or a push since then has no answer

	// previewed is the seq of the first page that was fetched ahead of the snapshot, or that of the
	// cursor at Open: from there on the log holds everything. Guarded by the token.
	previewed int64
	// whole is set when there will be no preview any more, under the token.
	whole atomic.Bool
	// begun and sights are signalled with every change of a replica that is partial.
	begun, sights chan struct{}
}

// txn is a write transaction: what it changes in meta is written with it, or dropped with it.
type txn struct {
	*session
	store     *store
	meta      meta
	changes   changeSet
	unwritten []any  // rows of the outbox, see queue
	standIns  uint64 // see standIn
}

// acquire waits for the writer. The caller must call release.
func (st *store) acquire(ctx context.Context) error {
	select {
	case <-st.writing:
	case <-st.closed:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	err := st.ready(ctx)
	if err != nil {
		st.release()
	}
	return err
}

// ready checks again for Close and ctx, because select may have chosen another ready case.
func (st *store) ready(ctx context.Context) error {
	select {
	case <-st.closed:
		return ErrClosed
	default:
		return ctx.Err()
	}
}

func (st *store) release() { st.writing <- struct{}{} }

// update runs fn in a write transaction and publishes its changes. If fn fails or panics, nothing is changed.
func (st *store) update(ctx context.Context, origin Origin, fn func(t *txn) error) error {
	if err := st.acquire(ctx); err != nil {
		return err
	}
	defer st.release()
	s := st.file.writer
	if _, err := s.exec("BEGIN IMMEDIATE"); err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	committed := false
	before := st.meta.Load()
	t := &txn{session: s, store: st, meta: *before}
	defer func() {
		if !committed {
			st.rollback(before)
		}
	}()
	if err := fn(t); err != nil {
		return err
	}
	if err := t.finish(before); err != nil {
		return fmt.Errorf("commit transaction: %w", err)
	}
	committed = true
	after := t.meta
	st.meta.Store(&after)
	if after.version != before.version {
		st.publish(t.changes.event(after.version, origin))
	}
	if before.partial || after.partial {
		signal(st.begun)
		signal(st.sights)
	}
	return nil
}

func (t *txn) finish(before *meta) error {
	if err := t.flushQueue(); err != nil {
		return err
	}
	if t.changes.any() || t.standIns > 0 { // their timestamps are made of the version
		t.meta.version++
	}
	if t.meta != *before {
		if err := t.meta.save(t.session); err != nil {
			return err
		}
	}
	_, err := t.exec("COMMIT")
	return err
}

// rollback leaves issued clock readings unused, unless the clock itself was replaced.
func (st *store) rollback(before *meta) {
	// Nothing to be done about an error: SQLite has rolled back by itself where it fails (disk full),
	// and the next BEGIN reports a connection that is of no more use.
	_ = st.file.writer.script("ROLLBACK")
	st.startClock(before)
}

// startClock makes a clock that goes on from meta.
func (st *store) startClock(m *meta) {
	st.clock = moveop.NewClock(m.replica, m.last(), st.now)
	st.clock.SetOffset(m.offset)
}

// view runs fn on a consistent snapshot of the file.
func (st *store) view(ctx context.Context, fn func(s *session) error) error {
	if !st.file.reading.TryRLock() {
		return ErrClosed
	}
	defer st.file.reading.RUnlock()
	s, err := st.reader(ctx)
	if err != nil {
		return err
	}
	defer st.file.putBack(s)
	return s.reading(fn)
}

// reader takes an idle connection, or makes one. The caller puts it back.
func (st *store) reader(ctx context.Context) (s *session, err error) {
	patience := time.NewTimer(readerPatience)
	defer patience.Stop()
	select {
	case s = <-st.file.readers:
	case <-patience.C:
		return openReader(st.file.path)
	case <-st.closed:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err = st.ready(ctx); err == nil && s == nil {
		s, err = openReader(st.file.path)
	}
	if err != nil {
		st.file.putBack(s)
	}
	return s, err
}

func openReader(path string) (*session, error) {
	s, err := openExisting(path, "query_only(1)", "busy_timeout(5000)", fmt.Sprintf("cache_size(-%d)", readerCache))
	if err != nil {
		return nil, fmt.Errorf("open replica file: %w", err)
	}
	return s, nil
}

// reading runs fn in a read transaction.
func (s *session) reading(fn func(s *session) error) (err error) {
	if _, err := s.exec("BEGIN"); err != nil {
		return err
	}
	defer func() {
		_, end := s.exec("ROLLBACK")
		err = errors.Join(err, end)
	}()
	return fn(s)
}

// exclusively runs fn with the writer, outside a transaction.
func (st *store) exclusively(ctx context.Context, fn func(s *session) error) error {
	if err := st.acquire(ctx); err != nil {
		return err
	}
	defer st.release()
	return fn(st.file.writer)
}
