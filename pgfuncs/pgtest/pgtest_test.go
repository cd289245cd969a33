//go:build unix

package pgtest_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/pgfuncs/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func TestDatabasesAreMigratedAndApart(t *testing.T) {
	t.Parallel()
	for i := range 8 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			url := pgtest.New(t)
			db, err := pgfuncs.Open(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if err := db.Ready(t.Context()); err != nil {
				t.Errorf("not migrated: %v", err)
			}
			if _, err := connect(t, url).Exec(t.Context(), "create table only_here ()"); err != nil {
				t.Errorf("not apart from the others: %v", err)
			}
		})
	}
}

func TestEmptyHasNoSchema(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.New(t, pgtest.Empty()))
	var found bool
	const query = "select exists (select from pg_namespace where nspname = 'canopy')"
	if err := conn.QueryRow(t.Context(), query).Scan(&found); err != nil {
		t.Fatal(err)
	}
	if found {
		t.Error("schema canopy is there")
	}
}

func TestCollations(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		collation string
		ascending bool // whether 'a' < 'B'
	}{
		{pgtest.C, false},
		{pgtest.English, true},
	} {
		t.Run(test.collation, func(t *testing.T) {
			t.Parallel()
			conn := connect(t, pgtest.New(t, pgtest.WithCollation(test.collation)))
			var ascending bool
			if err := conn.QueryRow(t.Context(), "select 'a' < 'B'").Scan(&ascending); err != nil {
				t.Fatal(err)
			}
			if ascending != test.ascending {
				t.Errorf("'a' < 'B' is %t, want %t", ascending, test.ascending)
			}
		})
	}
}

func TestDatabaseIsDroppedWithItsConnections(t *testing.T) {
	t.Parallel()
	var name string
	outer := connect(t, pgtest.New(t))
	t.Run("inner", func(t *testing.T) {
		conn, err := pgx.Connect(t.Context(), pgtest.New(t)) // left open
		if err != nil {
			t.Fatal(err)
		}
		name = conn.Config().Database
	})
	var found bool
	const query = "select exists (select from pg_database where datname = $1)"
	if err := outer.QueryRow(t.Context(), query, name).Scan(&found); err != nil {
		t.Fatal(err)
	}
	if found {
		t.Errorf("database %s is still there", name)
	}
}

func TestServerKeepsWhatWasCommitted(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := pgtest.NewServer(t)
	url := server.URL()
	conn := connect(t, url)
	if _, err := conn.Exec(ctx, "create table kept as select 42 as answer"); err != nil {
		t.Fatal(err)
	}
	if err := server.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if err := conn.Ping(ctx); err == nil {
		t.Error("the connection outlived the server")
	}
	if err := server.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	var answer int
	if err := connect(t, url).QueryRow(ctx, "select answer from kept").Scan(&answer); err != nil || answer != 42 {
		t.Errorf("after the restart: %d, %v", answer, err)
	}
	db, err := pgfuncs.Open(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Ready(ctx); err != nil {
		t.Errorf("not migrated: %v", err)
	}
}

func BenchmarkNew(b *testing.B) {
	pgtest.New(b) // the server's start
	for b.Loop() {
		pgtest.New(b)
	}
}
