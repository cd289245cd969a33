package tree_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/tree"
)

// The benchmarks measure the tree and, in the same run, a limit that it cannot beat, and report the
// ratio of the two. They are for profiles; figures, memory and growth are what canopy bench measures.

// fixture makes ops with ascending times.
type fixture struct {
	rng  *rand.Rand
	tick int64
}

func newFixture() *fixture { return &fixture{rng: rand.New(rand.NewPCG(1, 2))} }

func (f *fixture) id() (id moveop.NodeID) {
	for i := 0; i < 16; i += 8 {
		v := f.rng.Uint64()
		for k := range 8 {
			id[i+k] = byte(v >> (8 * k))
		}
	}
	return id
}

func (f *fixture) ids(n int) []moveop.NodeID {
	ids := make([]moveop.NodeID, n)
	for i := range ids {
		ids[i] = f.id()
	}
	return ids
}

// at is the time of the tick; between two of them there is room for late ops.
func at(tick int64, counter uint16) moveop.Timestamp {
	return moveop.NewTimestamp(1e12+tick, counter, 7)
}

func (f *fixture) move(n, parent moveop.NodeID) moveop.Op {
	f.tick++
	return moveop.Op{
		Kind: moveop.Move, TS: at(f.tick, 0), Node: n, Parent: parent,
		OrderKey: fmt.Sprintf("a%c%cV", 'A'+f.rng.IntN(26), 'a'+f.rng.IntN(26)),
	}
}

// folders makes n nodes in three levels of folders above one level of leaves, so that the depth is at
// most 4: one node in twenty is a folder.
func (f *fixture) folders(n int) (ids []moveop.NodeID, ops []moveop.Op) {
	ids = f.ids(n)
	for i, id := range ids {
		ops = append(ops, f.move(id, f.parent(ids, i)))
	}
	return ids, ops
}

// parent draws a parent for ids[i] that keeps the levels: a folder's is of the level above.
func (f *fixture) parent(ids []moveop.NodeID, i int) moveop.NodeID {
	n := len(ids)
	top, middle, folder := n/500+1, n/100+2, n/20+3
	switch {
	case i < top:
		return moveop.Root
	case i < middle:
		return ids[f.rng.IntN(top)]
	case i < folder:
		return ids[top+f.rng.IntN(middle-top)]
	}
	return ids[middle+f.rng.IntN(folder-middle)]
}

// randomMoves moves random nodes, folders and leaves, n times.
func (f *fixture) randomMoves(ids []moveop.NodeID, n int) []moveop.Op {
	ops := make([]moveop.Op, n)
	for k := range ops {
		i := f.rng.IntN(len(ids))
		ops[k] = f.move(ids[i], f.parent(ids, i))
	}
	return ops
}

func apply(b testing.TB, t *tree.Tree, ops []moveop.Op) {
	for len(ops) > 0 {
		n := min(1000, len(ops))
		if _, err := t.Apply(ops[:n]...); err != nil {
			b.Fatal(err)
		}
		ops = ops[n:]
	}
}

// mapWrites is the limit: what it takes to note each op's parent in a map.
func mapWrites(ops []moveop.Op) time.Duration {
	start := time.Now()
	parents := make(map[moveop.NodeID]moveop.NodeID)
	for i := range ops {
		parents[ops[i].Node] = ops[i].Parent
	}
	return time.Since(start)
}

func report(b *testing.B, ops int, limit time.Duration) {
	perOp := float64(b.Elapsed().Nanoseconds()) / float64(b.N*ops)
	b.ReportMetric(perOp, "ns/move")
	b.ReportMetric(1e9/perOp, "moves/s")
	b.ReportMetric(perOp*float64(ops)/float64(limit.Nanoseconds()), "x-map-write")
}

// BenchmarkInOrder: random moves over 10,000 nodes of depth 4, in order.
func BenchmarkInOrder(b *testing.B) {
	for _, batch := range []int{1, 1000} {
		b.Run(fmt.Sprintf("nodes=10000/batch=%d", batch), func(b *testing.B) {
			f := newFixture()
			ids, ops := f.folders(10_000)
			t := tree.New()
			apply(b, t, ops)
			const n = 200_000
			var limit time.Duration
			for b.Loop() {
				b.StopTimer()
				moves := f.randomMoves(ids, n)
				limit = mapWrites(moves)
				runtime.GC()
				b.StartTimer()
				for i := 0; i < n; i += batch {
					if _, err := t.Apply(moves[i : i+batch]...); err != nil {
						b.Fatal(err)
					}
				}
			}
			report(b, n, limit)
		})
	}
}

// BenchmarkCreateLeaves: a room of a million nodes, made from nothing, in order.
func BenchmarkCreateLeaves(b *testing.B) {
	f := newFixture()
	_, ops := f.folders(1_000_000)
	limit := mapWrites(ops)
	for b.Loop() {
		t := tree.New()
		apply(b, t, ops)
		if got := t.Digest().Ops; got != int64(len(ops)) {
			b.Fatalf("%d ops in the log", got)
		}
	}
	report(b, len(ops), limit)
}

// BenchmarkLate: one op so many ops behind, in a room of 100,000 nodes that were moved a million
// times. What moves is a leaf, which nothing depends on, or a folder.
func BenchmarkLate(b *testing.B) {
	f := newFixture()
	ids, ops := f.folders(100_000)
	t := tree.New()
	apply(b, t, ops)
	apply(b, t, f.randomMoves(ids, 1_000_000))
	counter := uint16(0)
	for _, kind := range []string{"leaf", "folder"} {
		var near float64
		for _, behind := range []int64{10, 1000, 100_000, 1_000_000} {
			b.Run(fmt.Sprintf("%s/behind=%d", kind, behind), func(b *testing.B) {
				for b.Loop() {
					b.StopTimer()
					i := len(ids) - 1 - f.rng.IntN(len(ids)/2)
					if kind == "folder" {
						i = f.rng.IntN(len(ids) / 20)
					}
					counter++
					op := f.move(ids[i], f.parent(ids, i))
					op.TS = at(f.tick-1-behind, counter)
					b.StartTimer()
					if _, err := t.Apply(op); err != nil {
						b.Fatal(err)
					}
				}
				perOp := float64(b.Elapsed().Nanoseconds()) / float64(b.N)
				if behind == 10 {
					near = perOp
				}
				b.ReportMetric(perOp/near, "x-10-behind")
			})
		}
	}
}

// BenchmarkOfflineClient: a thousand moves made offline land so far behind, at once.
func BenchmarkOfflineClient(b *testing.B) {
	f := newFixture()
	ids, ops := f.folders(100_000)
	t := tree.New()
	apply(b, t, ops)
	apply(b, t, f.randomMoves(ids, 300_000))
	counter := uint16(0)
	for _, behind := range []int64{0, 100_000} {
		b.Run(fmt.Sprintf("behind=%d", behind), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				counter++
				moves := f.randomMoves(ids, 1000)
				for i := range moves {
					if behind > 0 {
						moves[i].TS = at(f.tick-behind+int64(i), counter)
					}
				}
				b.StartTimer()
				apply(b, t, moves)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(1000*b.N), "ns/move")
		})
	}
}
