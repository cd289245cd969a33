package client

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
)

// session is one SQLite connection with its prepared statements. It is not safe for concurrent use.
//
// Statements run without a context: each is short, and interrupting one inside a transaction would
// only trade a finished step for a rollback. Contexts are looked at between steps.
type session struct {
	db    *sql.DB // holds just this connection
	conn  *sql.Conn
	stmts map[string]*sql.Stmt
}

// errEnded means that there is no session any more.
var errEnded = errors.New("a Tx or View is used outside the function it was passed to")

// ended replaces the session of a Tx or View whose function has returned: others use that session now.
func ended() *session { return &session{} }

// openSession opens a connection on the file, making it where there is none; pragmas are in the form
// name(value).
func openSession(path string, pragmas ...string) (*session, error) {
	return connectTo(path, "rwc", pragmas)
}

// openExisting opens a connection on a file that has been made. If somebody has removed it meanwhile, an empty one
// in its place would keep the next Open from making a new replica.
func openExisting(path string, pragmas ...string) (*session, error) {
	return connectTo(path, "rw", pragmas)
}

func connectTo(path, mode string, pragmas []string) (*session, error) {
	db, err := sql.Open("sqlite", dataSource(path, mode, pragmas))
	if err != nil {
		return nil, storageError(err)
	}
	conn, err := db.Conn(context.Background())
	if err != nil {
		return nil, errors.Join(storageError(err), db.Close())
	}
	return &session{db: db, conn: conn, stmts: map[string]*sql.Stmt{}}, nil
}

// dataSource is an absolute file URI, so that no byte of the path is taken for something else.
func dataSource(path, mode string, pragmas []string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path // a Windows drive
	}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: url.Values{"mode": {mode}, "_pragma": pragmas}.Encode()}).String()
}

func (s *session) close() error {
	var errs []error
	for _, stmt := range s.stmts {
		errs = append(errs, stmt.Close())
	}
	return errors.Join(append(errs, s.conn.Close(), s.db.Close())...)
}

// prepared returns the statement for a query. Queries are constants, or come from a small fixed set.
func (s *session) prepared(query string) (*sql.Stmt, error) {
	if stmt, ok := s.stmts[query]; ok {
		return stmt, nil
	}
	if s.conn == nil {
		return nil, errEnded
	}
	stmt, err := s.conn.PrepareContext(context.Background(), query)
	if err != nil {
		return nil, fmt.Errorf("prepare statement: %w", storageError(err))
	}
	s.stmts[query] = stmt
	return stmt, nil
}

// exec runs a statement and returns how many rows it changed.
func (s *session) exec(query string, args ...any) (int64, error) {
	stmt, err := s.prepared(query)
	if err != nil {
		return 0, err
	}
	result, err := stmt.Exec(args...)
	if err != nil {
		return 0, storageError(err)
	}
	return result.RowsAffected()
}

// script runs statements that are not worth keeping prepared.
func (s *session) script(statements ...string) error {
	for _, statement := range statements {
		if _, err := s.conn.ExecContext(context.Background(), statement); err != nil {
			return storageError(err)
		}
	}
	return nil
}

// row reads the first row of a query into dest; ok is false where there is none.
func (s *session) row(query string, args []any, dest ...any) (ok bool, err error) {
	stmt, err := s.prepared(query)
	if err != nil {
		return false, err
	}
	err = stmt.QueryRow(args...).Scan(dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, storageError(err)
}

// once reads the row of a query that is not worth keeping prepared.
func (s *session) once(query string, dest ...any) error {
	return storageError(s.conn.QueryRowContext(context.Background(), query).Scan(dest...))
}

// each calls fn for every row of a query. Fn must not use the session.
func (s *session) each(query string, args []any, fn func(rows *sql.Rows) error) error {
	stmt, err := s.prepared(query)
	if err != nil {
		return err
	}
	rows, err := stmt.Query(args...)
	if err != nil {
		return storageError(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := fn(rows); err != nil {
			return err
		}
	}
	return storageError(rows.Err())
}

// blob scans a 16-byte column into a NodeID or Timestamp; NULL is zero.
type blob [16]byte

// Scan implements sql.Scanner.
func (b *blob) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*b = blob{}
		return nil
	case []byte:
		if len(v) == len(b) {
			copy(b[:], v)
			return nil
		}
	}
	return fmt.Errorf("%w: a column does not hold a 16-byte id", ErrCorrupt)
}

// orNull is an id for a column in which zero is NULL.
func orNull(id [16]byte) any {
	if id == ([16]byte{}) {
		return nil
	}
	return id[:]
}
