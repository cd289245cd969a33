package main

import (
	"context"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/canopysync/canopy/bootstrap"
	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/pgfuncs/pgtest"
	"github.com/canopysync/canopy/realtime"
)

// pgProgram is the path of one of the programs that came with the database's server.
func pgProgram(t *testing.T, database, name string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var dir string
	if err := conn.QueryRow(t.Context(), `select setting from pg_config where name = 'BINDIR'`).Scan(&dir); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

func runProgram(t *testing.T, program string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", program, err, out)
	}
}

// restored is a world on a database that a backup was restored into, as the README of deploy says.
func restored(t *testing.T, backup string) *world {
	t.Helper()
	w := &world{t: t, database: pgtest.New(t, pgtest.Empty())}
	runProgram(t, pgProgram(t, w.database, "pg_restore"), "--exit-on-error", "--no-owner", "--no-privileges", "--dbname", w.database, backup)
	w.must("migrate", "up", "--database-url="+w.database)
	w.must("room", "new-epoch", "--all", "--database-url="+w.database)
	var err error
	if w.db, err = pgfuncs.Open(t.Context(), w.database); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.db.Close)
	rt, err := realtime.New(realtime.Config{Store: w.db})
	if err != nil {
		t.Fatal(err)
	}
	bs, err := bootstrap.New(bootstrap.Config{Source: w.db})
	if err != nil {
		t.Fatal(err)
	}
	w.realtime, w.bootstrap = serveOn(t, rt.Serve), serveOn(t, bs.Serve)
	return w
}

// The roles that a backup names need not be there where it is restored; those that are there are granted anew.
func TestABackupNeedsNoRoles(t *testing.T) {
	t.Parallel()
	w := setup(t)
	const before, after = "canopy_before_the_backup", "canopy_after_the_backup" // of all databases of the server
	sql := func(database, text string) (answer string) {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), database)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		results, err := conn.PgConn().Exec(t.Context(), text).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		if rows := results[len(results)-1].Rows; len(rows) > 0 {
			answer = string(rows[0][0])
		}
		return answer
	}
	sql(w.database, "create role "+before)
	w.must("migrate", "grant", "--realtime="+before, "--database-url="+w.database)
	backup := filepath.Join(t.TempDir(), "canopy.dump")
	runProgram(t, pgProgram(t, w.database, "pg_dump"), "--format=custom", "--file", backup, w.database)
	sql(w.database, "drop owned by "+before+"; drop role "+before+"; create role "+after)

	again := restored(t, backup)
	again.must("migrate", "grant", "--realtime="+after, "--database-url="+again.database)
	if may := sql(again.database, "select has_table_privilege('"+after+"', 'canopy.rooms', 'select')"); may != "t" {
		t.Errorf("may it read: %q", may)
	}
	again.must("migrate", "revoke", after, "--database-url="+again.database)
	sql(again.database, "drop role "+after)
}

// A backup is taken while people work, the database is lost some time later, and the backup restored: what
// they did since, acknowledged or not, is there again, and nothing twice.
func TestRestoredFromABackup(t *testing.T) {
	t.Parallel()
	w := setup(t)
	const room = "garden"
	ann, annCables := w.replica(t, room, nil)
	ben, benCables := w.replica(t, room, nil)
	bed := plant(t, ann, moveop.Root, "bed")
	plant(t, ben, moveop.Root, "path")
	synced(t, ann, ben)

	backup := filepath.Join(t.TempDir(), "canopy.dump")
	working, stop := context.WithCancel(t.Context())
	worked := make(chan int)
	go func() {
		n := 0
		for ; working.Err() == nil && n < 500; n++ {
			if err := ann.Edit(t.Context(), func(tx *client.Tx) error { return tx.Set(bed, "count", n) }); err != nil {
				t.Error(err)
				break
			}
		}
		worked <- n
	}()
	runProgram(t, pgProgram(t, w.database, "pg_dump"), "--format=custom", "--file", backup, w.database)
	stop()
	edits := <-worked

	// All of this is acknowledged, and then lost.
	tulip := plant(t, ann, bed, "tulip")
	synced(t, ann, ben)
	plant(t, ben, bed, "rose")
	edit(t, ben, func(tx *client.Tx) error { return tx.Set(tulip, "name", "red tulip") })
	synced(t, ann, ben)
	// What she knows of is what a backup has: what Ben did since comes anew, so the bed will be back.
	edit(t, ann, func(tx *client.Tx) error { return tx.Delete(bed) })
	synced(t, ann, ben)
	lost, err := w.db.Room(t.Context(), room)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range slices.Concat(annCables[:], benCables[:]) {
		c.pull()
	}
	plant(t, ann, moveop.Root, "fence") // not acknowledged
	plant(t, ben, moveop.Root, "gate")

	again := restored(t, backup)
	fresh, err := again.db.Room(t.Context(), room)
	if err != nil {
		t.Fatal(err)
	}
	if fresh.Epoch == lost.Epoch || fresh.Head >= lost.Head || fresh.Head < 4 {
		t.Fatalf("lost %+v, restored %+v", lost, fresh)
	}
	move := func(c *client.Client, cables [2]*cable) {
		cables[0].to(again.realtime)
		cables[1].to(again.bootstrap)
		for _, c := range cables {
			c.plug()
		}
		c.Reconnect()
		synced(t, c)
	}
	move(ben, benCables) // what he did is there before Ann's delete is, which must not count as knowing of it
	move(ann, annCables)
	synced(t, ann, ben)
	room2, err := again.db.Room(t.Context(), room)
	if err != nil {
		t.Fatal(err)
	}
	if want := lost.Head + 4 + 1; room2.Head != want {
		t.Errorf("the log has %d operations, want %d: %d that it had, four new ones, and a correction; %d edits beside the backup",
			room2.Head, want, lost.Head, edits)
	}
	for _, c := range []*client.Client{ann, ben} {
		got := names(t, c, moveop.Root)
		slices.Sort(got)
		if strings.Join(got, " ") != "bed fence gate path" {
			t.Errorf("below the root: %v", got)
		}
		got = names(t, c, bed)
		slices.Sort(got)
		if strings.Join(got, " ") != "red tulip rose" {
			t.Errorf("below the bed: %v", got)
		}
		if c.Digest() != room2.Digest || c.Status().Epoch != room2.Epoch {
			t.Errorf("%+v, the server has %+v", c.Status(), room2)
		}
	}
}
