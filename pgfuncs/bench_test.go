package pgfuncs_test

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/pgfuncs/pgtest"
)

// room is a room being written to by one replica, with a clock of its own.
type benchRoom struct {
	b     *testing.B
	db    *pgfuncs.DB
	pool  *pgxpool.Pool
	rng   *rand.Rand
	nodes int
	ms    int64
	head  int64
}

const benchStart = 1_700_000_000_000

// newBenchRoom makes a room of CANOPY_BENCH_NODES (100,000) nodes, eight children each, on a durable
// server of its own, beside a plain table with the same indexes.
func newBenchRoom(b *testing.B) *benchRoom {
	b.Helper()
	server := pgtest.NewServer(b)
	db, err := pgfuncs.Open(b.Context(), server.URL())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(db.Close)
	pool, err := pgxpool.New(b.Context(), server.URL())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	r := &benchRoom{b: b, db: db, pool: pool, rng: rand.New(rand.NewPCG(1, 2)), ms: benchStart}
	if _, err := db.CreateRoom(b.Context(), "bench", epoch); err != nil {
		b.Fatal(err)
	}
	nodes := 100_000
	if n, err := strconv.Atoi(os.Getenv("CANOPY_BENCH_NODES")); err == nil {
		nodes = n
	}
	for r.nodes < nodes {
		r.apply(r.batch(min(5000, nodes-r.nodes), func() moveop.Op { return r.create((r.nodes - 1) / 8) }))
	}
	r.exec(`create table limit_rows (like canopy.nodes including all)`)
	r.exec(`insert into limit_rows select * from canopy.nodes`)
	r.exec(`vacuum analyze`)
	r.exec(`checkpoint`)
	return r
}

func (r *benchRoom) exec(sql string, args ...any) {
	r.b.Helper()
	if _, err := r.pool.Exec(r.b.Context(), sql, args...); err != nil {
		r.b.Fatal(err)
	}
}

func (r *benchRoom) apply(ops []moveop.Op) {
	r.b.Helper()
	applied, err := r.db.Apply(r.b.Context(), "bench", ops)
	if err != nil {
		r.b.Fatal(err)
	}
	r.head = applied.Head
}

// id returns the i-th node; in time order, like the UUIDv7s of a client.
func (r *benchRoom) id(i int) (n moveop.NodeID) {
	if i < 0 {
		return moveop.Root
	}
	binary.BigEndian.PutUint64(n[0:], uint64(i)<<16)
	n[6] = 0x70
	binary.BigEndian.PutUint64(n[8:], uint64(i)*0x9e3779b97f4a7c15)
	return n
}

func (r *benchRoom) batch(n int, next func() moveop.Op) []moveop.Op {
	ops := make([]moveop.Op, n)
	for i := range ops {
		ops[i] = next()
	}
	return ops
}

func (r *benchRoom) move(node, parent int) moveop.Op {
	r.ms++
	return moveop.Op{Kind: moveop.Move, TS: moveop.NewTimestamp(r.ms, 0, 7), Node: r.id(node), Parent: r.id(parent),
		OrderKey: "a0" + string("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[r.rng.IntN(26)]), Known: r.head}
}

func (r *benchRoom) create(parent int) moveop.Op {
	op := r.move(r.nodes, parent)
	r.nodes++
	return op
}

// mixed makes 80 % creates of leaves and 20 % moves of any node to anywhere.
func (r *benchRoom) mixed() moveop.Op {
	if r.rng.IntN(5) > 0 {
		return r.create(r.rng.IntN(r.nodes))
	}
	return r.move(r.rng.IntN(r.nodes), r.rng.IntN(r.nodes))
}

// insertPlain is the physical limit: the same rows by one set-based insert.
func (r *benchRoom) insertPlain(ops []moveop.Op) {
	r.b.Helper()
	n := len(ops)
	node, parent, ts := make([]pgtype.UUID, n), make([]pgtype.UUID, n), make([]pgtype.UUID, n)
	key, known := make([]string, n), make([]int64, n)
	for i, op := range ops {
		// A moved node's id is taken: the timestamp stands in for it.
		node[i] = pgtype.UUID{Bytes: op.TS, Valid: true}
		parent[i] = pgtype.UUID{Bytes: op.Parent, Valid: true}
		ts[i] = pgtype.UUID{Bytes: op.TS, Valid: true}
		key[i], known[i] = op.OrderKey, op.Known
	}
	r.exec(`
		insert into limit_rows (room_id, node, parent, order_key, ts, seq, known)
		select 1, u.* from unnest($1::uuid[], $2::uuid[], $3::text[], $4::uuid[], $5::bigint[], $5::bigint[]) as u`,
		node, parent, key, ts, known)
}

// compare runs limit and engine in turn and reports operations per second of both, and how many times
// as long the engine takes.
func compare(b *testing.B, ops int, limit, engine func()) {
	var limitTime, engineTime time.Duration
	for b.Loop() {
		start := time.Now()
		limit()
		middle := time.Now()
		engine()
		limitTime += middle.Sub(start)
		engineTime += time.Since(middle)
	}
	n := float64(ops * b.N)
	b.ReportMetric(n/limitTime.Seconds(), "limit-ops/s")
	b.ReportMetric(n/engineTime.Seconds(), "ops/s")
	b.ReportMetric(engineTime.Seconds()/limitTime.Seconds(), "times-limit")
}

func BenchmarkApply(b *testing.B) {
	r := newBenchRoom(b)
	for _, size := range []int{1000, 1} {
		b.Run("mixed/batch="+strconv.Itoa(size), func(b *testing.B) {
			r.b = b
			var ops []moveop.Op
			compare(b, size,
				func() { ops = r.batch(size, r.mixed); r.insertPlain(ops) },
				func() { r.apply(ops) })
		})
	}
	for _, behind := range []int64{10, 100_000} {
		b.Run("late/behind="+strconv.FormatInt(behind, 10), func(b *testing.B) {
			r.b = b
			var counter uint16
			for b.Loop() {
				counter++
				op := r.move(r.rng.IntN(r.nodes), r.rng.IntN(r.nodes))
				op.TS = moveop.NewTimestamp(r.ms-behind, counter, moveop.ReplicaID(1000+r.rng.IntN(1<<30)))
				r.apply([]moveop.Op{op})
			}
		})
	}
	b.Run("late/behind=100000/batch=1000", func(b *testing.B) {
		r.b = b
		compare(b, 1000,
			func() { r.apply(r.batch(1000, r.mixed)) },
			func() {
				replica := moveop.ReplicaID(1000 + r.rng.IntN(1<<30))
				now := r.ms
				r.ms -= 100_000
				ops := r.batch(1000, r.mixed)
				r.ms = now + 1
				for i := range ops {
					ops[i].TS = moveop.NewTimestamp(ops[i].TS.Millis(), 1, replica)
				}
				r.apply(ops)
			})
	})
}
