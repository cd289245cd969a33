package pgfuncs

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/canopysync/canopy/moveop"
)

// compactPage is how many operations one call examines. It locks the room for some milliseconds, or for longer if
// many of them move nodes with children, in a deep tree that has had deletes: 40 µs per level and move.
const compactPage = 250

// Compacted is the result of compacting a room, so far or in the end.
type Compacted struct {
	// Horizon is the room's horizon: the server refuses operations at or before it. It stays behind the
	// requested horizon if the room has nothing that old to fold, or if a move prevents it that a later
	// correction may still make ineffective.
	Horizon moveop.Timestamp
	// Folded is the number of operations removed from the log.
	Folded int64
}

// Compact advances a room's horizon, at most to horizon, and removes from its log the operations that no
// later operation can need, in many small transactions. It may be interrupted at any time and started again.
// It calls progress, if not nil, after each transaction. The error is wire.ErrUnknownRoom if the room does
// not exist.
func (db *DB) Compact(ctx context.Context, room string, horizon moveop.Timestamp, progress func(Compacted)) (Compacted, error) {
	var c Compacted
	var next moveop.Timestamp
	for done := false; !done; {
		var folded int64
		err := db.pool.QueryRow(ctx, `select horizon, next, folded, done from canopy.compact($1, $2, $3, $4)`,
			room, horizon.String(), next.String(), compactPage,
		).Scan((*[16]byte)(&c.Horizon), (*[16]byte)(&next), &folded, &done)
		if err != nil {
			return c, domainError("compact room", err)
		}
		c.Folded += folded
		if progress != nil {
			progress(c)
		}
	}
	return c, nil
}

// compactLock is the advisory lock of the process that compacts all rooms. It is held by a transaction, idle and
// without a snapshot: behind a pooler in transaction mode, a session lock would stay with whichever server connection
// took it.
const compactLock int64 = 0x63616e6f_636d7074 // "canocmpt"

// beginPatient begins a transaction that the server does not end for being idle or old.
const beginPatient = `
	begin;
	select set_config(name, '0', true)
	  from pg_settings
	 where name in ('idle_in_transaction_session_timeout', 'transaction_timeout')`

// CompactAll compacts all rooms that have operations older than age, one after the other, and purges nodes
// deleted longer ago than trash, unless trash is 0. Only one process on a database does so at a time; in
// others ran is false. CompactAll calls each with the number of operations and nodes removed from each room,
// or the room's error; a room that fails does not stop the others. The error is the database's.
func (db *DB) CompactAll(ctx context.Context, age, trash time.Duration, each func(room string, folded, purged int64, err error)) (ran bool, err error) {
	if db.pool.Config().MaxConns < 2 { // it would deadlock with itself
		return false, errors.New("compacting all rooms needs two connections: raise pool_max_conns in the database URL")
	}
	tx, err := db.pool.BeginTx(ctx, pgx.TxOptions{BeginQuery: beginPatient})
	if err != nil {
		return false, domainError("connect", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unlockTimeout)
		defer cancel()
		_ = tx.Rollback(ctx) // if that fails, closing the connection releases the lock
	}()
	// The extended protocol would leave a portal open, and with it a snapshot.
	err = tx.QueryRow(ctx, `select pg_try_advisory_xact_lock($1)`, pgx.QueryExecModeSimpleProtocol, compactLock).Scan(&ran)
	if err != nil {
		return false, domainError("take lock", err)
	}
	if !ran {
		return false, nil
	}
	horizon, err := db.Horizon(ctx, age)
	if err != nil {
		return true, err
	}
	deleted, err := db.Horizon(ctx, trash)
	if err != nil {
		return true, err
	}
	rooms, err := db.CompactableRooms(ctx, horizon)
	if err != nil {
		return true, err
	}
	for _, room := range rooms {
		c, err := db.Compact(ctx, room, horizon, nil)
		var purged int64
		if err == nil && trash > 0 {
			purged, err = db.Purge(ctx, room, deleted, nil)
		}
		if ctx.Err() != nil {
			return true, ctx.Err()
		}
		each(room, c.Folded, purged, err)
	}
	return true, nil
}

// unlockTimeout bounds the release of a lock.
const unlockTimeout = 5 * time.Second

// CompactableRooms lists the rooms that have history at or before a timestamp, by name.
func (db *DB) CompactableRooms(ctx context.Context, horizon moveop.Timestamp) ([]string, error) {
	rows, _ := db.pool.Query(ctx, `select canopy.compactable_rooms($1)`, horizon.String())
	rooms, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, domainError("list rooms to compact", err)
	}
	return rooms, nil
}

// Foldable returns how many operations of a room's log Compact would examine, which is an upper bound on how
// many it removes. Cost: O(that number).
func (db *DB) Foldable(ctx context.Context, room string, horizon moveop.Timestamp) (n int64, err error) {
	if _, err := db.Room(ctx, room); err != nil {
		return 0, err
	}
	err = db.pool.QueryRow(ctx, `
		select count(*)
		  from canopy.rooms r
		  join canopy.history h using (room_id)
		 where r.name = $1
		   and uuid_send(h.ts) <= uuid_send($2)`, room, horizon.String()).Scan(&n)
	if err != nil {
		return 0, domainError("count old operations", err)
	}
	return n, nil
}

// Horizon returns the timestamp of the moment age ago, by the database's clock. Everything stamped earlier is
// before it.
func (db *DB) Horizon(ctx context.Context, age time.Duration) (moveop.Timestamp, error) {
	var now time.Time
	if err := db.pool.QueryRow(ctx, `select clock_timestamp()`).Scan(&now); err != nil {
		return moveop.Timestamp{}, domainError("read the clock", err)
	}
	return moveop.NewTimestamp(max(0, now.Add(-age).UnixMilli()), 0, 0), nil
}

// purgePage is how many deleted nodes, and about how many nodes of their subtrees, one call examines. A larger deleted
// subtree stays.
const purgePage = 10_000

// Purge permanently removes subtrees that were deleted at or before a timestamp and are settled: everything
// in them is older than the room's horizon, so compact the room first. From then on the server refuses
// operations that name one of their nodes (invalid_op). Purge works in transactions of some tenths of a
// second, and may be interrupted at any time and started again. It calls progress, if not nil, after each
// transaction with the number of nodes removed so far. The error is wire.ErrUnknownRoom if the room does not
// exist.
func (db *DB) Purge(ctx context.Context, room string, before moveop.Timestamp, progress func(purged int64)) (purged int64, err error) {
	var key pgtype.Text
	var node pgtype.UUID
	for done := false; !done; {
		var n int64
		err := db.pool.QueryRow(ctx, `select next_key, next_node, purged, done from canopy.purge($1, $2, $3, $4, $5)`,
			room, before.String(), key, node, purgePage).Scan(&key, &node, &n, &done)
		if err != nil {
			return purged, domainError("purge room", err)
		}
		purged += n
		if progress != nil {
			progress(purged)
		}
	}
	return purged, nil
}
