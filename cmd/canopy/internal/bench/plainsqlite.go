package bench

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"path/filepath"
	"strings"

	_ "modernc.org/sqlite" // the driver that package client uses

	"github.com/canopysync/canopy/moveop"
)

// plainFile is an SQLite file with a table like the client's nodes, as durable as the client's file.
type plainFile struct {
	db         *sql.DB
	insert     *sql.Stmt // of rowsPerInsert
	tick       *sql.Stmt
	statements []*sql.Stmt
}

// rowsPerInsert is about the fastest way to insert.
const rowsPerInsert = 100

// The client's nodes.
const (
	createPlain = `CREATE TABLE nodes (node BLOB PRIMARY KEY, parent BLOB NOT NULL, order_key TEXT NOT NULL,
		ts BLOB NOT NULL, seq INTEGER NOT NULL, known INTEGER NOT NULL, cause BLOB) WITHOUT ROWID`
	indexChildren   = `CREATE INDEX nodes_children ON nodes (parent, order_key, node)`
	indexTimestamps = `CREATE INDEX nodes_ts ON nodes (ts)`
)

func insertPlainRows(n int) string {
	return `INSERT INTO nodes (node, parent, order_key, ts, seq, known) VALUES ` + strings.Repeat(", (?, ?, ?, ?, ?, ?)", n)[2:]
}

func openPlainFile(ctx context.Context, dir string) (*plainFile, error) {
	pragmas := url.Values{"_pragma": {"journal_mode(wal)", "synchronous(full)", "cache_size(-16000)"}}
	db, err := sql.Open("sqlite", "file:"+filepath.ToSlash(filepath.Join(dir, "plain"))+"?"+pragmas.Encode())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	f := &plainFile{db: db}
	for _, statement := range []string{
		createPlain, indexChildren, indexTimestamps,
		`CREATE TABLE ticks (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)`,
		`INSERT INTO ticks VALUES (1, 0)`,
	} {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return nil, errors.Join(err, db.Close())
		}
	}
	if f.insert, err = f.prepare(ctx, insertPlainRows(rowsPerInsert)); err == nil {
		f.tick, err = f.prepare(ctx, `UPDATE ticks SET n = n + 1`)
	}
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

func (f *plainFile) prepare(ctx context.Context, query string) (*sql.Stmt, error) {
	stmt, err := f.db.PrepareContext(ctx, query)
	if err == nil {
		f.statements = append(f.statements, stmt)
	}
	return stmt, err
}

func (f *plainFile) close() error {
	var errs []error
	for _, stmt := range f.statements {
		errs = append(errs, stmt.Close())
	}
	return errors.Join(append(errs, f.db.Close())...)
}

// insertRows inserts operations as rows, in one transaction; as many as a multiple of rowsPerInsert.
func (f *plainFile) insertRows(ctx context.Context, ops []moveop.Op) error {
	tx, err := f.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // after a commit it does nothing
	insert := tx.StmtContext(ctx, f.insert)
	defer insert.Close()
	args := make([]any, 0, 6*rowsPerInsert)
	for len(ops) >= rowsPerInsert {
		args = args[:0]
		for i := range ops[:rowsPerInsert] {
			op := &ops[i]
			// A moved node's row is there already: the timestamp stands in for the node.
			args = append(args, op.TS[:], op.Parent[:], op.OrderKey, op.TS[:], op.Seq, op.Known)
		}
		if _, err := insert.ExecContext(ctx, args...); err != nil {
			return err
		}
		ops = ops[rowsPerInsert:]
	}
	return tx.Commit()
}

// commit is a durable commit of next to nothing: SQLite does not write an empty one.
func (f *plainFile) commit(ctx context.Context) error {
	_, err := f.tick.ExecContext(ctx)
	return err
}

// insertSorted makes a file with the rows of a room of so many nodes, in key order and in one
// transaction, without a journal or a sync; where indexes are wanted, they are made afterwards.
func insertSorted(ctx context.Context, path string, nodes int, indexed bool) (err error) {
	pragmas := url.Values{"_pragma": {"journal_mode(off)", "synchronous(off)", "cache_size(-16000)"}}
	db, err := sql.Open("sqlite", "file:"+filepath.ToSlash(path)+"?"+pragmas.Encode())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if _, err := db.ExecContext(ctx, createPlain); err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // after a commit it does nothing
	if err := insertCreates(ctx, tx, nodes); err != nil {
		return err
	}
	if indexed {
		for _, statement := range []string{indexChildren, indexTimestamps} {
			if _, err := tx.ExecContext(ctx, statement); err != nil {
				return err
			}
		}
	}
	return tx.Commit()
}

// insertCreates inserts the nodes that an author makes: each is behind the one before.
func insertCreates(ctx context.Context, tx *sql.Tx, nodes int) error {
	insert, err := tx.PrepareContext(ctx, insertPlainRows(rowsPerInsert))
	if err != nil {
		return err
	}
	defer insert.Close()
	a := newAuthor(eighths)
	args := make([]any, 0, 6*rowsPerInsert)
	for a.nodes < nodes {
		op := a.create(nodes)
		args = append(args, op.Node[:], op.Parent[:], op.OrderKey, op.TS[:], a.nodes, a.nodes)
		if len(args) < cap(args) {
			continue
		}
		if _, err := insert.ExecContext(ctx, args...); err != nil {
			return err
		}
		args = args[:0]
	}
	if len(args) == 0 {
		return nil
	}
	_, err = tx.ExecContext(ctx, insertPlainRows(len(args)/6), args...)
	return err
}
