//go:build unix

package chaos_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Keys of the advisory locks at which an applying transaction waits while somebody else has them.
const (
	afterInsert  = 1
	beforeCommit = 2
)

// gatesSQL are triggers by which the database waits at points that cannot be seen from outside. Nothing of
// Canopy's own is changed.
const gatesSQL = `
create schema chaos;
create function chaos.gate() returns trigger language plpgsql as $$
begin
  perform pg_advisory_xact_lock_shared(tg_argv[0]::bigint);
  return null;
end $$;
create trigger chaos_insert after insert or update on canopy.nodes
  for each statement execute function chaos.gate('1');
create trigger chaos_insert after insert or update on canopy.values
  for each statement execute function chaos.gate('1');
create trigger chaos_insert after insert or update on canopy.history
  for each statement execute function chaos.gate('1');
create constraint trigger chaos_commit after update on canopy.rooms
  deferrable initially deferred
  for each row execute function chaos.gate('2');`

func (w *world) installGates(t testing.TB) {
	t.Helper()
	conn := w.connect(t)
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), gatesSQL); err != nil {
		t.Fatal(err)
	}
}

// applyingSQL counts the transactions that wait for a lock while they apply a batch.
const applyingSQL = `
	select count(*)
	  from pg_stat_activity
	 where wait_event_type = 'Lock'
	   and query like '%canopy.apply%(%'`

// block holds a lock until the connection returned is closed.
func (r *round) block(statement string, arg any) *pgx.Conn {
	r.Helper()
	conn := r.connect(r)
	if _, err := conn.Exec(r.Context(), "begin"); err != nil {
		r.Fatal(err)
	}
	if _, err := conn.Exec(r.Context(), statement, arg); err != nil {
		r.Fatal(err)
	}
	return conn
}

// blockRoom holds the room's row lock, which is what applying takes first.
func (r *round) blockRoom() *pgx.Conn {
	return r.block("select from canopy.rooms where name = $1 for update", r.room)
}

func (r *round) blockGate(key int64) *pgx.Conn {
	return r.block("select pg_advisory_xact_lock($1)", key)
}

// applying waits until a transaction waits at what is blocked.
func (r *round) applying() {
	r.Helper()
	await(r, "a transaction waits", func() bool { return r.number(r, applyingSQL) > 0 })
}

// unblock may come after the death of Postgres.
func unblock(conn *pgx.Conn) { _ = conn.Close(context.Background()) }
