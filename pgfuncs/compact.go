package pgfuncs

import (
	"context"
	"time"

	"github.com/canopysync/canopy/moveop"
)

// compactPage is how many operations one call looks at: a room is locked for some milliseconds at a time.
const compactPage = 1000

// Compacted says what compacting a room came to, so far or in the end.
type Compacted struct {
	// Horizon is the room's: operations at or before it are refused. It stays behind the one that was
	// asked for where the room has nothing so old to fold, or where a move that a later correction may
	// yet turn down holds it up.
	Horizon moveop.Timestamp
	// Folded is how many operations were taken out of the log.
	Folded int64
}

// Compact moves a room's horizon as far as to horizon, and takes out of its log what no operation behind
// it can need, in many small transactions. It may be stopped at any time and begun again. Progress, if
// not nil, hears after each of them what was done so far. The error is wire.ErrUnknownRoom where the room
// does not exist.
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

// Foldable returns how many operations of a room's log Compact would look at: at most so many it takes
// out. O(them).
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

// Horizon returns the timestamp that everything stamped longer ago than age, by the database's clock, is
// before.
func (db *DB) Horizon(ctx context.Context, age time.Duration) (moveop.Timestamp, error) {
	var now time.Time
	if err := db.pool.QueryRow(ctx, `select clock_timestamp()`).Scan(&now); err != nil {
		return moveop.Timestamp{}, domainError("read the clock", err)
	}
	return moveop.NewTimestamp(max(0, now.Add(-age).UnixMilli()), 0, 0), nil
}
