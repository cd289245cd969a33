package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// draftPrefix names the tables that a snapshot is loaded into. They take the place of the real ones
// when it is whole, and are dropped where it is not.
const draftPrefix = "draft_"

const (
	// chunkRows is how many rows are decoded before the writer is taken for one transaction: edits go
	// on in between.
	chunkRows = 16384
	// insertRows is how many rows one statement inserts.
	insertRows = 128
	// stalled is how long a snapshot may bring nothing before it counts as broken off.
	stalled = 30 * time.Second
	// maxWindow bounds the memory that decompressing takes, in bytes.
	maxWindow = 64 << 20
)

// errRoomGone means that the room that we have is not there, or not for us. Nothing is dropped for it.
var errRoomGone = errors.New("the room is not there any more, or the token may not see it")

// bootstrap replaces the state with the server's, and applies what is pending on top.
func (s *syncer) bootstrap(ctx context.Context) error {
	if s.c.opts.BootstrapURL == "" {
		return s.startOver(ctx)
	}
	s.c.setProgress(func(p *progress) { p.state, p.rows, p.rowsTotal = StateBootstrapping, 0, 0 })
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body, err := s.fetch(ctx, cancel)
	if err != nil || body == nil {
		return err
	}
	defer body.Close()
	began := time.Now()
	l := &loader{st: s.c.store, report: func(rows, total int64) {
		s.c.setProgress(func(p *progress) { p.rows, p.rowsTotal = rows, total })
	}}
	if err := l.load(ctx, body, s.c.opts.Room); err != nil {
		return fmt.Errorf("load snapshot: %w", errors.Join(err, s.dropDrafts(ctx)))
	}
	if err := l.swap(ctx); err != nil {
		return fmt.Errorf("swap in snapshot: %w", errors.Join(err, s.dropDrafts(ctx)))
	}
	s.log.Info("snapshot loaded", slog.Int64("seq", l.header.Seq), slog.Int64("rows", l.rows),
		slog.Duration("took", time.Since(began)))
	return nil
}

// startOver goes without a bootstrap service: a new replica begins at seq 0, and one whose cursor
// cannot be served begins anew there. If the server has not kept everything it will say so.
func (s *syncer) startOver(ctx context.Context) error {
	if s.c.store.meta.Load().seq == 0 {
		return nil
	}
	l := &loader{st: s.c.store}
	if err := l.prepare(ctx); err != nil {
		return err
	}
	if err := l.index(ctx); err != nil {
		return err
	}
	return l.swap(ctx)
}

// fetch asks for the snapshot. The body is nil where the room does not exist yet: it is empty then.
// Cancel is called when the body brings nothing for too long.
func (s *syncer) fetch(ctx context.Context, cancel context.CancelFunc) (io.ReadCloser, error) {
	header, err := s.c.opts.authorization(ctx)
	if err != nil {
		return nil, err
	}
	header.Set("Accept-Encoding", "zstd")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint(s.c.opts.BootstrapURL, s.c.opts.Room, "snapshot"), nil)
	if err != nil {
		return nil, fmt.Errorf("fetch snapshot: %w", err)
	}
	req.Header = header
	watchdog := time.AfterFunc(stalled, cancel)
	resp, err := s.c.opts.HTTPClient.Do(req)
	if err != nil {
		watchdog.Stop()
		return nil, fmt.Errorf("fetch snapshot: %w", err)
	}
	body := &watchedBody{resp.Body, watchdog}
	if resp.StatusCode != http.StatusOK {
		defer body.Close()
		return nil, s.noSnapshot(resp)
	}
	if resp.Header.Get("Content-Encoding") != "zstd" {
		return body, nil
	}
	decoder, err := zstd.NewReader(body, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("fetch snapshot: %w", err), body.Close())
	}
	return &decodedBody{decoder, body}, nil
}

// noSnapshot says what an answer without a snapshot means; nil is a room that does not exist yet.
func (s *syncer) noSnapshot(resp *http.Response) error {
	if resp.StatusCode == http.StatusNotFound {
		if s.c.store.meta.Load().seq == 0 {
			return nil
		}
		return fmt.Errorf("fetch snapshot: %w", errRoomGone)
	}
	return fmt.Errorf("fetch snapshot: %w", wire.ReadError(resp))
}

