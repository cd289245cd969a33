package client

import (
	"database/sql"
	"strings"
)

// bulk is a statement for many rows of parameters. Most of what a statement costs does not depend on
// the number of its rows, so rows go by the greatest of bulkSizes that they fill.
type bulk struct {
	columns int
	queries [len(bulkSizes)]string
}

var bulkSizes = [...]int{128, 16, 2, 1}

// newBulk makes the statements: head, then as many rows of parameters as there are, then tail.
func newBulk(head string, columns int, tail string) *bulk {
	b := &bulk{columns: columns}
	row := "(?" + strings.Repeat(", ?", columns-1) + ")"
	for i, rows := range bulkSizes {
		b.queries[i] = head + row + strings.Repeat(", "+row, rows-1) + tail
	}
	return b
}

// next splits off the parameters of the next statement.
func (b *bulk) next(args []any) (query string, now, rest []any) {
	for i, rows := range bulkSizes {
		if n := rows * b.columns; len(args) >= n {
			return b.queries[i], args[:n], args[n:]
		}
	}
	panic("client: parameters for less than a row")
}

// execBulk runs the statement for all rows in args.
func (s *session) execBulk(b *bulk, args []any) error {
	for len(args) > 0 {
		var query string
		var now []any
		query, now, args = b.next(args)
		if _, err := s.exec(query, now...); err != nil {
			return err
		}
	}
	return nil
}

// eachBulk calls fn for what the statement gives for all rows in args. Fn must not use the session.
func (s *session) eachBulk(b *bulk, args []any, fn func(rows *sql.Rows) error) error {
	for len(args) > 0 {
		var query string
		var now []any
		query, now, args = b.next(args)
		if err := s.each(query, now, fn); err != nil {
			return err
		}
	}
	return nil
}
