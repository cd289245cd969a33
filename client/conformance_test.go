package client

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/proptest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	p := pool{t: t}
	proptest.Conformance(t, proptest.Suite{New: p.get, Orders: 24, Histories: 2000, SmallScope: 50})
}

// pool lends out clients one after the other: to make a file takes longer than most stories.
type pool struct {
	t    *testing.T
	idle []*engine
}

func (p *pool) get(testing.TB, proptest.Policy) proptest.Engine {
	if last := len(p.idle) - 1; last >= 0 {
		e := p.idle[last]
		p.idle = p.idle[:last]
		return e
	}
	e := &engine{pool: p, path: filepath.Join(p.t.TempDir(), "replica")}
	if err := e.open(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if err := e.Client.Close(); err != nil {
			p.t.Error(err)
		}
	})
	return e
}

// engine is a client that is handed operations as if they came from a server.
type engine struct {
	pool *pool
	path string
	*Client
}

func (e *engine) open() (err error) {
	e.Client, err = Open(context.Background(), e.path, Options{Room: "garden"})
	if err != nil {
		return err
	}
	return e.store.file.writer.script("PRAGMA synchronous = OFF") // no power cuts in this test
}

// Close empties the file for the next story.
func (e *engine) Close() error {
	e.pool.idle = append(e.pool.idle, e)
	return e.store.update(context.Background(), Remote, func(t *txn) error {
		t.meta = meta{room: t.meta.room, replica: t.meta.replica, version: t.meta.version}
		t.store.startClock(&t.meta)
		return t.script("DELETE FROM nodes", "DELETE FROM vals", "DELETE FROM ops", "DELETE FROM named", "DELETE FROM stamps")
	})
}

// Reopen implements proptest.Reopener.
func (e *engine) Reopen() error {
	if err := e.Client.Close(); err != nil {
		return err
	}
	return e.open()
}

// Apply implements proptest.Engine.
func (e *engine) Apply(ops []moveop.Op) (results []proptest.Result, err error) {
	err = e.store.update(context.Background(), Remote, func(t *txn) error {
		results, err = e.merge(t, ops)
		return err
	})
	switch {
	case errors.Is(err, errConflict):
		err = fmt.Errorf("%w: %w", proptest.ErrConflict, err)
	case errors.Is(err, errInvalid):
		err = fmt.Errorf("%w: %w", proptest.ErrInvalid, err)
	}
	return results, err
}

func (e *engine) merge(t *txn, ops []moveop.Op) ([]proptest.Result, error) {
	results := make([]proptest.Result, len(ops))
	ops = slices.Clone(ops)
	seqs := map[moveop.Timestamp]int64{}
	for i, op := range ops {
		err := t.logged(op.TS, op.TS, func(op moveop.Op) error { seqs[op.TS] = op.Seq; return nil })
		if err != nil {
			return nil, err
		}
		if _, ok := seqs[op.TS]; ok {
			results[i].Status = proptest.StatusDuplicate
		} else {
			t.meta.seq++
			seqs[op.TS] = t.meta.seq
		}
		ops[i].Seq = seqs[op.TS] // as a server would have it
	}
	if _, err := t.merge(ops); err != nil {
		return nil, err
	}
	for i, op := range ops {
		if results[i].Status == proptest.StatusDuplicate {
			continue
		}
		var superseded, effective bool
		superseded, err := t.row(`SELECT effective FROM ops WHERE node = ? AND key = ? AND ts = ?`,
			[]any{op.Node[:], op.Key, op.TS[:]}, &effective)
		if err != nil {
			return nil, err
		}
		results[i].Status = proptest.StatusApplied
		if superseded && !effective {
			results[i].Status = proptest.StatusIneffective
		}
	}
	return results, nil
}

// State implements proptest.Engine.
func (e *engine) State() (s proptest.State, err error) {
	err = e.store.view(context.Background(), func(session *session) error {
		s, err = readState(session)
		return err
	})
	s.Digest = e.Digest()
	return s, err
}

func readState(session *session) (proptest.State, error) {
	s := proptest.State{
		Nodes:     map[moveop.NodeID]proptest.Placement{},
		Values:    map[proptest.Property]proptest.Write{},
		Effective: map[moveop.Timestamp]bool{},
	}
	err := session.each(`SELECT node, parent, order_key, ts FROM nodes`, nil, func(rows *sql.Rows) error {
		var n moveop.NodeID
		var p proptest.Placement
		err := rows.Scan((*blob)(&n), (*blob)(&p.Parent), &p.OrderKey, (*blob)(&p.TS))
		s.Nodes[n], s.Effective[p.TS] = p, true
		return err
	})
	if err != nil {
		return s, err
	}
	err = session.each(`SELECT node, key, value, ts FROM vals`, nil, func(rows *sql.Rows) error {
		var p proptest.Property
		var w proptest.Write
		err := rows.Scan((*blob)(&p.Node), &p.Key, &w.JSON, (*blob)(&w.TS))
		s.Values[p] = w
		return err
	})
	if err != nil {
		return s, err
	}
	return s, session.each(`SELECT ts, effective FROM ops WHERE kind = 1`, nil, func(rows *sql.Rows) error {
		var ts moveop.Timestamp
		var effective bool
		err := rows.Scan((*blob)(&ts), &effective)
		s.Effective[ts] = effective
		return err
	})
}

// Dump reads the whole file.
func (e *engine) Dump() (rows []string, err error) {
	err = e.store.view(context.Background(), func(session *session) error {
		var tables []string
		err := session.each(`SELECT name FROM sqlite_master WHERE type = 'table'`, nil, func(found *sql.Rows) error {
			var name string
			defer func() { tables = append(tables, name) }()
			return found.Scan(&name)
		})
		for _, table := range tables {
			err = errors.Join(err, session.each(`SELECT * FROM `+table, nil, func(found *sql.Rows) error {
				row, err := scanAll(found)
				rows = append(rows, table+row)
				return err
			}))
		}
		return err
	})
	slices.Sort(rows)
	return rows, err
}

func scanAll(rows *sql.Rows) (string, error) {
	columns, err := rows.Columns()
	if err != nil {
		return "", err
	}
	values, into := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	err = rows.Scan(into...)
	return fmt.Sprintf("%q", values), err
}

// Children implements proptest.ChildReader, in pages.
func (e *engine) Children(parent moveop.NodeID) (children []moveop.NodeID, err error) {
	var after Cursor
	for {
		page, err := e.Client.Children(context.Background(), parent, after, 3)
		if err != nil || len(page) == 0 {
			return children, err
		}
		for _, n := range page {
			children = append(children, n.ID)
		}
		after = page[len(page)-1].Cursor()
	}
}
