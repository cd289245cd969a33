//go:build unix

package localpg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

// noRepository as Config.Repository disables downloads.
const noRepository = "none"

// mavenCentral is where the binaries are published.
const mavenCentral = "https://repo1.maven.org/maven2"

// fetchable are the available builds by major version; a new cluster gets the default.
var fetchable = map[int]embeddedpostgres.PostgresVersion{
	15: embeddedpostgres.V15,
	16: embeddedpostgres.V16,
	17: embeddedpostgres.V17,
	18: embeddedpostgres.V18,
}

const defaultMajor = 17

// fetch gets the binaries of a major version (0: the default one) from the cache or the repository.
func fetch(ctx context.Context, a account, cfg Config, major int) (installation, error) {
	if cfg.Repository == noRepository {
		return installation{}, ErrNoPostgres
	}
	if major == 0 {
		major = defaultMajor
	}
	version, ok := fetchable[major]
	if !ok {
		return installation{}, ErrNoPostgres
	}
	cache, err := filepath.Abs(cfg.CacheDir)
	if err != nil {
		return installation{}, err
	}
	if err := makeParents(cache); err != nil {
		return installation{}, fmt.Errorf("make cache directory: %w", err)
	}
	if err := a.reach(ctx, cache); err != nil {
		return installation{}, err
	}
	lock, err := awaitLock(ctx, filepath.Join(cache, "fetch.lock"))
	if err != nil {
		return installation{}, fmt.Errorf("wait for another fetch: %w", err)
	}
	defer lock.Close()
	dir := filepath.Join(cache, "postgresql-"+string(version))
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		err = fetchInto(ctx, cfg, cache, dir, version)
		if err != nil {
			return installation{}, fmt.Errorf("fetch PostgreSQL %s: %w", version, err)
		}
	}
	return inspect(ctx, a, filepath.Join(dir, "bin"))
}

// awaitLock locks a file, waiting for the current holder.
func awaitLock(ctx context.Context, path string) (*os.File, error) {
	tick := time.NewTicker(10 * pollEvery)
	defer tick.Stop()
	for {
		f, err := lockFile(path)
		if !errors.Is(err, ErrInUse) {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// fetchInto downloads and unpacks beside dir, and renames the result to dir when it is complete. The caller holds the
// cache's lock, so nobody is working on an unfinished download found there.
func fetchInto(ctx context.Context, cfg Config, cache, dir string, version embeddedpostgres.PostgresVersion) error {
	left, err := filepath.Glob(filepath.Join(cache, "fetch-*"))
	if err != nil {
		return err
	}
	for _, path := range left {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	work, err := os.MkdirTemp(cache, "fetch-*")
	if err != nil {
		return err
	}
	repository := cfg.Repository
	if repository == "" {
		repository = mavenCentral
	}
	cfg.Logger.LogAttrs(ctx, slog.LevelInfo, "fetching PostgreSQL: none is installed",
		slog.String("version", string(version)), slog.String("from", repository))
	if err := download(ctx, repository, work, version); err != nil {
		return err
	}
	unpacked := filepath.Join(work, "unpacked")
	if err := readableToAll(unpacked); err != nil {
		return err
	}
	if err := os.Rename(unpacked, dir); err != nil {
		return err
	}
	return os.RemoveAll(work)
}

// download lets the library fetch and unpack the binaries, and nothing more: it knows the layout of the repository, but
// its cluster could not run as root, nor without a TCP port.
//
// The library offers the download only as the first step of a start. The runtime directory given to it here cannot be
// created once the binaries exist, because its path lies below one of them; so the start always fails right after the
// download, before it has run any program.
//
// The library takes no context. If ctx ends first, its download continues in the background until the repository hangs
// up; the next fetch removes what it leaves behind. It also leaves an empty log file in the system's temporary directory,
// which cannot be told from that of another user of the library.
func download(ctx context.Context, repository, work string, version embeddedpostgres.PostgresVersion) error {
	unpacked := filepath.Join(work, "unpacked")
	config := embeddedpostgres.DefaultConfig().
		Version(version).
		BinaryRepositoryURL(repository).
		CachePath(filepath.Join(work, "archive")).
		BinariesPath(unpacked).
		RuntimePath(filepath.Join(unpacked, "bin", "pg_ctl", "stop-here")).
		Port(0).
		Logger(nil)
	ended := make(chan error, 1)
	go func() { ended <- embeddedpostgres.NewDatabase(config).Start() }()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case err := <-ended:
		for _, program := range []string{"postgres", "initdb", "pg_ctl"} {
			if _, missing := os.Stat(filepath.Join(unpacked, "bin", program)); missing != nil {
				return errors.Join(ErrNoPostgres, err, missing)
			}
		}
		return nil
	}
}

// readableToAll lets every user run what the owner can run, whatever the umask was: root's server does not run as root.
func readableToAll(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		mode := info.Mode().Perm() | 0o444
		if entry.IsDir() || mode&0o100 != 0 {
			mode |= 0o111
		}
		return os.Chmod(path, mode)
	})
}
