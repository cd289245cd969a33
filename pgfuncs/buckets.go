package pgfuncs

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// counted is the maximum number of operations that one transaction counts into buckets.
const counted = 100_000

// spanCounted is the number of digits from which a span is summed from the log itself.
const spanCounted = 8

// Buckets returns the parts of a span of a room's log. The first call takes as long as reading the whole log;
// later calls count only the operations since. The error is wire.ErrUnknownRoom if the room does not exist.
func (db *DB) Buckets(ctx context.Context, room string, span wire.Span) (wire.Buckets, error) {
	if len(span) == wire.MaxSpan {
		return wire.Buckets{}, wire.NewError(wire.CodeBadRequest, "a span of %d digits has no parts", wire.MaxSpan)
	}
	b := wire.Buckets{Buckets: []wire.Bucket{}}
	var seq int64
	if len(span) < spanCounted {
		var err error
		if seq, err = db.countBuckets(ctx, room); err != nil {
			return wire.Buckets{}, err
		}
	}
	rows, _ := db.pool.Query(ctx, `
		select r.epoch::text, r.head, r.horizon, b.prefix, b.ops, b.digest
		  from canopy.rooms r
		  left join lateral canopy.buckets(r.room_id, $2) as b on true
		 where r.name = $1`, room, string(span))
	known := false
	_, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (struct{}, error) {
		known = true
		var prefix pgtype.Text
		var ops, digest pgtype.Int8
		err := row.Scan(&b.Epoch, &b.Seq, (*[16]byte)(&b.Horizon), &prefix, &ops, &digest)
		if prefix.Valid {
			b.Buckets = append(b.Buckets, wire.Bucket{
				Span: wire.Span(prefix.String), Ops: ops.Int64, Log: fmt.Sprintf("%016x", uint64(digest.Int64)),
			})
		}
		return struct{}{}, err
	})
	if err == nil && !known {
		err = wire.ErrUnknownRoom
	}
	if err != nil {
		return wire.Buckets{}, domainError("read buckets", err)
	}
	if len(span) < spanCounted {
		b.Seq = seq
	}
	return b, nil
}

// countBuckets counts the log to its end, and returns the seq of that end.
func (db *DB) countBuckets(ctx context.Context, room string) (seq int64, err error) {
	for {
		before := seq
		if err := db.pool.QueryRow(ctx, `select canopy.count_buckets($1, $2)`, room, counted).Scan(&seq); err != nil {
			return 0, domainError("count buckets", err)
		}
		if seq-before < counted {
			return seq, nil
		}
	}
}

// OpsBetween returns at most limit operations of a room with after < ts ≤ last, in timestamp order.
// Corrections have their cause.
func (db *DB) OpsBetween(ctx context.Context, room string, after, last moveop.Timestamp, limit int) ([]moveop.Op, error) {
	rows, _ := db.pool.Query(ctx, `
		select seq, ts, kind, node, parent, order_key, key, value::text, known, cause
		  from canopy.ops_between($1, $2, $3, $4)`, room, after.String(), last.String(), limit)
	ops, err := pgx.CollectRows(rows, scanOp)
	if err != nil {
		return nil, domainError("read ops", err)
	}
	return ops, nil
}
