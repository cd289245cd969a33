package pgfuncs_test

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/pgfuncs/pgtest"
	"github.com/canopysync/canopy/realtime/wire"
)

func TestMigrateFromNothing(t *testing.T) {
	t.Parallel()
	db := openDatabase(t, pgtest.Empty())
	ctx := t.Context()
	if err := db.Ready(ctx); !errors.Is(err, pgfuncs.ErrNotMigrated) {
		t.Errorf("ready: got %v, want ErrNotMigrated", err)
	}
	if _, err := db.Room(ctx, "any"); !errors.Is(err, pgfuncs.ErrNotMigrated) {
		t.Errorf("room: got %v, want ErrNotMigrated", err)
	}
	pending, err := db.Migrations(ctx)
	if err != nil || len(pending) == 0 || !pending[0].AppliedAt.IsZero() {
		t.Fatalf("migrations are %+v (%v), want them pending", pending, err)
	}

	// Any number of processes may start at once.
	var applied [4]int
	var all errgroup.Group
	for i := range applied {
		all.Go(func() error {
			steps, err := db.Migrate(ctx)
			applied[i] = len(steps)
			return err
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	if sum := applied[0] + applied[1] + applied[2] + applied[3]; sum != len(pending) {
		t.Errorf("%v migrations were applied, want %d in all", applied, len(pending))
	}
	if err := db.Ready(ctx); err != nil {
		t.Error(err)
	}
}

func TestMigrateReinstallsFunctions(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	ctx := t.Context()
	_, err := db.pool.Exec(ctx, `
		update canopy.installed_functions set fingerprint = 'of another version';
		drop function canopy.apply;
		create function canopy.of_another_version() returns int language sql as 'select 1'`)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Ready(ctx); !errors.Is(err, pgfuncs.ErrNotMigrated) {
		t.Errorf("ready: got %v, want ErrNotMigrated", err)
	}
	if steps, err := db.Migrate(ctx); err != nil || len(steps) != 0 {
		t.Fatalf("migrate: %v (%v), want no step", steps, err)
	}
	plant(t, db)
	var old int
	err = db.pool.QueryRow(ctx, `select count(*) from pg_proc where proname = 'of_another_version'`).Scan(&old)
	if err != nil || old != 0 {
		t.Errorf("%d old functions are left (%v)", old, err)
	}
}

func TestMigrateLeavesANewerSchemaAlone(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	ctx := t.Context()
	if _, err := db.pool.Exec(ctx, `insert into canopy.migrations (version, name) values (9999, 'future')`); err != nil {
		t.Fatal(err)
	}
	if err := db.Ready(ctx); !errors.Is(err, pgfuncs.ErrNewerSchema) {
		t.Errorf("ready: got %v, want ErrNewerSchema", err)
	}
	if _, err := db.Migrate(ctx); !errors.Is(err, pgfuncs.ErrNewerSchema) {
		t.Errorf("migrate: got %v, want ErrNewerSchema", err)
	}
}

// A service goes on running when a later version migrates its database, and installs its own functions.
func TestFunctionsOfAnotherVersion(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	room := db.newRoom(t)
	if _, err := db.pool.Exec(t.Context(), "drop function canopy.apply_one"); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Apply(t.Context(), room, []moveop.Op{move(1, 1, node("a"), moveop.Root)}); !errors.Is(err, pgfuncs.ErrNotMigrated) {
		t.Errorf("got %v, want ErrNotMigrated", err)
	}
}

func TestSafeToRetry(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	_, syntax := db.pool.Exec(t.Context(), "selec 1")
	_, serialization := db.pool.Exec(t.Context(), `do $$ begin raise exception 'x' using errcode = '40001'; end $$`)
	nobody, err := pgfuncs.Open(t.Context(), "host=127.0.0.1 port=1 user=x dbname=x")
	if err != nil {
		t.Fatal(err)
	}
	defer nobody.Close()
	lock := &pgconn.PgError{Code: "55P03"}
	for _, c := range []struct {
		err  error
		want bool
	}{{lock, true}, {syntax, false}, {serialization, true}, {nobody.Ping(t.Context()), true}, {&pgconn.PgError{}, false}} {
		if got := pgfuncs.SafeToRetry(c.err); got != c.want {
			t.Errorf("%v: got %v, want %v", c.err, got, c.want)
		}
	}
	_, err = nobody.Room(t.Context(), "garden")
	if !errors.Is(err, wire.ErrUnavailable) || !pgfuncs.SafeToRetry(err) {
		t.Errorf("room without a database: %v", err)
	}
	err = nobody.Snapshot(t.Context(), "garden", nil)
	if !errors.Is(err, wire.ErrUnavailable) || !pgfuncs.SafeToRetry(err) {
		t.Errorf("snapshot without a database: %v", err)
	}
}

// After a failover the pool must not stay with a server that takes no writes any more, and what was asked of it is
// worth a retry.
func TestAStandbyIsLeft(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	readOnly := func(value string) {
		const statement = `do $$ begin execute format('alter database %I set default_transaction_read_only = %s', current_database(), '`
		if _, err := conn.Exec(t.Context(), statement+value+`'); end $$`); err != nil {
			t.Fatal(err)
		}
	}
	readOnly("on")
	db, err := pgfuncs.Open(t.Context(), url+"&pool_max_conns=1")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.CreateRoom(t.Context(), "garden", epoch); !errors.Is(err, wire.ErrUnavailable) || !pgfuncs.SafeToRetry(err) {
		t.Errorf("on a standby: %v", err)
	}
	if _, err := conn.Exec(t.Context(), `set default_transaction_read_only = off`); err != nil {
		t.Fatal(err)
	}
	readOnly("off")
	if _, err := db.CreateRoom(t.Context(), "garden", epoch); err != nil {
		t.Errorf("after it: %v", err)
	}
}

// A connection that breaks under a call says nothing about the call: found by killing Postgres under a
// service, which answered "internal error".
func TestALostConnectionIsWorthARetry(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	url := server.URL()
	db, err := pgfuncs.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	locker, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer locker.Close(t.Context())
	if _, err := locker.Exec(t.Context(), "begin; lock canopy.rooms"); err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() {
		_, err := db.Room(t.Context(), "garden")
		result <- err
	}()
	const query = "select exists (select from pg_locks where relation = 'canopy.rooms'::regclass and not granted)"
	for waits := false; !waits; {
		if err := locker.QueryRow(t.Context(), query).Scan(&waits); err != nil {
			t.Fatal(err)
		}
	}
	if err := server.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-result; !errors.Is(err, wire.ErrUnavailable) || !pgfuncs.SafeToRetry(err) {
		t.Errorf("a call whose connection broke: %v", err)
	}
}
