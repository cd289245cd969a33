package pgfuncs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/realtime/wire"
)

// snapshotCopies are the COPY statements of the sections. COPY takes no parameters, so the room is passed as a
// transaction-local setting rather than spliced into the text.
var snapshotCopies = map[int]string{
	format.TagNodes: `copy (
		select node, parent, order_key, ts, seq, known, cause
		  from canopy.nodes
		 where room_id = current_setting('canopy.snapshot_room')::bigint
		 order by node) to stdout (format binary)`,
	format.TagValues: `copy (
		select node, key, value, ts, seq, known
		  from canopy.values
		 where room_id = current_setting('canopy.snapshot_room')::bigint
		 order by node, key) to stdout (format binary)`,
	format.TagOps: `copy (
		select seq, ts, kind, node, parent, order_key, key, value, known, cause, effective
		  from canopy.history
		 where room_id = current_setting('canopy.snapshot_room')::bigint
		 order by ts) to stdout (format binary)`,
}

// Snapshot calls f with one consistent view of a room: header, sections and cursor all come from one
// repeatable-read transaction, which ends when f returns. The error is wire.ErrUnknownRoom if the room does
// not exist, otherwise that of f or the database.
func (db *DB) Snapshot(ctx context.Context, room string, f func(format.Snapshot) error) error {
	conn, err := db.pool.Acquire(ctx)
	if err != nil {
		return domainError("connect", err)
	}
	defer conn.Release()
	return pgx.BeginTxFunc(ctx, conn, snapshotOptions, func(tx pgx.Tx) error {
		s := &roomSnapshot{conn: tx.Conn()}
		if err := s.begin(ctx, tx, room); err != nil {
			return err
		}
		return f(s)
	})
}

// roomSnapshot implements format.Snapshot inside one transaction.
type roomSnapshot struct {
	conn   *pgx.Conn
	header format.Header
}

// readByIndex makes a room that is a small part of its tables be read by key. The planner, which believes that all rows
// belong to one room (see migration 1), would read whole tables, or spend time on JIT compilation.
const readByIndex = `
	select set_config('enable_seqscan', ((r.ops - r.folded_ops) * 4 >= all_rooms.rows)::text, true),
	       set_config('jit', 'off', true)
	  from canopy.rooms r,
	       (select sum(reltuples) as rows
	          from pg_class
	         where oid in ('canopy.nodes'::regclass, 'canopy.values'::regclass, 'canopy.history'::regclass)) as all_rooms
	 where r.name = $1`

func (s *roomSnapshot) begin(ctx context.Context, tx pgx.Tx, room string) error {
	if _, err := tx.Exec(ctx, readByIndex, room); err != nil {
		return domainError("choose plan", err)
	}
	var id, nodes, values, log, state, foldedLog, foldedState int64
	h := format.Header{Format: format.Version}
	err := tx.QueryRow(ctx, `
		select room_id, name, epoch::text, head, horizon, now(), ops, log_digest, state_digest, folded_ops, folded_log, folded_state,
		       (select count(*) from canopy.nodes n where n.room_id = r.room_id),
		       (select count(*) from canopy.values v where v.room_id = r.room_id)
		  from canopy.rooms r
		 where name = $1`, room,
	).Scan(&id, &h.Room, &h.Epoch, &h.Seq, (*[16]byte)(&h.Horizon), &h.Created,
		&h.Digest.Ops, &log, &state, &h.Folded.Ops, &foldedLog, &foldedState, &nodes, &values)
	if errors.Is(err, pgx.ErrNoRows) {
		return wire.ErrUnknownRoom
	}
	if err != nil {
		return domainError("read room", err)
	}
	h.Digest.Log, h.Digest.State = uint64(log), uint64(state)
	h.Folded.Log, h.Folded.State = uint64(foldedLog), uint64(foldedState)
	h.Sections = format.Sections(nodes, values, max(0, h.Digest.Ops-h.Folded.Ops-nodes-values))
	s.header = h
	_, err = tx.Exec(ctx, `select set_config('canopy.snapshot_room', $1, true)`, strconv.FormatInt(id, 10))
	if err != nil {
		return fmt.Errorf("choose room: %w", err)
	}
	return nil
}

// Header implements format.Snapshot.
func (s *roomSnapshot) Header() format.Header { return s.header }

// Copy implements format.Snapshot.
func (s *roomSnapshot) Copy(ctx context.Context, tag int, w io.Writer) (int64, error) {
	statement, ok := snapshotCopies[tag]
	if !ok {
		return 0, fmt.Errorf("copy section: no section has tag %d", tag)
	}
	done, err := s.conn.PgConn().CopyTo(ctx, w, statement)
	if err != nil {
		return done.RowsAffected(), fmt.Errorf("copy section %d: %w", tag, err)
	}
	return done.RowsAffected(), nil
}
