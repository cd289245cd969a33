package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/canopysync/canopy/bootstrap"
	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/pgfuncs/localpg"
	"github.com/canopysync/canopy/realtime"
)

// stopTimeout is the time for Postgres to shut down before it is killed.
const stopTimeout = 20 * time.Second

// database is the Postgres under the services: somebody else's, or a private one that ends with us.
type database struct {
	url    string
	server *localpg.Server // nil if it is not ours
	log    string          // the private server's log file
}

// privateDatabase starts Postgres in a directory, which it makes on the first start.
func privateDatabase(ctx context.Context, dataDir string, log *slog.Logger) (*database, error) {
	dir := filepath.Join(dataDir, "postgres")
	server, err := localpg.Start(ctx, localpg.Config{DataDir: dir, Logger: log})
	if errors.Is(err, localpg.ErrInUse) {
		return nil, fmt.Errorf("%s is in use by another canopy; stop it, or choose another directory with --data-dir", dataDir)
	}
	if err != nil {
		return nil, fmt.Errorf("start Postgres: %w", err)
	}
	return &database{url: server.URL(), server: server, log: filepath.Join(dir, "postgres.log")}, nil
}

// ended waits until a private server has ended by itself.
func (d *database) ended(ctx context.Context) error {
	if d.server == nil {
		return nil
	}
	select {
	case <-d.server.Done():
		return fmt.Errorf("the private Postgres ended by itself; see %s", d.log)
	case <-ctx.Done():
		return nil
	}
}

func (d *database) stop(ctx context.Context) error {
	if d.server == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := d.server.Stop(ctx); err != nil {
		return fmt.Errorf("stop Postgres: %w", err)
	}
	return nil
}

// backend is both services on one database, in one process and without authentication.
type backend struct {
	log                 *slog.Logger
	realtime, bootstrap net.Listener
	database            *database
	db                  *pgfuncs.DB
	snapshots           *pgfuncs.DB // the same database: snapshots must not take the connections of pushes
	origins             []string
	names               []string // of this machine
}

// maxSnapshots leaves some connections of the pool for statistics and readiness.
const maxSnapshots = 16

// migrate connects to the database and brings it up to date.
func (b *backend) migrate(ctx context.Context) (err error) {
	if b.db, err = pgfuncs.Open(ctx, b.database.url); err != nil {
		return usagef("database URL: %v", err)
	}
	if b.snapshots, err = pgfuncs.Open(ctx, b.database.url); err != nil {
		return usagef("database URL: %v", err)
	}
	done, err := b.db.Migrate(ctx)
	if err != nil {
		return err
	}
	for _, m := range done {
		b.log.Info("migrated", "version", m.Version, "name", m.Name)
	}
	return nil
}

// serve runs both services until ctx is done or one of them, or the database, fails. When it returns
// they have drained and stopped; the database is the caller's to stop.
func (b *backend) serve(ctx context.Context) error {
	rt, err := realtime.New(realtime.Config{
		Store: b.db, Logger: b.log.With("service", "realtime"), AllowedOrigins: b.origins, Middleware: localOnly(b.names, nil),
		Transport: b.db.Transport(pgfuncs.TransportConfig{Logger: b.log}), // a second one may serve the same database
	})
	if err != nil {
		return err
	}
	bs, err := bootstrap.New(bootstrap.Config{
		Source: b.snapshots, Logger: b.log.With("service", "bootstrap"), MaxSnapshots: maxSnapshots, Middleware: localOnly(b.names, nil),
	})
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return rt.Serve(ctx, b.realtime) })
	group.Go(func() error { return bs.Serve(ctx, b.bootstrap) })
	group.Go(func() error { return b.database.ended(ctx) })
	return group.Wait()
}

// close releases everything that serve did not take over, in reverse order.
func (b *backend) close(ctx context.Context) error {
	for _, ln := range []net.Listener{b.realtime, b.bootstrap} {
		if ln != nil {
			_ = ln.Close() // closed already where it was served
		}
	}
	for _, db := range []*pgfuncs.DB{b.db, b.snapshots} {
		if db != nil {
			db.Close()
		}
	}
	if b.database != nil {
		return b.database.stop(ctx)
	}
	return nil
}
