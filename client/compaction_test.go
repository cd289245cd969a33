package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/pgfuncs/pgtest"
	"github.com/canopysync/canopy/proptest"
	"github.com/canopysync/canopy/realtime/wire"
)

// A room that is compacted now and then, and replicas that bootstrap from it, agree with the model that
// forgets nothing.
func TestCompaction(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	db, err := pgfuncs.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	tables, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tables.Close)
	replicas := pool{t: t}
	proptest.Compaction(t, proptest.Suite{Histories: 40, New: func(t testing.TB, restoreOn proptest.Policy) proptest.Engine {
		room := fmt.Sprintf("room-%d", compactedRooms.Add(1))
		_, err := db.CreateRoom(t.Context(), room, "0193a0e0-0000-7000-8000-00000000cafe")
		if err == nil {
			err = db.SetRestoreOn(t.Context(), room, string(restoreOn))
		}
		if err != nil {
			t.Fatal(err)
		}
		return &compactedRoom{db, tables, room, &replicas}
	}})
}

var compactedRooms atomic.Int64

// compactedRoom is a room of a database.
type compactedRoom struct {
	db       *pgfuncs.DB
	tables   *pgxpool.Pool
	room     string
	replicas *pool
}

func (r *compactedRoom) Apply(ops []moveop.Op) ([]proptest.Result, error) {
	applied, err := r.db.Apply(context.Background(), r.room, ops)
	if refused, ok := errors.AsType[*wire.Error](err); ok && refused.Code == wire.CodeTooOld {
		return nil, fmt.Errorf("%w: %w", proptest.ErrTooOld, err)
	}
	if refused, ok := errors.AsType[*wire.Error](err); ok && refused.Code == wire.CodeInvalidOp {
		return nil, fmt.Errorf("%w: %w", proptest.ErrPurged, err)
	}
	if err != nil {
		return nil, err
	}
	results := make([]proptest.Result, len(ops))
	for i, r := range applied.Results {
		results[i] = proptest.Result{Status: proptest.Status(r.Status), Seq: r.Seq}
	}
	return results, nil
}

func (r *compactedRoom) Compact(horizon moveop.Timestamp) (moveop.Timestamp, error) {
	c, err := r.db.Compact(context.Background(), r.room, horizon, nil)
	return c.Horizon, err
}

func (r *compactedRoom) Purge() error {
	_, err := r.db.Purge(context.Background(), r.room, moveop.MaxTimestamp, nil)
	return err
}

func (r *compactedRoom) Tail() (int64, []moveop.Op, error) {
	room, err := r.db.Room(context.Background(), r.room)
	if err != nil {
		return 0, nil, err
	}
	ops, err := r.db.OpsAfter(context.Background(), r.room, room.MinSeq, 1<<30)
	return room.MinSeq, ops, err
}

func (r *compactedRoom) State() (s proptest.State, err error) {
	ctx := context.Background()
	room, err := r.db.Room(ctx, r.room)
	if err != nil {
		return s, err
	}
	s = proptest.State{
		Nodes:     map[moveop.NodeID]proptest.Placement{},
		Values:    map[proptest.Property]proptest.Write{},
		Effective: map[moveop.Timestamp]bool{},
		Digest:    room.Digest,
	}
	var node, parent, ts [16]byte
	var kind int16
	var orderKey, key string
	var value json.RawMessage
	var effective bool
	for _, read := range []struct {
		query string
		into  []any
		row   func()
	}{
		{`node, parent, order_key, ts from canopy.nodes`, []any{&node, &parent, &orderKey, &ts}, func() {
			s.Nodes[node] = proptest.Placement{Parent: parent, OrderKey: orderKey, TS: ts}
		}},
		{`node, key, value, ts from canopy.values`, []any{&node, &key, &value, &ts}, func() {
			s.Values[proptest.Property{Node: node, Key: key}] = proptest.Write{JSON: string(value), TS: ts}
		}},
		{`ts, kind, effective from canopy.ops`, []any{&ts, &kind, &effective}, func() {
			if kind == int16(moveop.Move) {
				s.Effective[ts] = effective
			}
		}},
	} {
		rows, _ := r.tables.Query(ctx, `select `+read.query+
			` where room_id = (select room_id from canopy.rooms where name = $1)`, r.room)
		if _, err := pgx.ForEachRow(rows, read.into, func() error { read.row(); return nil }); err != nil {
			return s, err
		}
	}
	return s, nil
}

// Bootstrap loads a snapshot as the sync loop does.
func (r *compactedRoom) Bootstrap() (proptest.Engine, error) {
	ctx := context.Background()
	stream, err := r.snapshot(ctx)
	if err != nil {
		return nil, err
	}
	e := r.replicas.get(nil, "").(*engine)
	l := &loader{st: e.store}
	if err := l.load(ctx, stream, r.room); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	if err := l.install(ctx); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// snapshot returns a verified snapshot.
func (r *compactedRoom) snapshot(ctx context.Context) (io.Reader, error) {
	var stream bytes.Buffer
	err := r.db.Snapshot(ctx, r.room, func(s format.Snapshot) error {
		_, err := format.WriteSnapshot(ctx, &stream, s)
		return err
	})
	if err != nil {
		return nil, err
	}
	_, err = format.Verify(bytes.NewReader(stream.Bytes()))
	return &stream, err
}
