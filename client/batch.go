package client

import (
	"database/sql"
	"slices"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/tree"
)

// batchLog is moveLog for many moves: it looks up what they name in one pass, remembers the rows of
// nodes that it has seen, and writes rows many at a time. Questions that the remembered rows do not
// answer go to the file, after everything has been written there.
type batchLog struct {
	moveLog
	nodes   map[moveop.NodeID]*nodeRow
	named   map[moveop.NodeID]bool
	dirty   []moveop.NodeID        // rows of nodes to write
	history []any                  // rows of ops to write, see historyBulk
	parents map[moveop.NodeID]bool // that these name
	stamps  []any                  // rows of stamps to write, see stampsBulk
}

var _ tree.Log = (*batchLog)(nil)

// nodeRow is a row of nodes, or the fact that there is none.
type nodeRow struct {
	placement
	placed bool
	dirty  bool // it is not written yet
}

var (
	// lookupBulk leaves out nodes that have no row and were never named: new leaves.
	lookupBulk = newBulk("WITH batch (node) AS (VALUES ", 1, `)
		SELECT b.node, n.node IS NOT NULL, coalesce(n.parent, zeroblob(16)), coalesce(n.order_key, ''),
			coalesce(n.ts, zeroblob(16)), coalesce(n.seq, 0), coalesce(n.known, 0), n.cause,
			EXISTS (SELECT 1 FROM nodes WHERE parent = b.node)
				OR EXISTS (SELECT 1 FROM named p WHERE p.node = b.node) AS named
		FROM batch b LEFT JOIN nodes n ON n.node = b.node
		WHERE n.node IS NOT NULL OR named`)

	nodesBulk = newBulk("INSERT INTO nodes (node, "+placementColumns+") VALUES ", 7, `
		ON CONFLICT DO UPDATE SET parent = excluded.parent, order_key = excluded.order_key,
			ts = excluded.ts, seq = excluded.seq, known = excluded.known, cause = excluded.cause`)

	historyBulk = newBulk(`INSERT INTO ops
		(ts, kind, node, parent, order_key, key, value, seq, known, cause, effective) VALUES `, 11, "")

	namedBulk = newBulk("INSERT INTO named (node) VALUES ", 1, " ON CONFLICT DO NOTHING")
)

// batchSize bounds the memory that a batch takes, in operations.
const batchSize = 4096

// addMoves logs moves that are not in the log.
func (t *txn) addMoves(moves []moveop.Op) error {
	slices.SortFunc(moves, func(a, b moveop.Op) int { return a.TS.Compare(b.TS) })
	for batch := range slices.Chunk(moves, batchSize) {
		l := &batchLog{
			moveLog: moveLog{t}, nodes: map[moveop.NodeID]*nodeRow{}, named: map[moveop.NodeID]bool{},
			parents: map[moveop.NodeID]bool{},
		}
		if err := l.lookUp(batch); err != nil {
			return err
		}
		if err := tree.Replay(l, batch); err != nil {
			return err
		}
		if err := l.flush(); err != nil {
			return err
		}
	}
	return nil
}

// lookUp reads what the file knows of the nodes that are moved.
func (l *batchLog) lookUp(moves []moveop.Op) error {
	ids := make([]any, 0, len(moves))
	for i := range moves {
		n := &moves[i].Node
		if _, ok := l.nodes[*n]; !ok {
			l.nodes[*n], l.named[*n] = &nodeRow{}, false
			ids = append(ids, n[:])
		}
	}
	return l.eachBulk(lookupBulk, ids, func(rows *sql.Rows) error {
		var n moveop.NodeID
		var row nodeRow
		var named bool
		dest := append([]any{(*blob)(&n), &row.placed}, row.scan()...)
		if err := rows.Scan(append(dest, &named)...); err != nil {
			return err
		}
		l.nodes[n], l.named[n] = &row, named
		return nil
	})
}

// row returns the row of a node, for which it may have to ask the file.
func (l *batchLog) row(n moveop.NodeID) (*nodeRow, error) {
	if row, ok := l.nodes[n]; ok {
		return row, nil
	}
	p, placed, err := l.placement(n)
	if err != nil {
		return nil, err
	}
	row := &nodeRow{placement: p, placed: placed}
	l.nodes[n] = row
	return row, nil
}

