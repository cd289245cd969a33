package pgfuncs

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

const roomColumns = `name, epoch::text, head, min_seq, ops, log_digest, state_digest`

// CreateRoom creates a room with the given epoch (a UUID) unless it exists. It returns the room as it is
// now, with the epoch of whoever created it.
func (db *DB) CreateRoom(ctx context.Context, room, epoch string) (wire.Room, error) {
	return createRoom(ctx, db.pool, room, epoch)
}

func createRoom(ctx context.Context, q querier, room, epoch string) (wire.Room, error) {
	if err := wire.ValidRoom(room); err != nil {
		return wire.Room{}, err
	}
	rows, _ := q.Query(ctx, `select `+roomColumns+` from canopy.create_room($1, $2)`, room, epoch)
	return collectRoom("create room", rows)
}

// CreateRoomWith is CreateRoom and SetRestoreOn in one transaction, so that the policy applies to a new
// room's first batch. An existing room keeps its epoch.
func (db *DB) CreateRoomWith(ctx context.Context, room, epoch, policy string) (wire.Room, error) {
	if err := wire.ValidRoom(room); err != nil {
		return wire.Room{}, err
	}
	rows, _ := db.pool.Query(ctx, `
		select `+roomColumns+`
		  from canopy.create_room($1, $2)
		 cross join lateral canopy.set_restore_on(name, $3)`, room, epoch, policy)
	return collectRoom("create room", rows)
}

// Room returns a room's identity, position and digest, all at the same moment. The error is
// wire.ErrUnknownRoom if the room does not exist.
func (db *DB) Room(ctx context.Context, room string) (wire.Room, error) {
	rows, _ := db.pool.Query(ctx, `select `+roomColumns+` from canopy.rooms where name = $1`, room)
	return collectRoom("read room", rows)
}

// ListedRoom is a room with its restore policy, which services and clients do not need.
type ListedRoom struct {
	wire.Room
	RestoreOn string `json:"restore_on"`
}

// Rooms lists all rooms by name.
func (db *DB) Rooms(ctx context.Context) ([]ListedRoom, error) {
	rows, _ := db.pool.Query(ctx, `select `+roomColumns+`, restore_on from canopy.rooms order by name`)
	rooms, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r ListedRoom, err error) {
		r.Room, err = scanRoom(row, &r.RestoreOn)
		return r, err
	})
	if err != nil {
		return nil, domainError("list rooms", err)
	}
	return rooms, nil
}

func collectRoom(doing string, rows pgx.Rows) (wire.Room, error) {
	room, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (wire.Room, error) { return scanRoom(row) })
	if errors.Is(err, pgx.ErrNoRows) {
		return wire.Room{}, wire.ErrUnknownRoom
	}
	if err != nil {
		return wire.Room{}, domainError(doing, err)
	}
	return room, nil
}

// scanRoom scans roomColumns and any further columns of the query.
func scanRoom(row pgx.CollectableRow, behind ...any) (wire.Room, error) {
	var r wire.Room
	var log, state int64
	err := row.Scan(append([]any{&r.Name, &r.Epoch, &r.Head, &r.MinSeq, &r.Digest.Ops, &log, &state}, behind...)...)
	r.Digest.Log, r.Digest.State = uint64(log), uint64(state)
	return r, err
}

// Stats returns a room's exact counts, all at the same moment, except Connections, which stays 0. It walks
// the whole room: O(nodes).
func (db *DB) Stats(ctx context.Context, room string) (wire.Stats, error) {
	var s wire.Stats
	var log, state int64
	err := db.pool.QueryRow(ctx, `
		select name, epoch::text, head, min_seq, ops, log_digest, state_digest,
		       canopy.count_below(room_id, $2), canopy.count_below(room_id, $3)
		  from canopy.rooms
		 where name = $1`, room, moveop.Root.String(), moveop.Trash.String(),
	).Scan(&s.Room, &s.Epoch, &s.Head, &s.MinSeq, &s.Ops, &log, &state, &s.Nodes, &s.Trashed)
	if errors.Is(err, pgx.ErrNoRows) {
		return wire.Stats{}, wire.ErrUnknownRoom
	}
	if err != nil {
		return wire.Stats{}, domainError("read room stats", err)
	}
	s.Digest = moveop.Digest{Ops: s.Ops, Log: uint64(log), State: uint64(state)}
	return s, nil
}

// LastTimestamp returns the newest timestamp that a room has from a replica (its entry in the version
// vector), zero if it has none or does not exist.
func (db *DB) LastTimestamp(ctx context.Context, room string, replica moveop.ReplicaID) (moveop.Timestamp, error) {
	var last pgtype.UUID
	err := db.pool.QueryRow(ctx, `
		select v.last_ts
		  from canopy.rooms r
		  join canopy.replicas v using (room_id)
		 where r.name = $1 and v.replica = $2`, room, int64(replica)).Scan(&last)
	if errors.Is(err, pgx.ErrNoRows) {
		return moveop.Timestamp{}, nil
	}
	if err != nil {
		return moveop.Timestamp{}, domainError("read version vector", err)
	}
	return last.Bytes, nil
}

// NewEpoch gives a room a new epoch and returns it. Call it when the room's history is no longer the one that
// its clients know, as after a restore from a backup: they load a snapshot, and push again those of their own
// operations that are missing. The error is wire.ErrUnknownRoom if the room does not exist.
func (db *DB) NewEpoch(ctx context.Context, room string) (epoch string, err error) {
	if err := db.pool.QueryRow(ctx, `select canopy.new_epoch($1)::text`, room).Scan(&epoch); err != nil {
		return "", domainError("change epoch", err)
	}
	return epoch, nil
}

// SetRestoreOn sets a room's restore policy, the concurrent changes for which the server corrects a delete:
// "move+set" (the default), "move" or "never". It applies to later batches. The error is wire.ErrUnknownRoom
// if the room does not exist.
func (db *DB) SetRestoreOn(ctx context.Context, room, policy string) error {
	if _, err := db.pool.Exec(ctx, `select canopy.set_restore_on($1, $2)`, room, policy); err != nil {
		return domainError("set restore policy", err)
	}
	return nil
}
