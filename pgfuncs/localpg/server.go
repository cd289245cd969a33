//go:build unix

package localpg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Server is a private PostgreSQL server.
type Server struct {
	cfg    Config
	places finder

	mu      sync.Mutex // guards the fields below; held during starts and stops
	dir     *directory // nil while the server is stopped
	account account
	version Version
	sockets string // kept over a restart, so that URLs stay valid
	process *postmaster
}

// URL is the connection URL of Config.Database. It stays the same over a Restart.
func (s *Server) URL() string { return s.DatabaseURL(s.cfg.Database) }

// DatabaseURL is the connection URL of a database of the server.
func (s *Server) DatabaseURL(database string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return connectionURL(s.sockets, database)
}

func connectionURL(sockets, database string) string {
	// No '+' for a space: libpq and pgx read it as a plus sign.
	query := strings.ReplaceAll(url.Values{"host": {sockets}, "port": {port}}.Encode(), "+", "%20")
	u := url.URL{Scheme: "postgres", User: url.User(User), Path: "/" + database, RawQuery: query}
	return u.String()
}

// Version is the version of the server.
func (s *Server) Version() Version {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.version
}

// Done is closed when the server process has ended, be it stopped or crashed. A Restart makes
// another one.
func (s *Server) Done() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process.done
}

// Restart starts a server again that was stopped or killed or that crashed, on the same directory
// and under the same URL.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir != nil {
		if !s.ended() {
			return fmt.Errorf("start postgres: %w", ErrRunning)
		}
		s.release() // it crashed
	}
	dir, err := openDirectory(s.cfg.DataDir)
	if err != nil {
		return fmt.Errorf("open data directory: %w", err)
	}
	s.dir = dir
	if err := s.start(ctx); err != nil {
		s.release()
		return fmt.Errorf("start postgres: %w", err)
	}
	return nil
}

// ended reports whether the process is gone.
func (s *Server) ended() bool {
	select {
	case <-s.process.done:
		return true
	default:
		return false
	}
}

// release gives up the directory, in which nothing is running any more.
func (s *Server) release() {
	_ = s.dir.removeSockets() // the next start tries again
	s.dir.close()
	s.dir = nil
}

// start starts the server on the open directory.
func (s *Server) start(ctx context.Context) error {
	if err := s.dir.stopLeftovers(ctx, s.cfg.Logger); err != nil {
		return err
	}
	inst, err := s.prepare(ctx)
	if err != nil {
		return err
	}
	s.version = inst.version
	s.sockets, err = s.dir.makeSockets(ctx, s.account, s.sockets)
	if err != nil {
		return fmt.Errorf("make socket directory: %w", err)
	}
	if err := s.launch(ctx, inst); err != nil {
		return err
	}
	if err := s.makeDatabase(ctx); err != nil {
		s.halt(ctx)
		return err
	}
	return nil
}

// prepare makes sure that there are binaries and a cluster of their version.
func (s *Server) prepare(ctx context.Context) (installation, error) {
	var err error
	if s.account, err = s.dir.account(ctx); err != nil {
		return installation{}, err
	}
	major, err := clusterMajor(s.dir.data())
	if err != nil {
		return installation{}, err
	}
	inst, err := choose(ctx, s.account, s.cfg, s.places, major)
	if err != nil {
		return inst, err
	}
	return inst, s.dir.initialize(ctx, s.account, inst, s.cfg)
}

// launch starts the server process and waits until it accepts connections.
func (s *Server) launch(ctx context.Context, inst installation) error {
	log, err := s.dir.openLog()
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer log.Close()
	began, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	// Not bound to ctx: the server outlives the start.
	cmd := s.account.command(context.Background(), inst.program("postgres"), s.arguments()...)
	cmd.Stdout, cmd.Stderr = log, log
	data, err := s.account.hand(cmd, s.dir.data())
	if err != nil {
		return err
	}
	defer data.Close()
	process, err := launch(cmd)
	if err != nil {
		return err
	}
	s.process = process
	err = process.awaitReady(ctx, s.dir.data())
	if err == nil {
		return nil
	}
	s.halt(ctx)
	if failed, ok := errors.AsType[*ProgramError](err); ok {
		failed.Output = tail(log, began)
	}
	return err
}

// arguments returns those of the server process.
func (s *Server) arguments() []string {
	settings := map[string]string{
		"listen_addresses":        "",
		"port":                    port,
		"unix_socket_directories": s.sockets,
		"unix_socket_permissions": "0700",
		"logging_collector":       "off",
		"log_destination":         "stderr",
	}
	if s.cfg.Volatile {
		maps.Copy(settings, map[string]string{
			"fsync":              "off",
			"synchronous_commit": "off",
			"full_page_writes":   "off",
			"shared_buffers":     "32MB",
			"max_connections":    "300",
			"wal_level":          "minimal",
			"max_wal_senders":    "0",
		})
	}
	maps.Copy(settings, s.cfg.Settings)
	args := []string{"-D", s.account.nameOf(s.dir.data())}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		args = append(args, "-c", name+"="+settings[name])
	}
	return args
}

// tail returns the end of what was written to the log since an offset.
func tail(log io.ReaderAt, from int64) string {
	const most = 4096
	text, err := io.ReadAll(io.NewSectionReader(log, from, 1<<20))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-most):])
}

// makeDatabase makes the configured database if it is missing.
func (s *Server) makeDatabase(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, connectionURL(s.sockets, "postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var found bool
	err = conn.QueryRow(ctx, "select exists (select from pg_database where datname = $1)", s.cfg.Database).Scan(&found)
	if err != nil || found {
		return err
	}
	_, err = conn.Exec(ctx, "create database "+pgx.Identifier{s.cfg.Database}.Sanitize())
	return err
}

// halt stops a server that failed to start, in the time left.
func (s *Server) halt(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	s.process.stop(ctx)
}

// Stop shuts the server down and returns when it is gone: a fast shutdown, which lets no transaction
// finish but loses none that did; when ctx is done first, an immediate one; and at last SIGKILL. The
// answer is ctx's error where it had to come to that. Stopping a stopped server does nothing.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir == nil {
		return nil
	}
	s.process.stop(ctx)
	clean := s.process.cmd.ProcessState.Success()
	s.release()
	if !clean && ctx.Err() != nil {
		return fmt.Errorf("stop postgres: %w", context.Cause(ctx))
	}
	return nil
}

// Kill ends the server and all its children with SIGKILL, as a crash would, and returns when they are
// gone. It is for tests of what survives. Restart brings the server back.
func (s *Server) Kill(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir == nil {
		return nil
	}
	s.process.signal(syscall.SIGKILL)
	<-s.process.done
	if err := s.killChildren(ctx); err != nil {
		return fmt.Errorf("kill postgres: %w", err)
	}
	s.dir.close()
	s.dir = nil
	return nil
}

// killChildren kills processes left when the server process is gone.
func (s *Server) killChildren(ctx context.Context) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		pids, err := processesIn(ctx, s.account, s.dir.data())
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
