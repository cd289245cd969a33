package bench

import (
	"context"
	"fmt"

	"github.com/canopysync/canopy/moveop"
)

const (
	sqlBatch  = 1000
	sqlSingle = 20 // calls of a round that makes single ones
)

// SQL measures the stored functions as the services call them, each call committed.
func SQL(ctx context.Context, cfg Config) (s Section, err error) {
	cfg = cfg.withDefaults()
	s = Section{Name: "sql"}
	d, err := openDatabase(ctx, &cfg)
	if err != nil {
		return s, fmt.Errorf("measure sql: %w", err)
	}
	defer func() {
		if e := d.close(ctx); err == nil && e != nil {
			err = fmt.Errorf("measure sql: %w", e)
		}
	}()
	s.Engine = "PostgreSQL " + d.version
	for _, measure := range []func(context.Context, *Config, *database) ([]Result, error){sqlInOrder, sqlLate} {
		results, err := measure(ctx, &cfg, d)
		if err != nil {
			return s, fmt.Errorf("measure sql: %w", err)
		}
		s.Results = append(s.Results, results...)
	}
	if !cfg.Growth {
		return s, nil
	}
	for _, table := range []func(context.Context, *Config, *database) (Growth, error){
		sqlByNodes, sqlByDepth, sqlBySiblings, sqlByLog, sqlByChurn,
	} {
		g, err := table(ctx, &cfg, d)
		if err != nil {
			return s, fmt.Errorf("measure sql: %w", err)
		}
		s.Growth = append(s.Growth, g)
	}
	return s, nil
}

// batches is a contender that applies a batch a round.
func (r *sqlRoom) batches(ctx context.Context, next func() moveop.Op) contender {
	return contender{
		ops:     sqlBatch,
		prepare: func() error { r.next = each(sqlBatch, next); return nil },
		run:     func() error { return r.apply(ctx, r.next) },
	}
}

// singles is a contender that applies operations one a call.
func (r *sqlRoom) singles(ctx context.Context, prepare func() []moveop.Op) contender {
	return contender{
		ops:     sqlSingle,
		prepare: func() error { r.next = prepare(); return nil },
		run:     func() error { return r.applyEach(ctx, r.next) },
	}
}

// sqlInOrder applies creates and moves to a large room.
func sqlInOrder(ctx context.Context, c *Config, d *database) (results []Result, err error) {
	r, err := d.newRoom(ctx, c, eighths, c.Nodes)
	if err != nil {
		return nil, err
	}
	if err := d.fillLimit(ctx); err != nil {
		return nil, err
	}
	if err := d.settle(ctx); err != nil {
		return nil, err
	}
	for _, kind := range []struct {
		ops    int
		of     string
		target float64
		plain  func() error
		engine contender
	}{
		{sqlBatch, "the same rows, one insert", 5,
			func() error { return d.insertPlain(ctx, r.next) },
			contender{run: func() error { return r.apply(ctx, r.next) }}},
		{sqlSingle, "one row, committed", 1.5,
			func() error { return d.insertEach(ctx, r.next) },
			contender{run: func() error { return r.applyEach(ctx, r.next) }}},
	} {
		// Both get the same operations.
		plain := contender{
			ops:     kind.ops,
			prepare: func() error { r.next = each(kind.ops, r.mixed); return nil },
			run:     kind.plain,
		}
		kind.engine.ops = kind.ops
		batch := sqlBatch
		if kind.ops == sqlSingle {
			batch = 1
		}
		name := fmt.Sprintf("80 %% creates, 20 %% moves in order, %s nodes, %s", count(c.Nodes), perCall(batch))
		medians, rounds, err := c.race(ctx, name, plain, kind.engine)
		if err != nil {
			return nil, err
		}
		results = append(results, comparison(name, kind.of, kind.target, medians, rounds))
	}
	return results, nil
}

func (d *database) insertEach(ctx context.Context, ops []moveop.Op) error {
	for i := range ops {
		if err := d.insertPlain(ctx, ops[i:i+1]); err != nil {
			return err
		}
	}
	return nil
}

// sqlLate applies operations far behind the end of the log, which is more than half creates and moves
// in a room that was there before.
func sqlLate(ctx context.Context, c *Config, d *database) (results []Result, err error) {
	nodes := max(c.Nodes/10, 100)
	distance := int64(nodes)
	r, err := d.newRoom(ctx, c, eighths, nodes)
	if err != nil {
		return nil, err
	}
	if err := r.growLog(ctx, c, nodes+nodes/10, r.mixed); err != nil {
		return nil, err
	}
	if err := d.settle(ctx); err != nil {
		return nil, err
	}
	anything := func() moveop.Op { return r.move(r.rng.IntN(nodes), r.rng.IntN(nodes)) }
	late := func(distance int64) contender {
		return r.singles(ctx, func() []moveop.Op {
			ops := each(sqlSingle, anything)
			r.behind(ops, distance)
			return ops
		})
	}
	name := fmt.Sprintf("one move of any node, late by %s, %s nodes", count(int(distance)), count(nodes))
	medians, rounds, err := c.race(ctx, name, late(10), late(distance))
	if err != nil {
		return nil, err
	}
	results = append(results, comparison(name, "one like it, late by 10", 2, medians, rounds))

	inOrder := r.batches(ctx, r.mixed)
	offline := r.batches(ctx, r.mixed)
	offline.prepare = func() error {
		r.next = each(sqlBatch, r.mixed)
		r.behind(r.next, distance)
		return nil
	}
	name = fmt.Sprintf("an offline client's 1,000 operations, late by %s, %s nodes", count(int(distance)), count(nodes))
	medians, rounds, err = c.race(ctx, name, inOrder, offline)
	if err != nil {
		return nil, err
	}
	return append(results, comparison(name, "1,000 in order", 5, medians, rounds)), nil
}
