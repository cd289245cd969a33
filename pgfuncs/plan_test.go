package pgfuncs_test

import (
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/pgfuncs/pgtest"
)

// A session that planned everything while the tables were empty reads no more of a room that has grown since
// than it has to, whatever the planner knew of the tables: plans are judged by the index entries they read.
func TestPlansMadeForAnEmptyRoomStayGood(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]string{
		"as migrated":       `select`,
		"known to be empty": `vacuum analyze`,
		"restored, never analysed": `
			delete from pg_statistic where starelid::regclass::text like 'canopy.%';
			update pg_class set reltuples = -1, relpages = 0 where relnamespace = 'canopy'::regnamespace and relkind = 'r'`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testPlans(t, prepare)
		})
	}
}

func testPlans(t *testing.T, prepare string) {
	db, conn := oneSession(t)
	if _, err := conn.Exec(t.Context(), prepare); err != nil {
		t.Fatal(err)
	}
	d := database{DB: db}
	room := d.newRoom(t)
	const size, batches, singles = 200, 10, 5
	late := moveop.ReplicaID(100)
	run := func(i int) {
		var ops, movers []moveop.Op
		for j := range size {
			n := i*size + j
			ops = append(ops, move(1, int64(2*n+1000), node(fmt.Sprint(n)), node(fmt.Sprint(n/4))),
				set(1, int64(2*n+1001), node(fmt.Sprint(n)), "k", "1"))
			if j%10 == 0 {
				movers = append(movers, move(late, int64(n+1000), node(fmt.Sprint(n/3)), node(fmt.Sprint(n/2))))
			}
		}
		ops = append(ops, move(2, int64(2*(i+1)*size+999), node(fmt.Sprint(i*size)), moveop.Trash))
		d.apply(t, room, ops...)
		d.apply(t, room, movers...)
		for j := range singles {
			// A new leaf, a move of it, a property.
			leaf, ms := node(fmt.Sprintf("%d.%d", i, j)), int64(2*(i+1)*size+1000)
			d.apply(t, room, move(3, ms+int64(3*j), leaf, node(fmt.Sprint(j))))
			d.apply(t, room, move(3, ms+int64(3*j+1), leaf, moveop.Root))
			d.apply(t, room, set(3, ms+int64(3*j+2), leaf, "k", "1"))
		}
		late++
	}
	for i := range batches {
		run(i)
	}
	before := entriesRead(t, db, conn)
	run(batches)
	read := entriesRead(t, db, conn) - before
	// 400 operations, 20 of them late, and 15 of their own: some thousands of entries. One scan of the room more
	// a late operation would make it 40,000.
	if read == 0 || read > 30_000 {
		t.Errorf("a batch of %d in a room of %d read %d index entries", 2*size+size/10, 2*size*batches, read)
	}
}

// What services call with the whole log before it is neither planned by statistics nor compiled: statistics for 40
// nodes beside a large room took 20 ms instead of one.
func TestFunctionsForServicesPinTheirPlans(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	rows, _ := db.pool.Query(t.Context(), `
		select proname || ' ' || proconfig::text
		  from pg_proc
		 where pronamespace = 'canopy'::regnamespace and prosecdef
		   and proname not in ('create_room', 'issue_token', 'revoke_token') -- one lookup by a unique key
		   and not proconfig @> '{enable_seqscan=off,enable_bitmapscan=off,jit=off}'`)
	if list, err := pgx.CollectRows(rows, pgx.RowTo[string]); err != nil || len(list) > 0 {
		t.Errorf("%q (%v)", list, err)
	}
}

// A snapshot of a small room reads that room, however many others there are and whatever was analysed.
func TestASnapshotReadsItsRoomOnly(t *testing.T) {
	t.Parallel()
	db, conn := oneSession(t)
	d := database{DB: db}
	fill := func(size int) string {
		room := d.newRoom(t)
		var ops []moveop.Op
		for n := range size {
			ops = append(ops, move(1, int64(3*n+1), node(fmt.Sprint(n)), moveop.Root),
				set(1, int64(3*n+2), node(fmt.Sprint(n)), "k", "1"), set(1, int64(3*n+3), node(fmt.Sprint(n)), "k", "2"))
		}
		d.apply(t, room, ops...)
		return room
	}
	large, small := fill(1000), fill(5)
	if _, err := conn.Exec(t.Context(), `vacuum analyze`); err != nil {
		t.Fatal(err)
	}
	for room, size := range map[string]int64{large: 1000, small: 5} {
		before := rowsRead(t, db, conn)
		err := db.Snapshot(t.Context(), room, func(s format.Snapshot) error {
			for _, section := range s.Header().Sections {
				if n, err := s.Copy(t.Context(), section.Tag, io.Discard); n != size || err != nil {
					t.Errorf("%s: %d rows, %v", section.Table, n, err)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		// Three tables, two of them counted first, with 128 rows of no room in each; rows by index count twice.
		if read := rowsRead(t, db, conn) - before; read == 0 || read > 8*(size+128) {
			t.Errorf("a room of %d nodes: %d rows read", size, read)
		}
	}
}

// oneSession returns a database of its own by one session, which keeps its plans and its statistics, and by
// another one that looks at it.
func oneSession(t *testing.T) (*pgfuncs.DB, *pgx.Conn) {
	t.Helper()
	url := pgtest.New(t)
	db, err := pgfuncs.Open(t.Context(), url+"&pool_max_conns=1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return db, conn
}

// rowsRead returns how many rows and index entries of the log were read so far.
func rowsRead(t *testing.T, db *pgfuncs.DB, conn *pgx.Conn) (n int64) {
	t.Helper()
	if err := db.FlushStatistics(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := conn.QueryRow(t.Context(), `
		select sum(greatest(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint
		  from pg_stat_user_tables
		 where relname in ('nodes', 'values', 'history')`).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n + entriesRead(t, db, conn)
}

// entriesRead returns how many index entries were read in the database so far.
func entriesRead(t *testing.T, db *pgfuncs.DB, conn *pgx.Conn) (n int64) {
	t.Helper()
	if err := db.FlushStatistics(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := conn.QueryRow(t.Context(), `select sum(idx_tup_read)::bigint from pg_stat_user_indexes`).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
