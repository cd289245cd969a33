package bench

import (
	"context"
	"fmt"
	"runtime"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/tree"
)

const (
	treeBatch = 1000
	treeRound = 5_000   // operations of a round in order: short, so that most rounds are not interrupted
	treePlan  = 100_000 // operations made at once, for several rounds
	lateRound = 100     // late operations of a round
)

// Tree measures package tree, the replica in memory.
func Tree(ctx context.Context, cfg Config) (Section, error) {
	cfg = cfg.withDefaults()
	s := Section{Name: "tree"}
	for _, measure := range []func(context.Context, *Config) ([]Result, error){treeInOrder, treeLate, treeMemory} {
		results, err := measure(ctx, &cfg)
		if err != nil {
			return s, fmt.Errorf("measure tree: %w", err)
		}
		s.Results = append(s.Results, results...)
		runtime.GC() // the next measure starts without the room of the last one
	}
	if !cfg.Growth {
		return s, nil
	}
	for _, table := range []func(context.Context, *Config) (Growth, error){
		treeByNodes, treeByDepth, treeBySiblings, treeByLog, treeByDistance, treeByChurn,
	} {
		g, err := table(ctx, &cfg)
		if err != nil {
			return s, fmt.Errorf("measure tree: %w", err)
		}
		s.Growth = append(s.Growth, g)
		runtime.GC()
	}
	return s, nil
}

// treeRoom is a room in memory and the one who writes it.
type treeRoom struct {
	*author
	tree  *tree.Tree
	next  []moveop.Op // of the round to come
	later []moveop.Op // of the rounds after it
}

func newTreeRoom(s shape, nodes int) (*treeRoom, error) {
	r := &treeRoom{author: newAuthor(s), tree: tree.New()}
	return r, r.grow(nodes, func() moveop.Op { return r.create(nodes) })
}

// grow applies n operations in batches.
func (r *treeRoom) grow(n int, next func() moveop.Op) error {
	for n > 0 {
		batch := each(min(n, treeBatch), next)
		if err := r.apply(batch, treeBatch); err != nil {
			return err
		}
		n -= len(batch)
	}
	return nil
}

// apply applies operations, so many a call.
func (r *treeRoom) apply(ops []moveop.Op, batch int) error {
	for len(ops) > 0 {
		n := min(batch, len(ops))
		if _, err := r.tree.Apply(ops[:n]...); err != nil {
			return err
		}
		ops = ops[n:]
	}
	return nil
}

// shuffles plans the next round of random moves. Now and then it makes them, for many rounds, and
// collects the garbage of doing so.
func (r *treeRoom) shuffles(n int) error {
	if len(r.later) < n {
		r.later = each(max(n, treePlan), r.shuffle)
		runtime.GC()
	}
	r.next, r.later = r.later[:n], r.later[n:]
	return nil
}

// shuffling is a contender that moves random nodes, in order.
func (r *treeRoom) shuffling(ops int) contender {
	return contender{
		ops:     ops,
		prepare: func() error { return r.shuffles(ops) },
		run:     func() error { return r.apply(r.next, treeBatch) },
	}
}

// treeInOrder moves random nodes of 10,000, in a tree that nobody has asked for its digest, and in one
// that keeps it from then on.
func treeInOrder(ctx context.Context, c *Config) (results []Result, err error) {
	nodes := max(c.Nodes/100, 100)
	for _, kind := range []struct {
		name   string
		batch  int
		digest bool
	}{
		{perCall(treeBatch), treeBatch, false},
		{perCall(1), 1, false},
		{perCall(treeBatch) + ", keeping digests", treeBatch, true},
	} {
		r, err := newTreeRoom(folders, nodes)
		if err != nil {
			return nil, err
		}
		if kind.digest {
			r.tree.Digest()
		}
		parents := make(map[moveop.NodeID]moveop.NodeID, nodes)
		writes := contender{
			ops:     treeRound,
			prepare: func() error { return r.shuffles(treeRound) },
			run: func() error {
				for i := range r.next {
					parents[r.next[i].Node] = r.next[i].Parent
				}
				return nil
			},
		}
		// The tree gets the moves that the map got.
		moves := contender{ops: treeRound, run: func() error { return r.apply(r.next, kind.batch) }}
		name := fmt.Sprintf("random moves in order, %s nodes of depth ≤ 4, %s", count(nodes), kind.name)
		medians, rounds, err := c.race(ctx, name, writes, moves)
		if err != nil {
			return nil, err
		}
		results = append(results,
			comparison(name, "a map write each", 10, medians, rounds),
			absolute("the same, at least 1M ops/s", nsPerOp, 1000, medians[1], rounds))
	}
	return results, nil
}

// treeLate compares an operation far behind with the same one near the end, in a room of 100,000 nodes
// that were moved ten times each.
func treeLate(ctx context.Context, c *Config) (results []Result, err error) {
	r, nodes, log, err := newBusyRoom(c)
	if err != nil {
		return nil, err
	}
	for _, kind := range []struct {
		name string
		pick func() int
	}{
		{"any node", func() int { return r.rng.IntN(nodes) }},
		{"a leaf", func() int { return nodes - 1 - r.rng.IntN(nodes/2) }},
		{"a folder", func() int { return r.rng.IntN(nodes / 20) }},
	} {
		pick := func() moveop.Op {
			i := kind.pick()
			return r.move(i, r.shape(r.rng, i, nodes))
		}
		name := fmt.Sprintf("one move of %s, late by %s, %s nodes", kind.name, count(log), count(nodes))
		medians, rounds, err := c.race(ctx, name, r.late(10, pick), r.late(log, pick))
		if err != nil {
			return nil, err
		}
		results = append(results, comparison(name, "one like it, late by 10", 3, medians, rounds))
	}
	return results, nil
}

// newBusyRoom makes a room of 100,000 nodes, with a million moves after.
func newBusyRoom(c *Config) (r *treeRoom, nodes, log int, err error) {
	nodes, log = max(c.Nodes/10, 100), c.Nodes
	if r, err = newTreeRoom(folders, nodes); err != nil {
		return nil, 0, 0, err
	}
	return r, nodes, log, r.grow(log+log/100, r.shuffle)
}

// late is a contender that applies moves so far behind, one a call.
func (r *treeRoom) late(distance int, next func() moveop.Op) contender {
	return contender{
		ops: lateRound,
		prepare: func() error {
			r.next = each(lateRound, next)
			r.behind(r.next, int64(distance))
			runtime.GC()
			return nil
		},
		run: func() error { return r.apply(r.next, 1) },
	}
}

// treeMemory is the heap of a room whose nodes were moved once.
func treeMemory(_ context.Context, c *Config) ([]Result, error) {
	const rounds = 3
	c.Progress.Start("memory", rounds)
	defer c.Progress.End()
	var bytes []float64
	for range rounds {
		before := heap()
		r, err := newTreeRoom(folders, c.Nodes)
		if err != nil {
			return nil, err
		}
		bytes = append(bytes, float64(heap()-before)/float64(c.Nodes))
		runtime.KeepAlive(r)
		c.Progress.Add(1)
	}
	name := fmt.Sprintf("heap per node, log included, %s nodes", count(c.Nodes))
	return []Result{absolute(name, bytesPerNode, 200, median(bytes), rounds)}, nil
}

func heap() int64 {
	runtime.GC()
	runtime.GC() // the first one ends with memory still to be swept
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