// watchedBody puts its watchdog off with every read.
type watchedBody struct {
	io.ReadCloser
	watchdog *time.Timer
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.watchdog.Reset(stalled)
	return b.ReadCloser.Read(p)
}

func (b *watchedBody) Close() error {
	b.watchdog.Stop()
	return b.ReadCloser.Close()
}

type decodedBody struct {
	*zstd.Decoder
	body io.Closer
}

func (b *decodedBody) Close() error {
	b.Decoder.Close()
	return b.body.Close()
}

// dropDrafts removes what a load that failed has left, which must not depend on ctx.
func (s *syncer) dropDrafts(ctx context.Context) error {
	return s.c.store.exclusively(context.WithoutCancel(ctx), dropDrafts)
}

func dropDrafts(s *session) error {
	for _, table := range logTables {
		if err := s.script("DROP TABLE IF EXISTS " + draftPrefix + table.name); err != nil {
			return err
		}
	}
	return nil
}

// exclusively runs fn with the writer, outside a transaction.
func (st *store) exclusively(ctx context.Context, fn func(s *session) error) error {
	if err := st.acquire(ctx); err != nil {
		return err
	}
	defer st.release()
	return fn(st.file.writer)
}

// loader brings a snapshot into the draft tables and swaps them in.
type loader struct {
	st     *store
	report func(rows, total int64)

	header format.Header
	rows   int64
	total  int64 // estimated
	digest moveop.Digest
	newest moveop.Timestamp // of all moves
	last   moveop.Timestamp // of all operations
}

func (l *loader) load(ctx context.Context, src io.Reader, room string) error {
	r, err := format.NewReader(src)
	if err != nil {
		return err
	}
	if l.header = r.Header(); l.header.Room != room {
		return fmt.Errorf("%w: it is of room %s", format.ErrCorrupt, l.header.Room)
	}
	for _, section := range l.header.Sections {
		l.total += section.Rows
	}
	if err := l.prepare(ctx); err != nil {
		return err
	}
	for {
		rows, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if err := l.section(ctx, rows); err != nil {
			return err
		}
	}
	if err := l.check(); err != nil {
		return err
	}
	return l.index(ctx)
}

// check recomputes the digest: what is swapped in is what the header says. A log that was compacted
// cannot be added up.
func (l *loader) check() error {
	want := l.header.Digest
	if l.digest.State != want.State || l.header.Horizon.IsZero() && l.digest != want {
		return fmt.Errorf("%w: its rows do not add up to its digest", format.ErrCorrupt)
	}
	l.digest = want
	return nil
}

// prepare makes empty draft tables.
func (l *loader) prepare(ctx context.Context) error {
	return l.st.exclusively(ctx, func(s *session) error {
		if err := dropDrafts(s); err != nil {
			return err
		}
		for _, table := range logTables {
			create := strings.Replace(table.create, "CREATE TABLE ", "CREATE TABLE "+draftPrefix, 1)
			if err := s.script(create); err != nil {
				return err
			}
		}
		return nil
	})
}

func (l *loader) index(ctx context.Context) error {
	return l.st.exclusively(ctx, func(s *session) error {
		var taken bool
		_, err := s.row(`SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'index' AND name = ?)`,
			[]any{logTables[0].indexes[0].name + indexNames[0]}, &taken)
		if err != nil {
			return err
		}
		suffix := indexNames[0]
		if taken {
			suffix = indexNames[1]
		}
		for _, table := range logTables {
			if err := s.script(table.createIndexes(draftPrefix, suffix)...); err != nil {
				return err
			}
		}
		return nil
	})
}

