package client

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/moveop"
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
)

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

// load reads a snapshot into the draft tables, and verifies it.
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
	return l.check()
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

func dropDrafts(s *session) error {
	for _, table := range logTables {
		if err := s.script("DROP TABLE IF EXISTS " + draftPrefix + table.name); err != nil {
			return err
		}
	}
	return nil
}
