package bench

import (
	"context"

	"github.com/canopysync/canopy/moveop"
)

// sqlSizes races one measure in rooms of several sizes.
func (d *database) sqlSizes(ctx context.Context, c *Config, g Growth, sizes []int, room func(size int) (contender, error)) (Growth, error) {
	return c.bySize(ctx, "sql", g, sizes, func(size int) (contender, error) {
		contender, err := room(size)
		if err == nil && size == sizes[len(sizes)-1] {
			err = d.settle(ctx)
		}
		return contender, err
	})
}

func sqlByNodes(ctx context.Context, c *Config, d *database) (Growth, error) {
	g := Growth{Name: "80 % creates, 20 % moves in order, 1,000 a call", Of: "nodes", Expect: "as the depth of the tree and its indexes"}
	return d.sqlSizes(ctx, c, g, c.roomSizes(), func(nodes int) (contender, error) {
		r, err := d.newRoom(ctx, c, eighths, nodes)
		return r.batches(ctx, r.mixed), err
	})
}

// sqlByDepth moves a folder back and forth below the lowest node of a chain.
func sqlByDepth(ctx context.Context, c *Config, d *database) (Growth, error) {
	g := Growth{Name: "a move of a folder to the end of a chain, one a call", Of: "depth", Expect: "proportional to depth"}
	return d.sqlSizes(ctx, c, g, c.depths(), func(depth int) (contender, error) {
		r, err := d.newRoom(ctx, c, chain, depth)
		if err != nil {
			return contender{}, err
		}
		folder, child := depth, depth+1
		err = r.apply(ctx, []moveop.Op{r.move(folder, -1), r.move(child, folder)})
		one := r.singles(ctx, func() []moveop.Op { return []moveop.Op{r.move(folder, depth-1)} })
		one.ops = 1
		return one, err
	})
}

func sqlBySiblings(ctx context.Context, c *Config, d *database) (Growth, error) {
	g := Growth{Name: "a move among siblings, 1,000 a call", Of: "siblings", Expect: "as its indexes"}
	return d.sqlSizes(ctx, c, g, c.roomSizes(), func(nodes int) (contender, error) {
		r, err := d.newRoom(ctx, c, flat, nodes)
		return r.batches(ctx, r.shuffle), err
	})
}

func sqlByLog(ctx context.Context, c *Config, d *database) (Growth, error) {
	g := Growth{Name: "a move in order, 1,000 nodes, 1,000 a call", Of: "operations in the log", Expect: "as its indexes"}
	return d.sqlSizes(ctx, c, g, c.logSizes(), func(log int) (contender, error) {
		r, err := d.newRoom(ctx, c, folders, fewNodes)
		if err != nil {
			return contender{}, err
		}
		return r.batches(ctx, r.shuffle), r.growLog(ctx, c, log-fewNodes, r.shuffle)
	})
}

// sqlByChurn moves the oldest nodes, late by the length of a log in which anything moved anywhere: nearly
// every folder that is above them now was not above them then, the hardest case there is.
func sqlByChurn(ctx context.Context, c *Config, d *database) (Growth, error) {
	g := Growth{Name: "a late move of an old folder where all folders move anywhere, one a call", Of: "operations behind", Expect: "as what can flip"}
	return d.sqlSizes(ctx, c, g, c.churnSizes(), func(log int) (contender, error) {
		r, err := d.newRoom(ctx, c, eighths, fewNodes)
		if err != nil {
			return contender{}, err
		}
		return r.singles(ctx, func() []moveop.Op {
			ops := each(sqlSingle, r.old)
			r.behind(ops, int64(log))
			return ops
		}), r.growLog(ctx, c, log+log/10, r.mixed)
	})
}