// flush writes what is not in the file yet.
func (l *batchLog) flush() error {
	slices.SortFunc(l.dirty, moveop.NodeID.Compare) // neighbours in the file one after the other
	args := make([]any, 0, 7*len(l.dirty))
	for _, n := range l.dirty {
		row := l.nodes[n]
		row.dirty = false
		args = append(args, n[:], row.parent[:], row.orderKey, row.ts[:], row.seq, row.known, orNull(row.cause))
	}
	l.dirty = l.dirty[:0]
	if err := l.execBulk(nodesBulk, args); err != nil {
		return err
	}
	args, l.history = l.history, nil
	if err := l.execBulk(historyBulk, args); err != nil {
		return err
	}
	args = args[:0]
	for n := range l.parents {
		args = append(args, n[:])
	}
	clear(l.parents)
	if err := l.execBulk(namedBulk, args); err != nil {
		return err
	}
	args, l.stamps = l.stamps, nil
	return l.execBulk(stampsBulk, args)
}

// NamedAsParent implements tree.Log.
func (l *batchLog) NamedAsParent(n moveop.NodeID) (bool, error) {
	if named, ok := l.named[n]; ok {
		return named, nil
	}
	named, err := l.moveLog.NamedAsParent(n)
	l.named[n] = named
	return named, err
}

// ParentBefore implements tree.Log.
func (l *batchLog) ParentBefore(n moveop.NodeID, t moveop.Timestamp) (moveop.NodeID, bool, error) {
	row, err := l.row(n)
	if err != nil || !row.placed || row.ts.Before(t) {
		return rowParent(row), err == nil && row.placed, err
	}
	if err := l.flush(); err != nil {
		return moveop.NodeID{}, false, err
	}
	return l.moveLog.ParentBefore(n, t)
}

func rowParent(row *nodeRow) moveop.NodeID {
	if row == nil {
		return moveop.NodeID{}
	}
	return row.parent
}

// NextEffective implements tree.Log.
func (l *batchLog) NextEffective(n moveop.NodeID, t moveop.Timestamp) (moveop.Timestamp, error) {
	row, err := l.row(n)
	if err == nil && (!row.placed || !t.Before(row.ts)) {
		return moveop.MaxTimestamp, nil // the row is the last effective move
	}
	if err == nil {
		err = l.flush()
	}
	if err != nil {
		return moveop.Timestamp{}, err
	}
	return l.moveLog.NextEffective(n, t)
}

// MovesOf implements tree.Log.
func (l *batchLog) MovesOf(dst []tree.Move, n moveop.NodeID, from, to moveop.Timestamp) ([]tree.Move, error) {
	if err := l.flush(); err != nil {
		return dst, err
	}
	return l.moveLog.MovesOf(dst, n, from, to)
}

// MovesIn implements tree.Log.
func (l *batchLog) MovesIn(dst []tree.Move, from, to moveop.Timestamp, limit int) ([]tree.Move, error) {
	if err := l.flush(); err != nil {
		return dst, err
	}
	return l.moveLog.MovesIn(dst, from, to, limit)
}

// Add implements tree.Log.
func (l *batchLog) Add(op moveop.Op, effective bool) error {
	row, err := l.row(op.Node)
	if err != nil {
		return err
	}
	if l.meta.newest.Before(op.TS) {
		l.meta.newest = op.TS
	}
	l.count(&op)
	l.stamps = stampArgs(l.stamps, &op)
	l.named[op.Parent] = true
	p := placementOf(&op)
	if !effective || row.placed && p.ts.Before(row.ts) {
		l.remember(op.Node, p, effective)
		return nil
	}
	if row.placed {
		l.remember(op.Node, row.placement, true)
		l.meta.digest.State ^= moveop.PlacementHash(op.Node, row.parent, row.orderKey)
	}
	l.meta.digest.State ^= moveop.PlacementHash(op.Node, p.parent, p.orderKey)
	l.changes.moved(op.Node, row.placement, p)
	row.placement, row.placed = p, true
	if !row.dirty {
		row.dirty = true
		l.dirty = append(l.dirty, op.Node)
	}
	return nil
}

// remember puts a move into the history.
func (l *batchLog) remember(n moveop.NodeID, p placement, effective bool) {
	l.history = append(l.history, p.ts[:], int(moveop.Move), n[:], p.parent[:], p.orderKey, "", nil,
		p.seq, p.known, orNull(p.cause), effective)
	l.parents[p.parent] = true
}

// SetEffective implements tree.Log.
func (l *batchLog) SetEffective(m tree.Move, effective bool) error {
	if err := l.flush(); err != nil {
		return err
	}
	delete(l.nodes, m.Node)
	return l.moveLog.SetEffective(m, effective)
}

