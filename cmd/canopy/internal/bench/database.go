package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/pgfuncs/localpg"
)

// database is the one that is measured: through db as a service uses it, through pool directly.
type database struct {
	db      *pgfuncs.DB
	pool    *pgxpool.Pool
	version string
	dir     string       // for files, removed at the end
	private func() error // stops and removes a server of our own
}

// openDatabase connects to the configured database, or starts one, and migrates it.
func openDatabase(ctx context.Context, c *Config) (d *database, err error) {
	d = &database{private: func() error { return nil }}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close(ctx))
		}
	}()
	if d.dir, err = os.MkdirTemp(c.Dir, "canopy-bench-"); err != nil {
		return d, err
	}
	url := c.DatabaseURL
	if url == "" {
		if url, err = d.start(ctx, c.Nodes); err != nil {
			return d, err
		}
	}
	if d.db, err = pgfuncs.Open(ctx, url); err != nil {
		return d, err
	}
	if _, err = d.db.Migrate(ctx); err != nil {
		return d, err
	}
	if d.pool, err = pgxpool.New(ctx, url); err != nil {
		return d, err
	}
	if err = d.pool.QueryRow(ctx, `select current_setting('server_version')`).Scan(&d.version); err != nil {
		return d, err
	}
	return d, d.exec(ctx, `
		drop schema if exists canopy_bench cascade;
		create schema canopy_bench;
		create table canopy_bench.nodes (like canopy.nodes including all)`)
}

// start runs a private server with the settings of production: durable, and with memory for rooms of so many
// nodes in all.
func (d *database) start(ctx context.Context, nodes int) (url string, err error) {
	dir := filepath.Join(d.dir, "postgres")
	server, err := localpg.Start(ctx, localpg.Config{DataDir: dir, Settings: map[string]string{
		"shared_buffers": fmt.Sprintf("%dkB", max(defaultBuffers, nodes*perNode)),
	}})
	if err != nil {
		return "", fmt.Errorf("start Postgres: %w", err)
	}
	d.private = func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		return errors.Join(server.Stop(ctx), localpg.Remove(ctx, dir))
	}
	return server.URL(), nil
}

// In kB: Postgres's own default, and what a node takes with its indexes, its past, and the limit's copy.
const (
	defaultBuffers = 128 << 10
	perNode        = 1
)

// close removes what openDatabase made, except rooms in a database that is not ours.
func (d *database) close(ctx context.Context) error {
	var err error
	if d.pool != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		err = d.exec(ctx, `drop schema if exists canopy_bench cascade`)
		d.pool.Close()
	}
	if d.db != nil {
		d.db.Close()
	}
	err = errors.Join(err, d.private())
	if d.dir != "" {
		err = errors.Join(err, os.RemoveAll(d.dir))
	}
	return err
}

func (d *database) exec(ctx context.Context, sql string, args ...any) error {
	_, err := d.pool.Exec(ctx, sql, args...)
	return err
}

// settle brings statistics and disk to a state of rest after much was written. Not everybody may
// order a checkpoint: without one, figures are only noisier.
func (d *database) settle(ctx context.Context) error {
	for _, table := range []string{"canopy.nodes", "canopy.history", "canopy.rooms", "canopy_bench.nodes"} {
		if err := d.exec(ctx, `vacuum analyze `+table); err != nil {
			return err
		}
	}
	_ = d.exec(ctx, `checkpoint`)
	return nil
}

// sqlRoom is a room in the database and the one who writes it.
type sqlRoom struct {
	*author
	d    *database
	name string
	next []moveop.Op // of the round to come
}

// newRoom makes a room of so many nodes.
func (d *database) newRoom(ctx context.Context, c *Config, s shape, nodes int) (*sqlRoom, error) {
	r := &sqlRoom{author: newAuthor(s), d: d, name: fmt.Sprintf("bench-%x", time.Now().UnixNano())}
	if _, err := d.db.CreateRoom(ctx, r.name, uuid.NewString()); err != nil {
		return r, err
	}
	return r, r.grow(ctx, c, fmt.Sprintf("a room of %s nodes", count(nodes)), nodes, func() moveop.Op { return r.create(nodes) })
}

// growLog applies n operations more.
func (r *sqlRoom) growLog(ctx context.Context, c *Config, n int, next func() moveop.Op) error {
	return r.grow(ctx, c, fmt.Sprintf("a log of %s more", count(n)), n, next)
}

func (r *sqlRoom) grow(ctx context.Context, c *Config, what string, n int, next func() moveop.Op) error {
	c.Progress.Start(what, int64(n))
	defer c.Progress.End()
	for n > 0 {
		batch := each(min(n, 5000), next)
		if err := r.apply(ctx, batch); err != nil {
			return err
		}
		c.Progress.Add(int64(len(batch)))
		n -= len(batch)
	}
	return nil
}

func (r *sqlRoom) apply(ctx context.Context, ops []moveop.Op) error {
	applied, err := r.d.db.Apply(ctx, r.name, ops)
	r.known = applied.Head
	return err
}

// applyEach applies operations one a call.
func (r *sqlRoom) applyEach(ctx context.Context, ops []moveop.Op) error {
	for i := range ops {
		if err := r.apply(ctx, ops[i:i+1]); err != nil {
			return err
		}
	}
	return nil
}

// fillLimit gives the plain table the rows of all rooms.
func (d *database) fillLimit(ctx context.Context) error {
	return d.exec(ctx, `insert into canopy_bench.nodes select * from canopy.nodes where room_id > 0`)
}

// insertPlain is the limit: the operations as rows, by one insert.
func (d *database) insertPlain(ctx context.Context, ops []moveop.Op) error {
	n := len(ops)
	node, parent, ts := make([]pgtype.UUID, n), make([]pgtype.UUID, n), make([]pgtype.UUID, n)
	key, known := make([]string, n), make([]int64, n)
	for i, op := range ops {
		// A moved node's row is there already: the timestamp stands in for the node.
		node[i] = pgtype.UUID{Bytes: op.TS, Valid: true}
		parent[i] = pgtype.UUID{Bytes: op.Parent, Valid: true}
		ts[i] = pgtype.UUID{Bytes: op.TS, Valid: true}
		key[i], known[i] = op.OrderKey, op.Known
	}
	return d.exec(ctx, `
		insert into canopy_bench.nodes (room_id, node, parent, order_key, ts, seq, known)
		select 1, u.* from unnest($1::uuid[], $2::uuid[], $3::text[], $4::uuid[], $5::bigint[], $5::bigint[]) as u`,
		node, parent, key, ts, known)
}
