//go:build unix

package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/canopysync/canopy/pgfuncs/localpg"
)

// stopTimeout is how long a fast shutdown may take.
const stopTimeout = 10 * time.Second

// shared is the cluster of the test process.
var shared lazyCluster

// lazyCluster is started on first use.
type lazyCluster struct {
	mu      sync.Mutex // guards the fields below; held during the start
	started bool
	cluster *cluster
	err     error
}

// get returns the cluster, or why it did not start. It does not try again, or every test would wait for the same
// error.
func (l *lazyCluster) get(ctx context.Context) (*cluster, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.started {
		l.started = true
		// The cluster outlives the test that happens to be first.
		l.cluster, l.err = startCluster(context.WithoutCancel(ctx))
	}
	return l.cluster, l.err
}

// stop stops the cluster, if there is one; the next get starts another.
func (l *lazyCluster) stop(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.cluster
	l.started, l.cluster, l.err = false, nil, nil
	if c == nil {
		return nil
	}
	return c.stop(ctx)
}

// cluster is a server with a template database for each kind of database requested.
type cluster struct {
	dir    string
	server *localpg.Server
	admin  *pgxpool.Pool

	mu        sync.Mutex // guards templates and names; held while a template is made
	templates map[options]string
	names     int // number of databases made so far
}

// dirPattern is the pattern of the clusters' directories. sweep removes whatever matches it.
const dirPattern = "canopy-pgtest-*"

func startCluster(ctx context.Context) (*cluster, error) {
	sweep(ctx)
	dir, err := os.MkdirTemp("", dirPattern)
	if err != nil {
		return nil, err
	}
	c := &cluster{dir: dir, templates: make(map[options]string)}
	c.server, err = localpg.Start(ctx, localpg.Config{DataDir: dir, Volatile: true})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	c.admin, err = pgxpool.New(ctx, c.server.DatabaseURL("postgres"))
	if err != nil {
		return nil, errors.Join(err, c.stop(ctx))
	}
	return c, nil
}

// stop stops the server and removes all its files.
func (c *cluster) stop(ctx context.Context) error {
	if c.admin != nil {
		c.admin.Close()
	}
	return stopAndRemove(ctx, c.server, c.dir)
}

func stopAndRemove(ctx context.Context, server *localpg.Server, dir string) error {
	graceful, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	return errors.Join(server.Stop(graceful), localpg.Remove(ctx, dir))
}

// sweep removes the directories of test processes that died. A young one may belong to a process that has not locked it
// yet; an old one is locked if it is in use.
func sweep(ctx context.Context) {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), dirPattern))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		if info, err := os.Lstat(dir); err == nil && ownDir(info) && time.Since(info.ModTime()) > time.Minute {
			_ = localpg.Remove(ctx, dir) // an error means that it is in use, or that another sweep removes it
		}
	}
}

func ownDir(info fs.FileInfo) bool {
	return info.IsDir() && int(info.Sys().(*syscall.Stat_t).Uid) == os.Geteuid()
}

// clone makes a database of the given kind.
func (c *cluster) clone(ctx context.Context, kind options) (string, error) {
	c.mu.Lock()
	c.names++
	name := fmt.Sprintf("test_%d", c.names)
	template, err := c.template(ctx, kind)
	c.mu.Unlock()
	if err != nil {
		return "", fmt.Errorf("make template database: %w", err)
	}
	if err := c.exec(ctx, "create database %s template %s", name, template); err != nil {
		return "", fmt.Errorf("clone template database: %w", err)
	}
	return name, nil
}

// template returns the template for databases of a kind, made on first use. The caller holds mu.
func (c *cluster) template(ctx context.Context, kind options) (string, error) {
	if name, ok := c.templates[kind]; ok {
		return name, nil
	}
	name := fmt.Sprintf("template_%d", len(c.templates)+2)
	clause, err := c.localeClause(ctx, kind.collation)
	if err != nil {
		return "", err
	}
	// What a failed attempt left behind.
	if err := c.exec(ctx, "drop database if exists %s with (force)", name); err != nil {
		return "", err
	}
	if err := c.exec(ctx, "create database %s template template0"+clause, name); err != nil {
		return "", err
	}
	if !kind.empty {
		if err := migrate(ctx, c.server.DatabaseURL(name)); err != nil {
			return "", err
		}
	}
	// Nobody, not even autovacuum, may be connected to a template while it is cloned.
	if err := c.exec(ctx, "alter database %s with allow_connections false", name); err != nil {
		return "", err
	}
	c.templates[kind] = name
	return name, nil
}

// localeClause returns the clause of CREATE DATABASE for a collation.
func (c *cluster) localeClause(ctx context.Context, collation string) (string, error) {
	switch collation {
	case C:
		return "", nil // the cluster's default
	case English:
	default:
		return "", fmt.Errorf("unknown collation %q", collation)
	}
	const installed = `
		select collcollate
		  from pg_collation
		 where collprovider = 'c'
		   and collcollate in ('en_US.UTF-8', 'en_US.utf8')
		 limit 1`
	var locale string
	err := c.admin.QueryRow(ctx, installed).Scan(&locale)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return " locale_provider icu icu_locale 'en-US'", nil
	case err != nil:
		return "", err
	}
	return fmt.Sprintf(" locale '%s'", locale), nil
}

func (c *cluster) drop(ctx context.Context, name string) error {
	return c.exec(ctx, "drop database %s with (force)", name)
}

// exec runs a statement with database names, which SQL does not accept as parameters.
func (c *cluster) exec(ctx context.Context, format string, names ...any) error {
	for i, name := range names {
		names[i] = pgx.Identifier{name.(string)}.Sanitize()
	}
	_, err := c.admin.Exec(ctx, fmt.Sprintf(format, names...))
	return err
}
