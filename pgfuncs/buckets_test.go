package pgfuncs_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

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