// section loads the rows of one section, in key order as they come.
func (l *loader) section(ctx context.Context, rows *format.Rows) error {
	next, columns := l.nodeRows(rows), 7
	table := "nodes (node, parent, order_key, ts, seq, known, cause)"
	switch rows.Section().Tag {
	case format.TagValues:
		next, columns = l.valueRows(rows), 6
		table = "vals (node, key, value, ts, seq, known)"
	case format.TagOps:
		next, columns = l.opRows(rows), 11
		table = "ops (ts, kind, node, parent, order_key, key, value, seq, known, cause, effective)"
	}
	for more := true; more; {
		var args []any
		n := 0
		for ; n < chunkRows && more; n++ {
			var row []any
			if row, more = next(); !more {
				break
			}
			args = append(args, row...)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		if n == 0 {
			break
		}
		if err := l.insert(ctx, "INSERT INTO "+draftPrefix+table+" VALUES ", columns, args); err != nil {
			return err
		}
		if l.rows += int64(n); l.report != nil {
			l.report(l.rows, max(l.total, l.rows))
		}
	}
	return nil
}

// insert writes rows in one transaction.
func (l *loader) insert(ctx context.Context, into string, columns int, args []any) error {
	return l.st.exclusively(ctx, func(s *session) (err error) {
		if err := s.script("BEGIN IMMEDIATE"); err != nil {
			return err
		}
		defer func() {
			if err != nil {
				_ = s.script("ROLLBACK") // of no consequence: the draft is dropped
			}
		}()
		one := "(?" + strings.Repeat(", ?", columns-1) + ")"
		many := into + one + strings.Repeat(", "+one, insertRows-1)
		for len(args) > 0 {
			query, n := into+one, columns
			if len(args) >= insertRows*columns {
				query, n = many, insertRows*columns
			}
			if _, err := s.exec(query, args[:n]...); err != nil {
				return err
			}
			args = args[n:]
		}
		return s.script("COMMIT")
	})
}

func (l *loader) nodeRows(rows *format.Rows) func() ([]any, bool) {
	return func() ([]any, bool) {
		var n format.NodeRow
		if !rows.NextNode(&n) {
			return nil, false
		}
		op := n.Op()
		l.add(&op)
		l.digest.State ^= moveop.PlacementHash(op.Node, op.Parent, op.OrderKey)
		return []any{op.Node[:], op.Parent[:], op.OrderKey, op.TS[:], op.Seq, op.Known, orNull(op.Cause)}, true
	}
}

func (l *loader) valueRows(rows *format.Rows) func() ([]any, bool) {
	return func() ([]any, bool) {
		var v format.ValueRow
		if !rows.NextValue(&v) {
			return nil, false
		}
		op := v.Op()
		l.add(&op)
		l.digest.State ^= moveop.ValueHash(op.Node, op.Key, op.TS)
		return []any{op.Node[:], op.Key, string(op.Value), op.TS[:], op.Seq, op.Known}, true
	}
}

func (l *loader) opRows(rows *format.Rows) func() ([]any, bool) {
	return func() ([]any, bool) {
		var o format.OpRow
		if !rows.NextOp(&o) {
			return nil, false
		}
		op := o.Op()
		l.add(&op)
		row := []any{op.TS[:], int(op.Kind), op.Node[:], nil, nil, nil, nil, op.Seq, op.Known, orNull(op.Cause), o.Effective}
		if op.Kind == moveop.Move {
			row[3], row[4] = op.Parent[:], op.OrderKey
		} else {
			row[5], row[6], row[10] = op.Key, string(op.Value), true
		}
		return row, true
	}
}

// add counts an operation of the snapshot.
func (l *loader) add(op *moveop.Op) {
	l.digest.Ops++
	l.digest.Log ^= op.LogHash()
	if l.last.Before(op.TS) {
		l.last = op.TS
	}
	if op.Kind == moveop.Move && l.newest.Before(op.TS) {
		l.newest = op.TS
	}
}

// swap puts the draft in the place of the old state and applies what is pending on top, in one
// transaction.
func (l *loader) swap(ctx context.Context) error {
	return l.st.update(ctx, Snapshot, func(t *txn) error {
		for _, table := range logTables {
			if err := t.script("DROP TABLE "+table.name, "ALTER TABLE "+draftPrefix+table.name+" RENAME TO "+table.name); err != nil {
				return err
			}
		}
		t.meta.epoch, t.meta.seq, t.meta.acked = l.header.Epoch, l.header.Seq, 0
		t.meta.digest, t.meta.newest = l.digest, l.newest
		t.accept(l.last)
		t.changes.all()
		return t.reapply()
	})
}

// reapply applies the outbox to a log that the server made, and takes out of it what is there already.
func (t *txn) reapply() error {
	all, err := t.outbox()
	if err != nil {
		return err
	}
	var missing []moveop.Op
	for i := range all {
		logged, ok, err := t.find(all[i].op.TS)
		switch {
		case err != nil:
			return err
		case !ok:
			missing = append(missing, all[i].op)
		case !logged.SameBody(all[i].op):
			return fmt.Errorf("%w: %s", errConflict, logged.TS)
		default:
			if err := t.unqueue(logged.TS); err != nil {
				return err
			}
		}
	}
	return t.add(missing)
}
