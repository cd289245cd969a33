package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/canopysync/canopy/moveop"
)

// replicaOpener makes a replica with a room of that shape and so many nodes.
type replicaOpener func(s shape, nodes int) (*replica, error)

// sqliteSizes races one measure in replicas of several sizes.
func sqliteSizes(ctx context.Context, c *Config, dir string, g Growth, sizes []int, room func(open replicaOpener, size int) (contender, error)) (_ Growth, err error) {
	var replicas []*replica
	defer func() {
		for _, r := range replicas {
			err = errors.Join(err, r.close())
		}
	}()
	return c.bySize(ctx, "sqlite", g, sizes, func(size int) (contender, error) {
		return room(func(s shape, nodes int) (*replica, error) {
			r, err := openReplica(ctx, c, filepath.Join(dir, fmt.Sprintf("by-%s-%d", g.Of, size)), s, nodes)
			if err == nil {
				replicas = append(replicas, r)
			}
			return r, err
		}, size)
	})
}

func sqliteByNodes(ctx context.Context, c *Config, dir string) (Growth, error) {
	g := Growth{Name: "remote operations, 80 % creates, 20 % moves, 1,000 a batch", Of: "nodes", Expect: "as its indexes"}
	return sqliteSizes(ctx, c, dir, g, c.roomSizes(), func(open replicaOpener, nodes int) (contender, error) {
		r, err := open(folders, nodes)
		if err != nil {
			return contender{}, err
		}
		return r.batches(ctx, sqliteBatch, r.mixed), nil
	})
}

// sqliteByDepth moves a folder back and forth below the lowest node of a chain.
func sqliteByDepth(ctx context.Context, c *Config, dir string) (Growth, error) {
	g := Growth{Name: "a remote move of a folder to the end of a chain, one a batch", Of: "depth", Expect: "proportional to depth"}
	return sqliteSizes(ctx, c, dir, g, c.depths(), func(open replicaOpener, depth int) (contender, error) {
		r, err := open(chain, depth)
		if err != nil {
			return contender{}, err
		}
		folder, child := depth, depth+1
		if err := r.plan(r.move(folder, -1), r.move(child, folder)); err != nil {
			return contender{}, err
		}
		err = r.receive(ctx)
		return r.batches(ctx, 1, func() moveop.Op { return r.move(folder, depth-1) }), err
	})
}

func sqliteBySiblings(ctx context.Context, c *Config, dir string) (Growth, error) {
	g := Growth{Name: "a remote move among siblings, 1,000 a batch", Of: "siblings", Expect: "as its indexes"}
	return sqliteSizes(ctx, c, dir, g, c.roomSizes(), func(open replicaOpener, nodes int) (contender, error) {
		r, err := open(flat, nodes)
		if err != nil {
			return contender{}, err
		}
		return r.batches(ctx, sqliteBatch, r.shuffle), nil
	})
}

func sqliteByLog(ctx context.Context, c *Config, dir string) (Growth, error) {
	g := Growth{Name: "a remote move in order, 1,000 nodes, 1,000 a batch", Of: "operations in the log", Expect: "as its indexes"}
	return sqliteSizes(ctx, c, dir, g, c.logSizes(), func(open replicaOpener, log int) (contender, error) {
		r, err := open(folders, fewNodes)
		if err != nil {
			return contender{}, err
		}
		return r.batches(ctx, sqliteBatch, r.shuffle), r.growLog(ctx, c, log-fewNodes, r.shuffle)
	})
}

// sqliteByDistance moves any node, late.
func sqliteByDistance(ctx context.Context, c *Config, dir string) (_ Growth, err error) {
	nodes, log := max(c.Nodes/10, 100), c.Nodes
	r, err := openReplica(ctx, c, filepath.Join(dir, "by-distance"), folders, nodes)
	if err != nil {
		return Growth{}, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	if err := r.growLog(ctx, c, log+log/100, r.shuffle); err != nil {
		return Growth{}, err
	}
	g := Growth{Name: fmt.Sprintf("a late remote move of any node, %s nodes, one a batch", count(nodes)), Of: "operations behind", Expect: "constant"}
	return c.bySize(ctx, "sqlite", g, distances(log), func(distance int) (contender, error) {
		return r.late(ctx, distance, r.shuffle), nil
	})
}

// sqliteByChurn moves the oldest nodes, late, in a room in which anything moved anywhere since: see
// sqlByChurn.
func sqliteByChurn(ctx context.Context, c *Config, dir string) (Growth, error) {
	g := Growth{Name: "a late remote move of an old folder where all folders move anywhere, one a batch", Of: "operations behind", Expect: "as what can flip"}
	return sqliteSizes(ctx, c, dir, g, c.churnSizes(), func(open replicaOpener, log int) (contender, error) {
		r, err := open(eighths, fewNodes)
		if err != nil {
			return contender{}, err
		}
		return r.late(ctx, log, r.old), r.growLog(ctx, c, log+log/10, r.mixed)
	})
}
