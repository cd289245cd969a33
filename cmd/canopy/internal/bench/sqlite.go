package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
)

const (
	sqliteBatch = 1000
	sqliteEdits = 20 // of a round
	sqliteRoom  = "bench"
)

// SQLite measures package client, the replica in a file: through its socket, and by its edits.
func SQLite(ctx context.Context, cfg Config) (s Section, err error) {
	cfg = cfg.withDefaults()
	s = Section{Name: "sqlite"}
	dir, err := os.MkdirTemp(cfg.Dir, "canopy-bench-")
	if err != nil {
		return s, fmt.Errorf("measure sqlite: %w", err)
	}
	defer func() {
		if e := os.RemoveAll(dir); err == nil && e != nil {
			err = fmt.Errorf("measure sqlite: %w", e)
		}
	}()
	plain, err := openPlainFile(ctx, dir)
	if err != nil {
		return s, fmt.Errorf("measure sqlite: %w", err)
	}
	defer func() { err = errors.Join(err, plain.close()) }()
	nodes := max(cfg.Nodes/10, sqliteBatch)
	remote, err := sqliteRemote(ctx, &cfg, dir, nodes, plain)
	if err != nil {
		return s, fmt.Errorf("measure sqlite: %w", err)
	}
	local, err := sqliteLocal(ctx, &cfg, dir, nodes, plain)
	if err != nil {
		return s, fmt.Errorf("measure sqlite: %w", err)
	}
	s.Results = append(remote, local...)
	if cfg.Growth {
		for _, measure := range []func(context.Context, *Config, string) (Growth, error){
			sqliteByNodes, sqliteByDepth, sqliteBySiblings, sqliteByLog, sqliteByDistance, sqliteByChurn,
		} {
			g, err := measure(ctx, &cfg, dir)
			if err != nil {
				return s, fmt.Errorf("measure sqlite: %w", err)
			}
			s.Growth = append(s.Growth, g)
		}
	}
	return s, nil
}

// replica is a client that is fed, and the one who writes what it is fed with.
type replica struct {
	*author
	feed     *feed
	client   *client.Client
	statuses <-chan client.Status
	next     []moveop.Op // of the round to come
	frame    []byte      // the same
}

