package formattest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/moveop"
)

// Snapshot is a format.Snapshot made of rows in memory. The rows must be in primary key order.
type Snapshot struct {
	Room    string
	Epoch   string
	Seq     int64
	Horizon moveop.Timestamp
	Created time.Time
	Nodes   []format.NodeRow
	Values  []format.ValueRow
	Ops     []format.OpRow
}

var _ format.Snapshot = (*Snapshot)(nil)

// Header describes the snapshot; the digest is computed from the rows.
func (s *Snapshot) Header() format.Header {
	return format.Header{
		Format: format.Version, Room: s.Room, Epoch: s.Epoch, Seq: s.Seq, Horizon: s.Horizon,
		Created: s.Created, Digest: s.digest(),
		Sections: format.Sections(int64(len(s.Nodes)), int64(len(s.Values)), int64(len(s.Ops))),
	}
}

func (s *Snapshot) digest() (d moveop.Digest) {
	for _, n := range s.Nodes {
		d.Log ^= n.Op().LogHash()
		d.State ^= moveop.PlacementHash(n.Node, n.Parent, string(n.OrderKey))
	}
	for _, v := range s.Values {
		d.Log ^= v.Op().LogHash()
		d.State ^= moveop.ValueHash(v.Node, string(v.Key), v.TS)
	}
	for _, o := range s.Ops {
		d.Log ^= o.Op().LogHash()
	}
	d.Ops = int64(len(s.Nodes) + len(s.Values) + len(s.Ops))
	return d
}

// Copy writes the section's COPY data as Postgres does, a row in each Write.
func (s *Snapshot) Copy(ctx context.Context, tag int, w io.Writer) (int64, error) {
	rows, err := s.rows(tag)
	if err != nil {
		return 0, err
	}
	if _, err := w.Write(AppendCopyHeader(nil)); err != nil {
		return 0, err
	}
	for i, row := range rows {
		if err := ctx.Err(); err != nil {
			return int64(i), err
		}
		if _, err := w.Write(AppendCopyRow(nil, row...)); err != nil {
			return int64(i), err
		}
	}
	_, err = w.Write(AppendCopyTrailer(nil))
	return int64(len(rows)), err
}

func (s *Snapshot) rows(tag int) (rows [][]any, err error) {
	switch tag {
	case format.TagNodes:
		for _, n := range s.Nodes {
			rows = append(rows, []any{n.Node, n.Parent, n.OrderKey, n.TS, n.Seq, n.Known, nullable(n.Cause)})
		}
	case format.TagValues:
		for _, v := range s.Values {
			rows = append(rows, []any{v.Node, v.Key, v.Value, v.TS, v.Seq, v.Known})
		}
	case format.TagOps:
		for _, o := range s.Ops {
			rows = append(rows, opRow(o))
		}
	default:
		return nil, fmt.Errorf("formattest: no section %d", tag)
	}
	return rows, nil
}

func opRow(o format.OpRow) []any {
	row := []any{o.Seq, o.TS, int16(o.Kind), o.Node, o.Parent, o.OrderKey, o.Key, o.Value, o.Known, nullable(o.Cause), o.Effective}
	if o.Kind == moveop.Set {
		row[4] = nil
	}
	return row
}

func nullable(ts moveop.Timestamp) any {
	if ts.IsZero() {
		return nil
	}
	return ts
}

// Encode returns the snapshot as a stream. It panics where the rows make no snapshot.
func Encode(s format.Snapshot) []byte {
	var buf bytes.Buffer
	if _, err := format.WriteSnapshot(context.Background(), &buf, s); err != nil {
		panic(fmt.Sprintf("formattest: %v", err))
	}
	return buf.Bytes()
}

// Sample returns a small snapshot with a row of every kind: three nodes, one of them restored by a
// correction, two values, one of them cleared, and three superseded ops.
func Sample() *Snapshot {
	node := func(i byte) moveop.NodeID { return moveop.NodeID{0: 0x01, 1: 0x93, 6: 0x70, 15: i} }
	at := func(counter uint16) moveop.Timestamp {
		return moveop.NewTimestamp(1_700_000_000_000, counter, 0x1122334455667788)
	}
	return &Snapshot{
		Room: "garden", Epoch: "0193a0e0-0000-7000-8000-00000000cafe", Seq: 8,
		Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Nodes: []format.NodeRow{
			{Node: node(1), Parent: moveop.Root, OrderKey: []byte("a0"), TS: at(1), Seq: 1},
			{Node: node(2), Parent: moveop.Root, OrderKey: []byte("a1"), TS: at(5).Correction(), Seq: 6, Known: 5, Cause: at(4)},
			{Node: node(3), Parent: node(2), OrderKey: []byte("a0"), TS: at(4), Seq: 4, Known: 2},
		},
		Values: []format.ValueRow{
			{Node: node(1), Key: []byte("title"), Value: []byte(`"tulips"`), TS: at(7), Seq: 8, Known: 6},
			{Node: node(2), Key: []byte("colour"), Value: []byte(`null`), TS: at(6), Seq: 7, Known: 6},
		},
		Ops: []format.OpRow{
			{Seq: 2, TS: at(2), Kind: moveop.Move, Node: node(2), Parent: moveop.Root, OrderKey: []byte("a1"), Effective: true},
			{Seq: 3, TS: at(3), Kind: moveop.Set, Node: node(1), Key: []byte("title"), Value: []byte(`"roses"`), Known: 2},
			{Seq: 5, TS: at(5), Kind: moveop.Move, Node: node(2), Parent: moveop.Trash, OrderKey: []byte("a1"), Known: 3, Effective: true},
		},
	}
}