// foundBulk gives whole operations, as logged does.
var foundBulk = newBulk("WITH batch (ts) AS (VALUES ", 1, `),
	s AS MATERIALIZED (SELECT p.ts, p.node, p.key FROM batch b CROSS JOIN stamps p ON p.ts = b.ts
		UNION ALL SELECT x.ts, x.node, coalesce(x.key, '') FROM batch b CROSS JOIN outbox x ON x.ts = b.ts)`+stampedQuery)

// findAll returns those of the operations that are in the log, as they are there, by timestamp.
// Operations later than the whole log cost nothing.
func (t *txn) findAll(ops []moveop.Op) (map[moveop.Timestamp]moveop.Op, error) {
	last := t.meta.last()
	args := make([]any, 0, len(ops))
	for i := range ops {
		if !last.Before(ops[i].TS) {
			args = append(args, ops[i].TS[:])
		}
	}
	found := map[moveop.Timestamp]moveop.Op{}
	err := t.eachBulk(foundBulk, args, func(rows *sql.Rows) error {
		op, err := scanOp(rows)
		found[op.TS] = op
		return err
	})
	return found, err
}

// setKey is what a set writes.
type setKey struct {
	node moveop.NodeID
	key  string
}

// valueRow is a row of vals, as the set that it is.
type valueRow struct {
	op    *moveop.Op // nil where there is none
	dirty bool       // it is not written yet
}

var (
	writesBulk = newBulk("WITH batch (node, key) AS (VALUES ", 2, `)
		SELECT v.node, v.key, v.value, v.ts, v.seq, v.known
		FROM batch b CROSS JOIN vals v ON v.node = b.node AND v.key = b.key`)

	valuesBulk = newBulk("INSERT INTO vals (node, key, value, ts, seq, known) VALUES ", 6, `
		ON CONFLICT DO UPDATE SET value = excluded.value, ts = excluded.ts, seq = excluded.seq, known = excluded.known`)
)

// addSets logs sets that are not in the log: the last writer wins.
func (t *txn) addSets(sets []moveop.Op) error {
	for batch := range slices.Chunk(sets, batchSize) {
		if err := t.addSetBatch(batch); err != nil {
			return err
		}
	}
	return nil
}

func (t *txn) addSetBatch(sets []moveop.Op) error {
	current, err := t.writes(sets)
	if err != nil {
		return err
	}
	var written []*valueRow
	var history, stamps []any
	for i := range sets {
		op := &sets[i]
		t.count(op)
		stamps = stampArgs(stamps, op)
		row := current[setKey{op.Node, op.Key}]
		if row.op != nil && op.TS.Before(row.op.TS) {
			history = append(history, setArgs(op)...)
			continue
		}
		if row.op != nil {
			history = append(history, setArgs(row.op)...)
			t.meta.digest.State ^= moveop.ValueHash(op.Node, op.Key, row.op.TS)
		}
		t.meta.digest.State ^= moveop.ValueHash(op.Node, op.Key, op.TS)
		t.changes.written(op)
		if row.op = op; !row.dirty {
			row.dirty = true
			written = append(written, row)
		}
	}
	args := make([]any, 0, 6*len(written))
	for _, row := range written {
		op := row.op
		args = append(args, op.Node[:], op.Key, string(op.Value), op.TS[:], op.Seq, op.Known)
	}
	if err := t.execBulk(valuesBulk, args); err != nil {
		return err
	}
	if err := t.execBulk(historyBulk, history); err != nil {
		return err
	}
	return t.execBulk(stampsBulk, stamps)
}

// writes looks up the current writes of all properties that the sets write.
func (t *txn) writes(sets []moveop.Op) (map[setKey]*valueRow, error) {
	current := make(map[setKey]*valueRow, len(sets))
	args := make([]any, 0, 2*len(sets))
	for i := range sets {
		k := setKey{sets[i].Node, sets[i].Key}
		if current[k] == nil {
			current[k] = &valueRow{}
			args = append(args, sets[i].Node[:], k.key)
		}
	}
	err := t.eachBulk(writesBulk, args, func(rows *sql.Rows) error {
		op := &moveop.Op{Kind: moveop.Set}
		var value string
		if err := rows.Scan((*blob)(&op.Node), &op.Key, &value, (*blob)(&op.TS), &op.Seq, &op.Known); err != nil {
			return err
		}
		op.Value = []byte(value)
		current[setKey{op.Node, op.Key}].op = op
		return nil
	})
	return current, err
}

// setArgs is a set's row of ops.
func setArgs(op *moveop.Op) []any {
	return []any{op.TS[:], int(moveop.Set), op.Node[:], nil, nil, op.Key, string(op.Value), op.Seq, op.Known, nil, true}
}
