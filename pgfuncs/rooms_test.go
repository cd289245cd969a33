package pgfuncs_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// untilBlocked waits until some session of the database waits for another's lock.
func (d database) untilBlocked(t *testing.T) {
	t.Helper()
	const query = `select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')`
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for blocked := false; !blocked; {
		if err := d.pool.QueryRow(ctx, query).Scan(&blocked); err != nil {
			t.Fatal(err)
		}
	}
}

// A policy is set before a batch or behind it, never in the midst of one: each waits for the other to commit,
// and has the room as that left it.
func TestAPolicyIsSetBetweenBatches(t *testing.T) {
	t.Parallel()
	const (
		never = `select canopy.set_restore_on($1, 'never')`
		// A delete by replica 1, which knows of seq 1.
		deletes = `select canopy.apply($1, array['00000000-0014-0000-0000-000000000001']::uuid[], '{1}', array[$2]::uuid[],
			array['00000000-0000-0000-0000-000000000002']::uuid[], '{a0}', '{null}', '{null}', '{1}')`
	)
	bed, tulip := node("bed"), node("tulip")
	for _, tt := range []struct {
		name, first, then string
		head              int64
	}{
		{"batch first", deletes, never, 4}, // with a correction
		{"policy first", never, deletes, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			db := openDatabase(t)
			room := db.newRoom(t)
			db.apply(t, room, move(1, 1, bed, moveop.Root))
			db.apply(t, room, move(2, 2, tulip, bed))
			args := func(statement string) []any {
				if statement == never {
					return []any{room}
				}
				return []any{room, bed.String()}
			}
			then := make(chan error, 1)
			err := pgx.BeginFunc(t.Context(), db.pool, func(tx pgx.Tx) error {
				if _, err := tx.Exec(t.Context(), tt.first, args(tt.first)...); err != nil {
					return err
				}
				go func() {
					_, err := db.pool.Exec(t.Context(), tt.then, args(tt.then)...)
					then <- err
				}()
				db.untilBlocked(t)
				return nil
			})
			if err == nil {
				err = <-then
			}
			if err != nil {
				t.Fatal(err)
			}
			all, err := db.Rooms(t.Context())
			if err != nil || len(all) != 1 || all[0].RestoreOn != "never" || all[0].Head != tt.head || all[0].Digest.Ops != tt.head {
				t.Errorf("rooms are %+v (%v), want head %d", all, err, tt.head)
			}
		})
	}
}

func TestCreateRoomWith(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	ctx := t.Context()
	if _, err := db.CreateRoomWith(ctx, "a-room", epoch, "always"); wire.AsError(err).Code != wire.CodeBadRequest {
		t.Errorf("got %v, want bad_request", err)
	}
	if _, err := db.CreateRoomWith(ctx, "A room", epoch, "never"); wire.AsError(err).Code != wire.CodeBadRequest {
		t.Errorf("got %v, want bad_request", err)
	}
	if all, err := db.Rooms(ctx); err != nil || len(all) != 0 {
		t.Errorf("rooms are %+v (%v)", all, err)
	}
	for _, c := range []struct{ epoch, policy string }{{epoch, "never"}, {"00000000-0000-4000-8000-000000000000", "move"}} {
		room, err := db.CreateRoomWith(ctx, "a-room", c.epoch, c.policy)
		if err != nil || room.Epoch != epoch {
			t.Errorf("made %+v (%v)", room, err)
		}
		if all, err := db.Rooms(ctx); err != nil || len(all) != 1 || all[0].Room != room || all[0].RestoreOn != c.policy {
			t.Errorf("rooms are %+v (%v), want %+v with %s", all, err, room, c.policy)
		}
	}
}
