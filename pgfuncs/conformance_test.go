package pgfuncs_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/pgfuncs/pgtest"
	"github.com/canopysync/canopy/proptest"
	"github.com/canopysync/canopy/realtime/wire"
)

const epoch = "0192f0c1-2b3c-7d4e-8f50-61728394a5b6"

// engine is one room of a database, as the conformance suite sees it.
type engine struct {
	db   *pgfuncs.DB
	pool *pgxpool.Pool // for what has no method: looking into the tables
	room string
}

var rooms atomic.Int64

// database is a fresh database of a test, with room for many engines.
type database struct {
	*pgfuncs.DB
	pool *pgxpool.Pool
}

func openDatabase(t testing.TB, opts ...pgtest.Option) database {
	t.Helper()
	return openURL(t, pgtest.New(t, opts...))
}

func openURL(t testing.TB, url string) database {
	t.Helper()
	db, err := pgfuncs.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	pool, err := pgxpool.New(t.Context(), url+"&enable_seqscan=off") // a room is a small part of its tables
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return database{db, pool}
}

// newRoom makes an empty room of a name of its own.
func (d database) newRoom(t testing.TB) string {
	t.Helper()
	room := fmt.Sprintf("room-%d", rooms.Add(1))
	if _, err := d.CreateRoom(t.Context(), room, epoch); err != nil {
		t.Fatal(err)
	}
	return room
}

func (d database) newEngine(t testing.TB, restoreOn proptest.Policy) proptest.Engine {
	t.Helper()
	e := &engine{db: d.DB, pool: d.pool, room: d.newRoom(t)}
	if err := d.SetRestoreOn(t.Context(), e.room, string(restoreOn)); err != nil {
		t.Fatal(err)
	}
	return e
}

// The order of siblings is that of bytes whatever the database sorts text by.
func TestConformance(t *testing.T) {
	t.Parallel()
	for i, collation := range []string{pgtest.C, pgtest.English} {
		t.Run(collation, func(t *testing.T) {
			t.Parallel()
			db := openDatabase(t, pgtest.WithCollation(collation))
			proptest.Conformance(t, proptest.Suite{
				New: db.newEngine, Orders: 24, Histories: 2000, SmallScope: 100, Part: i, Parts: 2,
			})
		})
	}
}

func (e *engine) Apply(ops []moveop.Op) ([]proptest.Result, error) {
	applied, err := e.db.Apply(context.Background(), e.room, ops)
	if err != nil {
		return nil, suiteError(err)
	}
	results := make([]proptest.Result, len(ops))
	for i, r := range applied.Results {
		results[i] = proptest.Result{Status: proptest.Status(r.Status), Seq: r.Seq}
	}
	return results, nil
}

func suiteError(err error) error {
	refused, ok := errors.AsType[*wire.Error](err)
	if !ok {
		return err
	}
	switch refused.Code {
	case wire.CodeConflict:
		return fmt.Errorf("%w: %w", proptest.ErrConflict, err)
	case wire.CodeOutOfOrder:
		return fmt.Errorf("%w: %w", proptest.ErrOutOfOrder, err)
	case wire.CodeInvalidOp:
		return fmt.Errorf("%w: %w", proptest.ErrInvalid, err)
	}
	return err
}

func (e *engine) Log() ([]moveop.Op, error) {
	return e.db.OpsAfter(context.Background(), e.room, 0, 1<<30)
}

// Children reads small pages, so that siblings with equal order keys come on different ones.
func (e *engine) Children(parent moveop.NodeID) (ids []moveop.NodeID, err error) {
	for after, more := "", true; more; {
		page, err := e.db.Children(context.Background(), e.room, parent, after, 2, 0)
		if err != nil {
			return nil, err
		}
		for _, n := range page.Nodes {
			ids = append(ids, n.ID)
		}
		if more = page.Next != nil; more {
			after = *page.Next
		}
	}
	return ids, nil
}

func (e *engine) State() (proptest.State, error) {
	ctx := context.Background()
	s := proptest.State{
		Nodes:     map[moveop.NodeID]proptest.Placement{},
		Values:    map[proptest.Property]proptest.Write{},
		Effective: map[moveop.Timestamp]bool{},
		Version:   map[moveop.ReplicaID]moveop.Timestamp{},
	}
	room, err := e.db.Room(ctx, e.room)
	if err != nil {
		return s, err
	}
	s.Digest = room.Digest
	var reads pgx.Batch // one round trip: this is asked all the time
	e.readNodes(&reads, &s)
	e.readValues(&reads, &s)
	e.readEffective(&reads, &s)
	e.readVersion(&reads, &s)
	return s, e.pool.SendBatch(ctx, &reads).Close()
}

// Dump reads all tables of rooms, with the transaction that wrote each row: a row that was written again as it
// was is another one.
func (e *engine) Dump() (rows []string, err error) {
	const tables = `select c.table_name from information_schema.columns c join information_schema.tables t using (table_schema, table_name)
		where c.table_schema = 'canopy' and c.column_name = 'room_id' and t.table_type = 'BASE TABLE' order by 1`
	ctx := context.Background()
	found, err := e.pool.Query(ctx, tables)
	if err != nil {
		return nil, err
	}
	names, err := pgx.CollectRows(found, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	var reads pgx.Batch
	for _, name := range names {
		var row string
		e.forEach(&reads, fmt.Sprintf(`%s.xmin || %[1]s::text from canopy.%[1]s`, pgx.Identifier{name}.Sanitize()), []any{&row}, func() {
			rows = append(rows, name+row)
		})
	}
	err = e.pool.SendBatch(ctx, &reads).Close()
	slices.Sort(rows)
	return rows, err
}

func (e *engine) forEach(reads *pgx.Batch, columnsFrom string, into []any, f func()) {
	query := `select ` + columnsFrom + ` where room_id = (select room_id from canopy.rooms where name = $1)`
	reads.Queue(query, e.room).Query(func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, into, func() error { f(); return nil })
		return err
	})
}

func (e *engine) readNodes(reads *pgx.Batch, s *proptest.State) {
	var node, parent, ts [16]byte
	var key string
	e.forEach(reads, `node, parent, order_key, ts from canopy.nodes`, []any{&node, &parent, &key, &ts}, func() {
		s.Nodes[node] = proptest.Placement{Parent: parent, OrderKey: key, TS: ts}
	})
}

func (e *engine) readValues(reads *pgx.Batch, s *proptest.State) {
	var node, ts [16]byte
	var key string
	var value json.RawMessage
	e.forEach(reads, `node, key, value, ts from canopy.values`, []any{&node, &key, &value, &ts}, func() {
		s.Values[proptest.Property{Node: node, Key: key}] = proptest.Write{JSON: string(value), TS: ts}
	})
}

func (e *engine) readEffective(reads *pgx.Batch, s *proptest.State) {
	var ts [16]byte
	var kind int16
	var effective bool
	e.forEach(reads, `ts, kind, effective from canopy.ops`, []any{&ts, &kind, &effective}, func() {
		if kind == int16(moveop.Move) {
			s.Effective[ts] = effective
		}
	})
}

func (e *engine) readVersion(reads *pgx.Batch, s *proptest.State) {
	var replica int64
	var last [16]byte
	e.forEach(reads, `replica, last_ts from canopy.replicas`, []any{&replica, &last}, func() {
		s.Version[moveop.ReplicaID(replica)] = last
	})
}
