package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/moveop"
)

// draftPrefix begins the names of the tables that a snapshot is loaded into. They replace the real ones when it is
// complete, and are dropped otherwise.
const draftPrefix = "draft_"

// draftUnsorted holds the rows of ops as they come, by timestamp.
const draftUnsorted = draftPrefix + "unsorted"

const (
	// chunkRows is how many rows are written in one transaction: edits go on in between.
	chunkRows = 2048
	// chunksAhead is how many such chunks may be decoded and not yet written, each of a few megabytes.
	chunksAhead = 1
)

// loader brings a snapshot into the draft tables and swaps them in.
type loader struct {
	st     *store
	report func(rows, total int64)
	abort  context.CancelFunc // ends what the source waits for; may be nil

	header format.Header
	rows   int64
	total  int64 // estimated
	digest moveop.Digest
	newest moveop.Timestamp // of all moves
	last   moveop.Timestamp // of all operations
}

// load reads a snapshot into the draft tables, and verifies it.
func (l *loader) load(ctx context.Context, src io.Reader, room string) error {
	r, err := format.NewReader(src)
	if err != nil {
		return err
	}
	if l.header = r.Header(); l.header.Room != room {
		return fmt.Errorf("%w: it belongs to room %s", format.ErrCorrupt, l.header.Room)
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
	return l.check()
}

// check recomputes the digest, so that the state swapped in is the one that the header describes.
func (l *loader) check() error {
	if l.digest = l.header.Whole(l.digest); l.digest != l.header.Digest {
		return fmt.Errorf("%w: the rows do not add up to the digest", format.ErrCorrupt)
	}
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
		return s.script("CREATE TABLE " + draftUnsorted + " (" + opsColumns + ")")
	})
}

// index makes the draft's indexes, and the tables that follow from what was loaded.
func (l *loader) index(ctx context.Context) error {
	return l.unsynced(ctx, func(s *session) error {
		suffix, err := freeSuffix(s)
		if err != nil {
			return err
		}
		return s.sorting(func() error {
			for _, table := range logTables {
				if err := s.script(table.createIndexes(draftPrefix, suffix)...); err != nil {
					return err
				}
			}
			return s.script(
				"INSERT INTO "+draftPrefix+"ops SELECT * FROM "+draftUnsorted+" ORDER BY node, key, ts",
				"DROP TABLE "+draftUnsorted, fillNamed(draftPrefix), fillStamps(draftPrefix))
		})
	})
}

// freeSuffix is the one of indexNames that is not in use.
func freeSuffix(s *session) (string, error) {
	var taken bool
	_, err := s.row(`SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'index' AND name = ?)`,
		[]any{logTables[0].indexes[0].name + indexNames[0]}, &taken)
	if taken {
		return indexNames[1], err
	}
	return indexNames[0], err
}

// section loads the rows of one section, in key order as they come. They are decoded in a goroutine
// of its own, beside the writing.
func (l *loader) section(ctx context.Context, rows *format.Rows) error {
	next, into := l.nodeRows(rows), draftNodes
	switch rows.Section().Tag {
	case format.TagValues:
		next, into = l.valueRows(rows), draftVals
	case format.TagOps:
		next, into = l.opRows(rows), draftOps
	}
	ctx, cancel := context.WithCancel(ctx)
	chunks := make(chan []any, chunksAhead)
	var decoding sync.WaitGroup
	defer decoding.Wait()
	defer cancel() // before the wait
	decoding.Go(func() {
		defer close(chunks)
		decode(ctx, chunks, next, into.columns)
	})
	for args := range chunks {
		if err := l.insert(ctx, into, args); err != nil {
			if l.abort != nil {
				l.abort() // or the decoding might wait for the network
			}
			return err
		}
		if l.rows += int64(len(args) / into.columns); l.report != nil {
			l.report(l.rows, max(l.total, l.rows))
		}
	}
	return rows.Err()
}

// decode sends the rows in chunks.
func decode(ctx context.Context, chunks chan<- []any, next func([]any) ([]any, bool), columns int) {
	for more := true; more; {
		args := make([]any, 0, chunkRows*columns)
		for n := 0; n < chunkRows && more; n++ {
			args, more = next(args)
		}
		select {
		case chunks <- args:
		case <-ctx.Done():
			return
		}
	}
}

var (
	draftNodes = newBulk("INSERT INTO "+draftPrefix+"nodes (node, "+placementColumns+") VALUES ", 7, "")
	draftVals  = newBulk("INSERT INTO "+draftPrefix+"vals (node, key, value, ts, seq, known) VALUES ", 6, "")
	draftOps   = newBulk("INSERT INTO "+draftUnsorted+`
		(ts, kind, node, parent, order_key, key, value, seq, known, cause, effective) VALUES `, 11, "")
)

// insert writes rows in one transaction. It need not be durable: after a crash, the draft is dropped.
func (l *loader) insert(ctx context.Context, into *bulk, args []any) error {
	return l.unsynced(ctx, func(s *session) (err error) {
		if _, err := s.exec("BEGIN IMMEDIATE"); err != nil {
			return err
		}
		defer func() {
			if err != nil {
				_ = s.script("ROLLBACK") // of no consequence: the draft is dropped
			}
		}()
		if err := s.execBulk(into, args); err != nil {
			return err
		}
		_, err = s.exec("COMMIT")
		return err
	})
}