// openReplica makes a client's file and a room of so many nodes in it.
func openReplica(ctx context.Context, c *Config, path string, s shape, nodes int) (r *replica, err error) {
	r = &replica{author: newAuthor(s)}
	if r.feed, err = startFeed(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	if r.client, err = client.Open(ctx, path, client.Options{Room: sqliteRoom, RealtimeURL: r.feed.url}); err != nil {
		return nil, err
	}
	r.statuses = r.client.WatchStatus(ctx)
	select {
	case <-r.feed.joined:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return r, r.grow(ctx, c, fmt.Sprintf("a replica of %s nodes", count(nodes)), nodes, func() moveop.Op { return r.create(nodes) })
}

// grow receives n operations more.
func (r *replica) grow(ctx context.Context, c *Config, what string, n int, next func() moveop.Op) error {
	c.Progress.Start(what, int64(n))
	defer c.Progress.End()
	for n > 0 {
		batch := min(sqliteBatch, n)
		if err := r.plan(each(batch, next)...); err != nil {
			return err
		}
		if err := r.receive(ctx); err != nil {
			return err
		}
		c.Progress.Add(int64(batch))
		n -= batch
	}
	return nil
}

// growLog receives n operations more.
func (r *replica) growLog(ctx context.Context, c *Config, n int, next func() moveop.Op) error {
	return r.grow(ctx, c, fmt.Sprintf("a log of %s more", count(n)), n, next)
}

func (r *replica) close() error {
	var err error
	if r.client != nil {
		err = r.client.Close()
	}
	return errors.Join(err, r.feed.close())
}

// plan encodes the next batch.
func (r *replica) plan(ops ...moveop.Op) (err error) {
	r.next = ops
	r.frame, err = r.feed.frame(ops)
	return err
}

// receive sends the planned batch and waits until the client has committed it. There is an event only where
// something can be seen to change.
func (r *replica) receive(ctx context.Context) error {
	if err := r.feed.send(r.frame); err != nil {
		return err
	}
	timeout := time.NewTimer(unfedAfter)
	defer timeout.Stop()
	for head := r.next[len(r.next)-1].Seq; ; {
		select {
		case s, open := <-r.statuses:
			if !open {
				return cmp.Or(ctx.Err(), client.ErrClosed)
			}
			if s.Seq >= head {
				return nil
			}
		case <-timeout.C:
			return errUnfed
		}
	}
}

// batches is a contender that receives a batch of n a round.
func (r *replica) batches(ctx context.Context, n int, next func() moveop.Op) contender {
	return contender{
		ops:     n,
		prepare: func() error { return r.plan(each(n, next)...) },
		run:     func() error { return r.receive(ctx) },
	}
}

// late is a contender that receives operations so far behind, one a batch.
func (r *replica) late(ctx context.Context, distance int, next func() moveop.Op) contender {
	return r.batches(ctx, 1, func() moveop.Op {
		op := []moveop.Op{next()}
		r.behind(op, int64(distance))
		return op[0]
	})
}

// sqliteRemote receives batches from a server, from the socket to the commit.
func sqliteRemote(ctx context.Context, c *Config, dir string, nodes int, plain *plainFile) (results []Result, err error) {
	r, err := openReplica(ctx, c, filepath.Join(dir, "replica"), folders, nodes)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	fill := newAuthor(folders)
	for fill.nodes < nodes {
		if err := plain.insertRows(ctx, each(sqliteBatch, func() moveop.Op { return fill.create(nodes) })); err != nil {
			return nil, err
		}
	}
	received := r.batches(ctx, sqliteBatch, r.mixed)
	prepare := received.prepare
	received.prepare = nil // it gets the operations that the plain table got
	inserted := contender{ops: sqliteBatch, prepare: prepare, run: func() error { return plain.insertRows(ctx, r.next) }}
	name := fmt.Sprintf("remote operations, 80 %% creates, 20 %% moves, %s nodes, 1,000 a batch", count(nodes))
	medians, rounds, err := c.race(ctx, name, inserted, received)
	if err != nil {
		return nil, err
	}
	return []Result{comparison(name, "plain inserts of the same rows", 5, medians, rounds)}, nil
}

// sqliteLocal edits the replica that was fed, offline.
func sqliteLocal(ctx context.Context, c *Config, dir string, nodes int, plain *plainFile) (results []Result, err error) {
	r, err := client.Open(ctx, filepath.Join(dir, "replica"), client.Options{Room: sqliteRoom})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	a := newAuthor(folders)
	commits := contender{ops: sqliteEdits, run: func() error { return repeat(sqliteEdits, func() error { return plain.commit(ctx) }) }}
	for _, edit := range []struct {
		name string
		edit func(tx *client.Tx) error
	}{
		{"a move", func(tx *client.Tx) error {
			leaf := nodes/2 + a.rng.IntN(nodes/2)
			return tx.Move(nodeID(leaf), nodeID(folders(a.rng, leaf, nodes)), client.Last)
		}},
		{"a new node with a property", func(tx *client.Tx) error {
			id, err := tx.Create(nodeID(folders(a.rng, nodes-1, nodes)), client.Last)
			if err != nil {
				return err
			}
			return tx.Set(id, "title", "something to remember")
		}},
	} {
		edits := contender{ops: sqliteEdits, run: func() error {
			return repeat(sqliteEdits, func() error { return r.Edit(ctx, edit.edit) })
		}}
		name := fmt.Sprintf("a local edit, durable: %s, %s nodes", edit.name, count(nodes))
		medians, rounds, err := c.race(ctx, name, commits, edits)
		if err != nil {
			return nil, err
		}
		results = append(results, comparison(name, "a durable commit of one number", 1.5, medians, rounds))
	}
	return results, nil
}

func repeat(n int, do func() error) error {
	for range n {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}
