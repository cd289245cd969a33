package pgfuncs

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

const (
	applySQL = `select head, seqs, statuses from canopy.apply($1, $2, $3, $4, $5, $6, $7, $8, $9)`
	// Not in FROM, where the result would pass through a tuplestore.
	applyOneSQL = `select canopy.apply_one($1, $2, $3, $4, $5, $6, $7, $8, $9)`
)

// Apply applies one batch to a room, all of it or nothing: cycle prevention, values, corrections,
// digests and the version vector, with the room's row lock as the only lock. The order of ops is the
// order of their seqs; each replica's ops ascend by timestamp. When it returns, the batch is committed.
//
// The error is a *wire.Error that names the refused op (conflict, too_old, out_of_order, invalid_op,
// clock_skew with the server's time), or wire.ErrUnknownRoom. Repeating a batch is harmless: its ops are
// duplicates then, with the seqs they already have.
func (db *DB) Apply(ctx context.Context, room string, ops []moveop.Op) (wire.Applied, error) {
	return apply(ctx, db.pool, room, ops)
}

// ApplyFirst creates a room with the given epoch (a UUID) and applies its first batch, as Apply does, in one
// transaction: a refused batch leaves no room behind. It returns the room as it was before the batch. If that
// has another epoch, somebody else created the room first, and nothing is applied.
func (db *DB) ApplyFirst(ctx context.Context, room, epoch string, ops []moveop.Op) (made wire.Room, applied wire.Applied, err error) {
	tx, err := db.pool.Begin(ctx)
	if err != nil {
		return made, applied, domainError("apply first batch", err)
	}
	defer func() { _ = tx.Rollback(ctx) }() // no effect after commit
	if made, err = createRoom(ctx, tx, room, epoch); err != nil || made.Epoch != epoch {
		return made, applied, err
	}
	if applied, err = apply(ctx, tx, room, ops); err != nil {
		return made, applied, err
	}
	if err = tx.Commit(ctx); err != nil {
		err = domainError("apply first batch", err)
	}
	return made, applied, err
}

func apply(ctx context.Context, q querier, room string, ops []moveop.Op) (wire.Applied, error) {
	if len(ops) == 1 {
		return applyOne(ctx, q, room, ops[0])
	}
	b := newBatch(ops)
	var head int64
	var seqs []int64
	var statuses []int16
	err := q.QueryRow(ctx, applySQL,
		room, b.ts, b.kind, b.node, b.parent, b.orderKey, b.key, b.value, b.known,
	).Scan(&head, &seqs, &statuses)
	if err != nil {
		return wire.Applied{}, domainError("apply batch", err)
	}
	if len(seqs) != len(ops) || len(statuses) != len(ops) {
		return wire.Applied{}, fmt.Errorf("apply batch: %d results for %d operations", len(seqs), len(ops))
	}
	applied := wire.Applied{Head: head, Results: make([]wire.Result, len(ops))}
	for i, op := range ops {
		applied.Results[i] = wire.Result{TS: op.TS, Seq: seqs[i], Status: statusNames[statuses[i]]}
	}
	return applied, nil
}

// applyOne is apply for a single operation, which has its own SQL function without arrays.
func applyOne(ctx context.Context, q querier, room string, op moveop.Op) (wire.Applied, error) {
	c := columnsOf(op)
	var result []int64 // head, seq, status
	err := q.QueryRow(ctx, applyOneSQL,
		room, c.ts, c.kind, c.node, c.parent, c.orderKey, c.key, c.value, c.known,
	).Scan(&result)
	if err != nil {
		return wire.Applied{}, domainError("apply batch", err)
	}
	if len(result) != 3 {
		return wire.Applied{}, fmt.Errorf("apply batch: a result of %d numbers", len(result))
	}
	return wire.Applied{Head: result[0], Results: []wire.Result{{
		TS: op.TS, Seq: result[1], Status: statusNames[int16(result[2])],
	}}}, nil
}

var statusNames = map[int16]wire.Status{
	1: wire.StatusApplied,
	2: wire.StatusIneffective,
	3: wire.StatusDuplicate,
}

// columns holds an operation as the functions' arguments.
type columns struct {
	ts, node, parent     pgtype.UUID
	kind                 int16
	orderKey, key, value pgtype.Text
	known                int64
}

func columnsOf(op moveop.Op) columns {
	c := columns{
		ts:   pgtype.UUID{Bytes: op.TS, Valid: true},
		node: pgtype.UUID{Bytes: op.Node, Valid: true},
		kind: int16(op.Kind), known: op.Known,
	}
	if op.Kind == moveop.Move {
		c.parent = pgtype.UUID{Bytes: op.Parent, Valid: true}
		c.orderKey = pgtype.Text{String: op.OrderKey, Valid: true}
	} else {
		c.key = pgtype.Text{String: op.Key, Valid: true}
		c.value = pgtype.Text{String: string(op.Value), Valid: true}
	}
	return c
}

// batch holds operations as the parallel arrays that apply takes.
type batch struct {
	ts, node, parent     []pgtype.UUID
	kind                 []int16
	orderKey, key, value []pgtype.Text
	known                []int64
}

func newBatch(ops []moveop.Op) batch {
	n := len(ops)
	b := batch{
		ts: make([]pgtype.UUID, n), node: make([]pgtype.UUID, n), parent: make([]pgtype.UUID, n),
		kind:     make([]int16, n),
		orderKey: make([]pgtype.Text, n), key: make([]pgtype.Text, n), value: make([]pgtype.Text, n),
		known: make([]int64, n),
	}
	for i, op := range ops {
		c := columnsOf(op)
		b.ts[i], b.node[i], b.parent[i] = c.ts, c.node, c.parent
		b.kind[i], b.known[i] = c.kind, c.known
		b.orderKey[i], b.key[i], b.value[i] = c.orderKey, c.key, c.value
	}
	return b
}
