package pgfuncs_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// scatter makes operations of a replica over some years, many in few milliseconds, ascending.
func scatter(rng *rand.Rand, r moveop.ReplicaID, n int) []moveop.Op {
	var times []moveop.Timestamp
	for range n {
		ago := rng.Int64N(1 << (8 * (1 + rng.IntN(4)))) // from a quarter of a second to 50 days
		ms := time.Now().Add(-time.Duration(rng.IntN(3)) * 365 * 24 * time.Hour).UnixMilli()
		times = append(times, moveop.NewTimestamp(ms>>16<<16-ago, uint16(rng.IntN(4)), r))
	}
	slices.SortFunc(times, moveop.Timestamp.Compare)
	var ops []moveop.Op
	for i, ts := range slices.Compact(times) {
		op := set(r, 0, node("n"), fmt.Sprint(i%5), fmt.Sprint(i))
		if i%2 == 0 {
			op = move(r, 0, node(fmt.Sprint(r, i%7)), node(fmt.Sprint(r, i%3)))
		}
		op.TS = ts
		ops = append(ops, op)
	}
	return ops
}

// Every span of every length has what adding up the log gives, however the log grew between two questions.
func TestBuckets(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	room := db.newRoom(t)
	const seed = 7
	rng := rand.New(rand.NewPCG(seed, 0))
	for r := range moveop.ReplicaID(4) {
		for batch := range slices.Chunk(scatter(rng, r+1, 60), 25) {
			db.apply(t, room, batch...)
			if rng.IntN(2) == 0 {
				checkBuckets(t, db, room)
			}
		}
	}
	checkBuckets(t, db, room)
}

func checkBuckets(t *testing.T, db database, room string) {
	t.Helper()
	log, err := db.OpsAfter(t.Context(), room, 0, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	checkSpan(t, db, room, "", log)
}

// checkSpan checks the parts of a span, and theirs; log is what is in it.
func checkSpan(t *testing.T, db database, room string, span wire.Span, log []moveop.Op) {
	t.Helper()
	parts := map[wire.Span][]moveop.Op{}
	for _, op := range log {
		part := wire.SpanOf(op.TS, len(span)+2)
		parts[part] = append(parts[part], op)
	}
	got, err := db.Buckets(t.Context(), room, span)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Buckets) != len(parts) {
		t.Fatalf("%q has %d parts, want %d", span, len(got.Buckets), len(parts))
	}
	for _, bucket := range got.Buckets {
		ops := parts[bucket.Span]
		var sum uint64
		for _, op := range ops {
			sum ^= op.LogHash()
		}
		if bucket.Ops != int64(len(ops)) || bucket.Log != fmt.Sprintf("%016x", sum) {
			t.Fatalf("%q has %+v, want %d ops with %016x", span, bucket, len(ops), sum)
		}
		checkOpsBetween(t, db, room, bucket.Span, ops)
		if len(bucket.Span) < wire.MaxSpan {
			checkSpan(t, db, room, bucket.Span, ops)
		}
	}
}

func checkOpsBetween(t *testing.T, db database, room string, span wire.Span, want []moveop.Op) {
	t.Helper()
	slices.SortFunc(want, func(a, b moveop.Op) int { return a.TS.Compare(b.TS) })
	limit := len(want) - len(want)/2
	var got []moveop.Op
	for after := span.First(); ; after = got[len(got)-1].TS {
		page, err := db.OpsBetween(t.Context(), room, after, span.Last(), limit)
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, page...); len(page) < limit {
			break
		}
	}
	same := func(a, b moveop.Op) bool {
		return a.SameBody(b) && a.TS == b.TS && a.Seq == b.Seq && a.Known == b.Known
	}
	if !slices.EqualFunc(want, got, same) {
		t.Fatalf("%q has %d ops, want %d", span, len(got), len(want))
	}
}

// What is folded while a room is counted for the first time leaves the buckets, too: it went uncounted while the
// counting transaction, whose row in log_bucket_heads could not be seen yet, still read it in the log.
func TestFoldWaitsForTheFirstCount(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	room := db.newRoom(t)
	for ms := range int64(10) {
		db.apply(t, room, set(1, ms+1, node("A"), "k", fmt.Sprint(ms)))
	}
	ctx := t.Context()
	counting, err := db.pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer counting.Rollback(context.WithoutCancel(ctx))
	if _, err := counting.Exec(ctx, `select canopy.count_buckets($1, 100)`, room); err != nil {
		t.Fatal(err)
	}
	folded := make(chan error, 1)
	go func() {
		_, err := db.Compact(ctx, room, at(5), nil)
		folded <- err
	}()
	for waits := false; !waits; {
		select {
		case err := <-folded:
			t.Fatalf("compacting did not wait for the count: %v", err)
		default:
		}
		const query = `
			select exists (select from pg_stat_activity
			                where datname = current_database() and wait_event_type = 'Lock')`
		if err := db.pool.QueryRow(ctx, query).Scan(&waits); err != nil {
			t.Fatal(err)
		}
	}
	if err := counting.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-folded; err != nil {
		t.Fatal(err)
	}
	log, err := db.OpsBetween(ctx, room, moveop.Timestamp{}, moveop.MaxTimestamp, 100)
	if err != nil || len(log) != 5 {
		t.Fatalf("%d operations are left (%v), want 5", len(log), err)
	}
	checkSpan(t, db, room, "", log)
}

// A count on a snapshot older than a fold fails, and does not count what the fold took out.
func TestCountOnAnOldSnapshot(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	room := db.newRoom(t)
	db.apply(t, room, set(1, 1, node("A"), "k", "1"), set(1, 2, node("A"), "k", "2"))
	if _, err := db.Buckets(t.Context(), room, ""); err != nil {
		t.Fatal(err)
	}
	db.apply(t, room, set(1, 3, node("A"), "k", "3"))
	err := pgx.BeginTxFunc(t.Context(), db.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), `select from canopy.rooms`); err != nil {
			t.Fatal(err)
		}
		db.compact(t, room, at(2))
		_, err := tx.Exec(t.Context(), `select canopy.count_buckets($1, 100)`, room)
		return err
	})
	if sqlState(err) != "40001" {
		t.Errorf("got %v, want a serialization failure", err)
	}
}

func TestBucketsRefusals(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	for _, span := range []wire.Span{"", "01", "0123456789"} {
		if _, err := db.Buckets(t.Context(), "nowhere", span); !errors.Is(err, wire.ErrUnknownRoom) {
			t.Errorf("%q of no room: %v", span, err)
		}
		got, err := db.Buckets(t.Context(), db.newRoom(t), span)
		if err != nil || len(got.Buckets) > 0 || got.Seq != 0 || got.Epoch == "" {
			t.Errorf("%q of an empty room: %+v, %v", span, got, err)
		}
	}
	if _, err := db.OpsBetween(t.Context(), "nowhere", moveop.Timestamp{}, moveop.MaxTimestamp, 1); !errors.Is(err, wire.ErrUnknownRoom) {
		t.Errorf("ops of no room: %v", err)
	}
	if _, err := db.Buckets(t.Context(), db.newRoom(t), "0123456789abcdef"); err == nil {
		t.Error("a span of one reading has parts")
	}
	for _, text := range []string{"0", "0G", "AB", "'; --", "0123456789abcdef01"} {
		if _, err := wire.ParseSpan(text); err == nil {
			t.Errorf("%q is a span", text)
		}
	}
}