// unsynced runs fn with the writer, whose commits are not synced meanwhile. The file stays sound: SQLite syncs its
// log before a checkpoint, and with every later commit.
func (l *loader) unsynced(ctx context.Context, fn func(s *session) error) error {
	return l.st.exclusively(ctx, func(s *session) (err error) {
		var was int
		if _, err := s.row("PRAGMA synchronous", nil, &was); err != nil {
			return err
		}
		if err := s.script("PRAGMA synchronous = NORMAL"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.script(fmt.Sprintf("PRAGMA synchronous = %d", was))) }()
		return fn(s)
	})
}

func (l *loader) nodeRows(rows *format.Rows) func([]any) ([]any, bool) {
	return func(args []any) ([]any, bool) {
		var n format.NodeRow
		if !rows.NextNode(&n) {
			return args, false
		}
		op := n.Op()
		l.add(&op)
		l.digest.State ^= moveop.PlacementHash(op.Node, op.Parent, op.OrderKey)
		return append(args, op.Node[:], op.Parent[:], op.OrderKey, op.TS[:], op.Seq, op.Known, orNull(op.Cause)), true
	}
}

func (l *loader) valueRows(rows *format.Rows) func([]any) ([]any, bool) {
	return func(args []any) ([]any, bool) {
		var v format.ValueRow
		if !rows.NextValue(&v) {
			return args, false
		}
		op := v.Op()
		l.add(&op)
		l.digest.State ^= moveop.ValueHash(op.Node, op.Key, op.TS)
		return append(args, op.Node[:], op.Key, string(op.Value), op.TS[:], op.Seq, op.Known), true
	}
}

func (l *loader) opRows(rows *format.Rows) func([]any) ([]any, bool) {
	return func(args []any) ([]any, bool) {
		var o format.OpRow
		if !rows.NextOp(&o) {
			return args, false
		}
		op := o.Op()
		l.add(&op)
		row := []any{op.TS[:], int(op.Kind), op.Node[:], nil, nil, op.Key, nil, op.Seq, op.Known, orNull(op.Cause), o.Effective}
		if op.Kind == moveop.Move {
			row[3], row[4] = op.Parent[:], op.OrderKey
		} else {
			row[6], row[10] = string(op.Value), true
		}
		return append(args, row...), true
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

// install indexes the draft and swaps it in.
func (l *loader) install(ctx context.Context) error {
	if err := l.index(ctx); err != nil {
		return fmt.Errorf("index snapshot: %w", err)
	}
	if err := l.swap(ctx); err != nil {
		return fmt.Errorf("swap in snapshot: %w", err)
	}
	return nil
}

// swap puts the draft in the place of the old state and applies what is pending on top, in one
// transaction.
func (l *loader) swap(ctx context.Context) error {
	return l.st.update(ctx, Snapshot, func(t *txn) error {
		if unsure, err := t.mayBeFolded(l.header.Horizon); err != nil || unsure {
			return errors.Join(err, errUnsure)
		}
		first := t.meta.partial || t.meta.epoch == ""
		lost, err := t.lost(&l.header)
		if err != nil {
			return err
		}
		var ahead []moveop.Op
		if len(lost) == 0 {
			if ahead, err = t.ahead(&l.header); err != nil {
				return err
			}
		}
		for _, table := range logTables {
			if err := t.script("DROP TABLE "+table.name, "ALTER TABLE "+draftPrefix+table.name+" RENAME TO "+table.name); err != nil {
				return err
			}
		}
		t.meta.epoch, t.meta.seq, t.meta.acked = l.header.Epoch, l.header.Seq, 0
		t.meta.digest, t.meta.newest = l.digest, l.newest
		t.meta.horizon, t.meta.folded = l.header.Horizon, l.header.Folded
		t.accept(l.last)
		t.accept(l.header.Horizon)
		t.changes.all()
		if _, err := t.exec(`DELETE FROM pages`); err != nil {
			return err
		}
		t.meta.partial = false
		if err := t.reapply(lost); err != nil {
			return err
		}
		if err := t.carry(ahead); err != nil || !first {
			return err
		}
		return t.groundUndo()
	})
}

// ahead returns the server's operations since the snapshot that a preview has shown. They come again after the new
// cursor, but what was shown must not vanish until then.
func (t *txn) ahead(h *format.Header) (ops []moveop.Op, err error) {
	if !t.meta.partial || t.meta.epoch != h.Epoch {
		return nil, nil
	}
	return t.since(h.Seq)
}

// carry applies operations that are ahead of the cursor.
func (t *txn) carry(ops []moveop.Op) error {
	for i := range ops {
		t.meta.acked = max(t.meta.acked, ops[i].Seq)
	}
	return t.add(ops)
}

func dropDrafts(s *session) error {
	if err := s.script("DROP TABLE IF EXISTS " + draftUnsorted); err != nil {
		return err
	}
	for _, table := range logTables {
		if err := s.script("DROP TABLE IF EXISTS " + draftPrefix + table.name); err != nil {
			return err
		}
	}
	return nil
}
