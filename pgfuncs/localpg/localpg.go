//go:build unix

// Package localpg runs a private PostgreSQL server: it finds the binaries (or fetches them), makes
// a cluster in a directory of its own, starts it and stops it. `canopy dev` keeps its rooms in one,
// and the tests of the whole module run on others.
//
// # Directory
//
// Config.DataDir belongs to this package alone:
//
//	canopy-postgres    the marker: without it nothing here is ever touched
//	lock               flock held for as long as a Server runs
//	data/              the cluster (PGDATA)
//	socket/            the Unix socket, or a symbolic link to a temporary directory
//	postgres.log       the server's log, moved to postgres.log.1 when it has grown too large
//	init-*/            an initdb that did not finish; removed by the next start
//
// A directory with anything in it and no marker is refused with ErrForeign.
//
// Fetched binaries are trusted as far as TLS and the repository are: no checksum of theirs is known here.
//
// # Who may connect
//
// The server listens on no TCP port. Its socket is in a directory of mode 0700 and whoever gets
// there is trusted, so exactly the user who runs it and root can connect.
//
// PostgreSQL refuses to run as root. Started by root, it runs as the owner of an existing cluster,
// else as `postgres`, else as `nobody`; only data and socket belong to that user, and what root
// itself opens lies in a directory that the user cannot write. Where a parent of DataDir does not let
// that user through (root's home, what mktemp -d made), the server is handed the cluster as an open
// descriptor and the socket is in a temporary directory; on systems other than Linux, which cannot do
// that, the answer is an *AccessError that names the parent.
//
// # Ends of life
//
// Stop shuts the server down and returns when it is gone. If this process dies without getting to
// that, then on Linux the kernel sends the server the signal for a fast shutdown. That wish is bound
// to the thread that forked the server, not to the process, so one goroutine is locked to a thread
// from the fork until the server's end: the thread can only die with the process. Elsewhere the
// server lives on until the next Start on its directory, which (on every system) first stops what
// the last run left behind. Only processes that work in the directory's own cluster are signalled.
//
// All methods of Server may be called concurrently.
package localpg

import (
	"context"
	"fmt"
	"log/slog"
	"os"
)

// User is the role that owns a cluster: a superuser without a password.
const User = "canopy"

// Config says where a private server lives and how it runs.
type Config struct {
	// DataDir is the directory of the cluster, made when it does not exist. Required.
	DataDir string

	// BinDir is the directory of the PostgreSQL binaries (postgres, initdb). Defaults to the newest
	// installation of PostgreSQL 15 or later found in PATH and in the usual places, or, for an
	// existing cluster, the newest of its major version.
	BinDir string

	// CacheDir keeps fetched binaries. Defaults to DefaultCacheDir.
	CacheDir string

	// Repository is the URL of the Maven repository that binaries are fetched from where none are
	// installed. Defaults to Maven Central; "none" never fetches.
	Repository string

	// Database is made if it is not there, and is what Server.URL names. Defaults to "canopy".
	Database string

	// Volatile gives up durability for speed (no fsync, no waiting for the log, small buffers, many
	// connections), which is right for tests only: a killed server may lose its last commits, and a
	// crash of the machine the cluster.
	Volatile bool

	// Settings are further server settings; they win over those of this package.
	Settings map[string]string

	// Logger gets the few events worth knowing: fetching, initialising, cleaning up after a crash.
	// Defaults to silence.
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	if c.DataDir == "" {
		return c, fmt.Errorf("localpg: Config.DataDir is required")
	}
	if c.Database == "" {
		c.Database = "canopy"
	}
	if c.CacheDir == "" {
		c.CacheDir = DefaultCacheDir()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// Start runs a server on cfg.DataDir, which it makes if need be. The context bounds the start
// alone: the server runs until Stop or Kill.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, places: finder{path: os.Getenv("PATH"), places: usualPlaces}}
	if err := s.Restart(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// Remove deletes a directory made by Start, after stopping what a crashed run may have left running
// in it. It answers ErrInUse while a Server runs there and ErrForeign for any other directory.
func Remove(ctx context.Context, dataDir string) error {
	dir, err := openDirectory(dataDir)
	if err != nil {
		return fmt.Errorf("remove cluster: %w", err)
	}
	defer dir.close()
	if err := dir.stopLeftovers(ctx, slog.New(slog.DiscardHandler)); err != nil {
		return fmt.Errorf("remove cluster: %w", err)
	}
	return dir.remove()
}
