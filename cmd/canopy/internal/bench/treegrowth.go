package bench

import (
	"context"
	"fmt"

	"github.com/canopysync/canopy/moveop"
)

func treeByNodes(ctx context.Context, c *Config) (Growth, error) {
	g := Growth{Name: "a move in order", Of: "nodes", Expect: "the cost of memory that is not in a cache"}
	return c.bySize(ctx, "tree", g, c.roomSizes(), func(nodes int) (contender, error) {
		r, err := newTreeRoom(folders, nodes)
		return r.shuffling(treeRound), err
	})
}

// treeByDepth moves a folder back and forth below the lowest node of a chain: it has a child, so that
// the walk to the top cannot be left out.
func treeByDepth(ctx context.Context, c *Config) (Growth, error) {
	g := Growth{Name: "a move of a folder to the end of a chain", Of: "depth", Expect: "proportional to depth"}
	return c.bySize(ctx, "tree", g, []int{10, 1000, c.Nodes/10 + 1}, func(depth int) (contender, error) {
		r, err := newTreeRoom(chain, depth)
		if err != nil {
			return contender{}, err
		}
		folder, child := depth, depth+1
		if err := r.apply([]moveop.Op{r.move(folder, -1), r.move(child, folder)}, 1); err != nil {
			return contender{}, err
		}
		ops := max(1, min(treeRound, 1_000_000/depth))
		return contender{
			ops: ops,
			prepare: func() error {
				r.next = each(ops, func() moveop.Op { return r.move(folder, depth-1) })
				return nil
			},
			run: func() error { return r.apply(r.next, treeBatch) },
		}, nil
	})
}

func treeBySiblings(ctx context.Context, c *Config) (Growth, error) {
	g := Growth{Name: "a move among siblings", Of: "siblings", Expect: "logarithmic"}
	return c.bySize(ctx, "tree", g, c.roomSizes(), func(nodes int) (contender, error) {
		r, err := newTreeRoom(flat, nodes)
		return r.shuffling(treeRound), err
	})
}

func treeByLog(ctx context.Context, c *Config) (Growth, error) {
	g := Growth{Name: "a move in order, 1,000 nodes", Of: "operations in the log", Expect: "constant"}
	sizes := []int{max(c.Nodes/100, 1000), max(c.Nodes/10, 2000), max(c.Nodes, 3000)}
	return c.bySize(ctx, "tree", g, sizes, func(log int) (contender, error) {
		const nodes = 1000
		r, err := newTreeRoom(folders, nodes)
		if err != nil {
			return contender{}, err
		}
		return r.shuffling(treeBatch), r.grow(log-nodes, r.shuffle)
	})
}

// treeByDistance moves any node, late.
func treeByDistance(ctx context.Context, c *Config) (Growth, error) {
	r, nodes, log, err := newBusyRoom(c)
	if err != nil {
		return Growth{}, err
	}
	g := Growth{Name: fmt.Sprintf("a late move of any node, %s nodes", count(nodes)), Of: "operations behind", Expect: "constant"}
	return c.bySize(ctx, "tree", g, []int{10, max(log/1000, 20), max(log/10, 30), log}, func(distance int) (contender, error) {
		return r.late(distance, r.shuffle), nil
	})
}

// treeByChurn moves the oldest nodes, late, in a room in which anything moved anywhere since: see
// sqlByLog.
func treeByChurn(ctx context.Context, c *Config) (Growth, error) {
	const nodes = 1000
	log := max(c.Nodes/10, 30)
	r, err := newTreeRoom(eighths, nodes)
	if err != nil {
		return Growth{}, err
	}
	if err := r.grow(log+log/10, r.mixed); err != nil {
		return Growth{}, err
	}
	old := func() moveop.Op { return r.move(r.rng.IntN(nodes), r.rng.IntN(nodes)) }
	g := Growth{Name: "a late move of an old folder where all folders move anywhere", Of: "operations behind", Expect: "as what can flip"}
	return c.bySize(ctx, "tree", g, []int{10, max(c.Nodes/1000, 20), log}, func(distance int) (contender, error) {
		return r.late(distance, old), nil
	})
}
