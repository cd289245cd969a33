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
	return c.bySize(ctx, "tree", g, c.depths(), func(depth int) (contender, error) {
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
	return c.bySize(ctx, "tree", g, c.logSizes(), func(log int) (contender, error) {
		r, err := newTreeRoom(folders, fewNodes)
		if err != nil {
			return contender{}, err
		}
		return r.shuffling(treeBatch), r.grow(log-fewNodes, r.shuffle)
	})
}

// treeByDistance moves any node, late.
func treeByDistance(ctx context.Context, c *Config) (Growth, error) {
	r, nodes, log, err := newBusyRoom(c)
	if err != nil {
		return Growth{}, err
	}
	g := Growth{Name: fmt.Sprintf("a late move of any node, %s nodes", count(nodes)), Of: "operations behind", Expect: "constant"}
	return c.bySize(ctx, "tree", g, distances(log), func(distance int) (contender, error) {
		return r.late(distance, r.shuffle), nil
	})
}

// treeByChurn moves the oldest nodes, late, in a room in which anything moved anywhere since: see
// sqlByChurn.
func treeByChurn(ctx context.Context, c *Config) (Growth, error) {
	sizes := c.churnSizes()
	log := sizes[len(sizes)-1]
	r, err := newTreeRoom(eighths, fewNodes)
	if err != nil {
		return Growth{}, err
	}
	if err := r.grow(log+log/10, r.mixed); err != nil {
		return Growth{}, err
	}
	g := Growth{Name: "a late move of an old folder where all folders move anywhere", Of: "operations behind", Expect: "as what can flip"}
	return c.bySize(ctx, "tree", g, sizes, func(distance int) (contender, error) {
		return r.late(distance, r.old), nil
	})
}
