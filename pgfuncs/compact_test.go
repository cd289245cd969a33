package pgfuncs_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/pgfuncs/pgtest"
	"github.com/canopysync/canopy/proptest"
	"github.com/canopysync/canopy/realtime/wire"
)

// at is the horizon before which everything up to a millisecond is.
func at(ms int64) moveop.Timestamp { return moveop.NewTimestamp(ms, 0xffff, 1<<62) }

// history lists the seqs that are in history.
func (d database) history(t testing.TB, room string) (seqs []int64) {
	t.Helper()
	err := d.pool.QueryRow(t.Context(), `
		select coalesce(array_agg(h.seq order by h.seq), '{}')
		  from canopy.history h
		  join canopy.rooms r using (room_id)
		 where r.name = $1`, room).Scan(&seqs)
	if err != nil {
		t.Fatal(err)
	}
	return seqs
}

func (d database) compact(t testing.TB, room string, horizon moveop.Timestamp) pgfuncs.Compacted {
	t.Helper()
	c, err := d.Compact(t.Context(), room, horizon, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func code(t testing.TB, err error) wire.Code {
	t.Helper()
	refused, ok := errors.AsType[*wire.Error](err)
	if !ok {
		t.Fatalf("want a refusal, got %v", err)
	}
	return refused.Code
}

func TestCompactKeepsWhatIsNeeded(t *testing.T) {
	t.Parallel()
	a, b := node("A"), node("B")
	for _, tc := range []struct {
		name string
		ops  []moveop.Op // seq 1 …
		want []int64     // what is left in history of horizon 100
	}{
		{"superseded moves and sets go", []moveop.Op{
			move(1, 1, a, moveop.Root), move(1, 2, a, b), move(1, 3, a, moveop.Root),
			set(1, 4, a, "k", "1"), set(1, 5, a, "k", "2")}, nil},
		{"one that is not effective goes", []moveop.Op{
			move(1, 1, a, moveop.Root), move(1, 2, b, a), move(1, 3, a, b)}, nil},
		{"the last one before the horizon stays while a later one is there", []moveop.Op{
			move(1, 1, a, b), move(1, 2, a, moveop.Root), move(1, 200, a, b)}, []int64{2}},
		{"what came after the horizon stays", []moveop.Op{
			move(1, 1, a, b), move(1, 150, a, moveop.Root), move(1, 200, a, b)}, []int64{1, 2}},
		{"a delete before the horizon stays while its node is out again", []moveop.Op{
			move(1, 1, a, b), move(1, 2, a, moveop.Trash), move(1, 200, a, moveop.Root)}, []int64{1, 2}},
		{"where a delete took its node from stays", []moveop.Op{
			move(1, 1, a, b), move(1, 2, a, moveop.Root), move(1, 3, a, moveop.Trash), move(1, 4, a, moveop.Trash)}, []int64{2}},
		{"not if the node came back", []moveop.Op{
			move(1, 1, a, b), move(1, 2, a, moveop.Trash), move(1, 3, a, moveop.Root)}, nil},
		{"sets go, though a later one took their place after the horizon", []moveop.Op{
			set(1, 1, a, "k", "1"), set(1, 200, a, "k", "2")}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			db := openDatabase(t)
			room := db.newRoom(t)
			db.apply(t, room, tc.ops...)
			before := db.history(t, room)
			compacted := db.compact(t, room, at(100))
			if got := db.history(t, room); !slices.Equal(got, tc.want) {
				t.Errorf("left in history: %v, want %v", got, tc.want)
			}
			if int(compacted.Folded) != len(before)-len(tc.want) || compacted.Horizon != at(100) {
				t.Errorf("compacted: %+v", compacted)
			}
			if again := db.compact(t, room, at(100)); again.Folded != 0 {
				t.Errorf("compacted again: %+v", again)
			}
		})
	}
}

func TestCompactedRoomRefusesWhatIsTooOld(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	room := db.newRoom(t)
	a, b := node("A"), node("B")
	first := move(1, 10, a, moveop.Root)
	db.apply(t, room, first, move(1, 20, a, b), move(1, 30, a, moveop.Root))
	digest := db.room(t, room).Digest
	db.compact(t, room, at(40))

	r := db.room(t, room)
	if r.MinSeq != 2 || r.Head != 3 || r.Digest != digest {
		t.Errorf("%+v, the digest was %+v", r, digest)
	}
	for _, op := range []moveop.Op{move(1, 40, b, moveop.Root), move(2, 40, b, moveop.Root), first} {
		if _, err := db.Apply(t.Context(), room, []moveop.Op{op}); code(t, err) != wire.CodeTooOld {
			t.Errorf("%s: %v", op.TS, err)
		}
	}
	if again := db.apply(t, room, move(1, 30, a, moveop.Root)); again.Results[0].Status != wire.StatusDuplicate {
		t.Errorf("what is in the log yet: %+v", again)
	}
	db.apply(t, room, move(2, 41, b, moveop.Root))
	if _, err := db.OpsAfter(t.Context(), room, 1, 10); code(t, err) != wire.CodeCompacted {
		t.Error(err)
	}
	if ops, err := db.OpsAfter(t.Context(), room, 2, 10); err != nil || len(ops) != 2 || ops[0].Seq != 3 {
		t.Errorf("%v %v", ops, err)
	}
}

func (d database) room(t testing.TB, room string) wire.Room {
	t.Helper()
	r, err := d.Room(t.Context(), room)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestCompactRefusals(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	if _, err := db.Compact(t.Context(), "nowhere", at(1), nil); !errors.Is(err, wire.ErrUnknownRoom) {
		t.Error(err)
	}
	room := db.newRoom(t)
	db.apply(t, room, move(1, 1, node("A"), moveop.Root), move(1, 2, node("A"), node("B")))
	future := moveop.NewTimestamp(time.Now().Add(time.Minute).UnixMilli(), 0, 0)
	if _, err := db.Compact(t.Context(), room, future, nil); err == nil {
		t.Error("a horizon in the future")
	}
	if len(db.history(t, room)) != 1 {
		t.Error("something is gone")
	}
}

// What nobody has anything old in stays as it is: no write is refused for nothing.
func TestCompactLeavesARoomWithoutHistory(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	room := db.newRoom(t)
	db.apply(t, room, move(1, 10, node("A"), moveop.Root))
	if c := db.compact(t, room, at(100)); !c.Horizon.IsZero() {
		t.Errorf("%+v", c)
	}
	db.apply(t, room, move(2, 5, node("B"), moveop.Root))
}

// A move that a later correction would turn down holds the horizon up, until there can be none.
func TestHorizonStopsBeforeWhatACorrectionWouldTurnDown(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	a, b := node("A"), node("B")
	e := db.newEngine(t, proptest.RestoreMoveAndSet).(*engine)
	db.apply(t, e.room, move(1, 10, a, moveop.Root), move(1, 11, b, a), move(1, 12, b, moveop.Trash))
	aware := move(1, 20, a, b)
	aware.Known = 3
	db.apply(t, e.room, aware, move(1, 30, node("C"), moveop.Root), move(1, 31, node("C"), a))
	if c := db.compact(t, e.room, at(100)); c.Horizon != moveop.NewTimestamp(12, 0, 1) {
		t.Errorf("the horizon is at %s", c.Horizon)
	}
	// B goes back under A, and so A was never below B.
	db.apply(t, e.room, move(2, 40, node("D"), b))
	state, err := e.State()
	if err != nil {
		t.Fatal(err)
	}
	if state.Nodes[b].Parent != a || state.Nodes[a].Parent != moveop.Root {
		t.Errorf("%+v", state.Nodes)
	}
	if c := db.compact(t, e.room, at(100)); c.Horizon != at(100) {
		t.Errorf("the horizon is at %s", c.Horizon)
	}
}

// Compacting while others write: the tree is the one that the model makes of all that was accepted.
func TestCompactBesideWriters(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	room := db.newRoom(t)
	model := proptest.NewModel()
	writing, stop := context.WithCancel(t.Context())
	var writers, compactor errgroup.Group
	accepted := make([][]moveop.Op, 3)
	for w := range accepted {
		writers.Go(func() error {
			for i := range 150 {
				ms := int64(1000*i + w)
				op := move(moveop.ReplicaID(w+1), ms, node(fmt.Sprint((i*7+w)%5)), node(fmt.Sprint((i*3+2*w)%5)))
				_, err := db.Apply(t.Context(), room, []moveop.Op{op})
				if refused, ok := errors.AsType[*wire.Error](err); ok && refused.Code == wire.CodeTooOld {
					continue
				}
				if err != nil {
					return err
				}
				accepted[w] = append(accepted[w], op)
			}
			return nil
		})
	}
	compactor.Go(func() error {
		for writing.Err() == nil {
			r, err := db.Room(t.Context(), room)
			if err != nil {
				return err
			}
			if _, err := db.Compact(t.Context(), room, at(max(0, 1000*(r.Head/3-20))), nil); err != nil {
				return err
			}
		}
		return nil
	})
	err := writers.Wait()
	stop()
	if err := errors.Join(err, compactor.Wait()); err != nil {
		t.Fatal(err)
	}
	if _, err := model.Apply(slices.Concat(accepted...)); err != nil {
		t.Fatal(err)
	}
	want, _ := model.State()
	got, err := (&engine{db: db.DB, pool: db.pool, room: room}).State()
	if err != nil {
		t.Fatal(err)
	}
	want.Effective, got.Effective = nil, nil
	if diff := proptest.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The buckets are those of the log as it is, whether operations were counted before they were folded or not.
func TestBucketsOfACompactedRoom(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	room := db.newRoom(t)
	ops := scatter(rand.New(rand.NewPCG(11, 0)), 1, 200)
	db.apply(t, room, ops[:120]...)
	checkBuckets(t, db, room)
	db.apply(t, room, ops[120:]...)
	for _, horizon := range []moveop.Timestamp{ops[60].TS, ops[190].TS} {
		if db.compact(t, room, horizon).Folded == 0 {
			t.Fatal("nothing was folded")
		}
		log, err := db.OpsBetween(t.Context(), room, moveop.Timestamp{}, moveop.MaxTimestamp, 1000)
		if err != nil {
			t.Fatal(err)
		}
		checkSpan(t, db, room, "", log)
	}
}

// pieces are the functions that do a piece of work on all of a room.
var pieces = map[string]string{
	"compact": `select canopy.compact($1, '00000000-0000-0000-0000-000000000000', '00000000-0000-0000-0000-000000000000', 1)`,
	"purge":   `select canopy.purge($1, '00000000-0000-0000-0000-000000000000', null, null, 1)`,
}

// The room's row is locked before anything is read, be there something to do or not.
func TestCompactWaitsForTheRoom(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	room := db.newRoom(t)
	tx, err := db.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(t.Context()))
	if _, err := tx.Exec(t.Context(), `select from canopy.rooms where name = $1 for update`, room); err != nil {
		t.Fatal(err)
	}
	for name, call := range pieces {
		err := pgx.BeginFunc(t.Context(), db.pool, func(other pgx.Tx) error {
			if _, err := other.Exec(t.Context(), `set local lock_timeout = '20ms'`); err != nil {
				t.Fatal(err)
			}
			_, err := other.Exec(t.Context(), call, room)
			return err
		})
		if sqlState(err) != "55P03" {
			t.Errorf("%s: want a lock timeout, got %v", name, err)
		}
	}
}

// On a snapshot that is older than the lock they would not see what they waited for.
func TestRefusedOutsideReadCommitted(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	room := db.newRoom(t)
	calls := maps.Clone(pieces)
	calls["apply"] = `select canopy.apply($1, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}')`
	calls["apply_one"] = `select canopy.apply_one($1, '01930000-0000-0000-0000-000000000009', 2::smallint, '01930000-0000-0000-0000-00000000000a',
		null, null, 'key', 'null', 0)`
	for name, call := range calls {
		for _, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable, pgx.ReadCommitted} {
			err := pgx.BeginTxFunc(t.Context(), db.pool, pgx.TxOptions{IsoLevel: level}, func(tx pgx.Tx) error {
				_, err := tx.Exec(t.Context(), call, room)
				return err
			})
			want := "CN501"
			if level == pgx.ReadCommitted {
				want = ""
			}
			if sqlState(err) != want {
				t.Errorf("%s, %s: %v, want SQLSTATE %q", name, level, err, want)
			}
		}
	}
}

// sqlState is the SQLSTATE of a database's error, or the text of another; empty for none.
func sqlState(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// Once the deleted node has been moved out, no correction can come any more.
func TestHorizonPassesWhatWasMovedOutOfTrash(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	room := db.newRoom(t)
	a, b := node("A"), node("B")
	for i, op := range []moveop.Op{
		move(1, 10, a, moveop.Root), move(1, 11, b, a), move(1, 12, b, moveop.Trash), move(1, 20, a, b), move(1, 30, b, moveop.Root),
	} {
		op.Known = int64(i)
		db.apply(t, room, op)
	}
	if c := db.compact(t, room, at(25)); c.Horizon != moveop.NewTimestamp(12, 0, 1) {
		t.Errorf("the horizon is at %s", c.Horizon)
	}
	if c := db.compact(t, room, at(100)); c.Horizon != at(100) {
		t.Errorf("the horizon is at %s", c.Horizon)
	}
}

// The lock of compacting belongs to a transaction, so that a pooler in transaction mode does not part the two;
// it outlives the server's timeouts, and holds no snapshot that would keep VACUUM from working.
func TestCompactAllHoldsItsLockInATransaction(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	for range 3 {
		db.apply(t, db.newRoom(t), set(1, 1, node("A"), "k", "1"), set(1, 2, node("A"), "k", "2"))
	}
	impatient, err := pgfuncs.Open(t.Context(), db.pool.Config().ConnString()+"&idle_in_transaction_session_timeout=50")
	if err != nil {
		t.Fatal(err)
	}
	defer impatient.Close()
	compacted := 0
	ran, err := impatient.CompactAll(t.Context(), time.Hour, 0, func(room string, _, _ int64, err error) {
		compacted++
		var holders int
		query := db.pool.QueryRow(t.Context(), `
			select count(*)
			  from pg_locks l
			  join pg_stat_activity a using (pid)
			 where l.locktype = 'advisory'
			   and a.datname = current_database()
			   and a.state = 'idle in transaction'
			   and a.backend_xmin is null`).Scan(&holders)
		if err := errors.Join(err, query); err != nil || holders != 1 {
			t.Errorf("%s: %d hold the lock (%v)", room, holders, err)
		}
	})
	if err != nil || !ran || compacted != 3 {
		t.Errorf("ran %v, %d rooms, %v", ran, compacted, err)
	}
}

// The lock has a connection of its own, so that with a pool of one compacting waited for itself, for ever.
func TestCompactAllNeedsTwoConnections(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	for connections, fails := range map[int]bool{1: true, 2: false} {
		db, err := pgfuncs.Open(t.Context(), fmt.Sprintf("%s&pool_max_conns=%d", url, connections))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		ran, err := db.CompactAll(ctx, time.Hour, 0, func(room string, _, _ int64, err error) { t.Errorf("room %s: %v", room, err) })
		if (err != nil) != fails || ran == fails || ctx.Err() != nil {
			t.Errorf("with %d connections: ran %v, %v", connections, ran, err)
		}
	}
}
