// Package bootstrap is the snapshot service: it streams a consistent copy of a room over HTTP, for a
// client that is new or too far behind to catch up from the log. Package format defines the stream; a
// client imports only that.
//
// # Invariants
//
//   - The service does not decode, re-encode or collect rows: the database's COPY data goes through a
//     buffer of fixed size into the socket, so memory does not depend on the room's size.
//   - An unfinished snapshot never looks finished: it lacks its trailer, and the HTTP body is cut off.
//   - A slow reader does not hold a database transaction for ever: every write has a deadline, and so has
//     the whole snapshot.
//   - Snapshots beyond Config.MaxSnapshots are turned away at once, not queued.
//
// A snapshot runs in the goroutine of its request and starts no other, unless it is spooled (see
// Config.SpoolDir): then one goroutine writes the file, independent of its readers, until it is complete or
// Close is called. Server is safe for concurrent use.
package bootstrap

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/realtime/wire"
)

// Source is the database of snapshots. The error for a room that does not exist wraps wire.ErrUnknownRoom.
// Implementations are safe for concurrent use.
type Source interface {
	// Ready returns the reason why the source cannot serve, nil if it can.
	Ready(ctx context.Context) error
	Stats(ctx context.Context, room string) (wire.Stats, error)
	// Room returns the room's epoch and position. It is called for every spooled snapshot that is served.
	Room(ctx context.Context, room string) (wire.Room, error)
	// Snapshot calls f with one consistent view of the room, and returns f's error or its own. It
	// occupies a database connection until f has returned.
	Snapshot(ctx context.Context, room string, f func(format.Snapshot) error) error
}

// Config configures New. Only Source is required.
type Config struct {
	Source Source

	// Logger gets one line per snapshot and per fault. Defaults to none.
	Logger *slog.Logger

	// Registry receives the metrics; /metrics shows it. Defaults to a new one.
	Registry *prometheus.Registry

	// Authorize returns nil if the bearer of a token (empty if none was sent) may read a room, and
	// wire.ErrUnknownRoom if they may not even know of it. A *wire.Error goes to the client as it is, any other
	// error as internal. Defaults to full access for everybody.
	Authorize func(ctx context.Context, token, room string) error

	// Middleware wraps the handler of all requests; after the handler, Request.Pattern holds the route.
	// Defaults to none.
	Middleware func(http.Handler) http.Handler

	// HeaderTimeout is the time limit for the headers of a request. There must be no body: the service refuses
	// one without waiting for it. Only Serve enforces this. Defaults to 10 s.
	HeaderTimeout time.Duration

	// MaxSnapshots is the maximum number of concurrent snapshots. Each occupies a connection of Source, whose
	// pool should have more than that, or statistics and readiness must wait. Defaults to 4.
	MaxSnapshots int

	// StallTimeout is how long a client may take to receive one write, of at most 128 KiB, before the response
	// is cut off. Defaults to 30 s.
	StallTimeout time.Duration

	// MaxDuration is how long one snapshot may take, and so how long it can hold up the database's
	// vacuum. Defaults to 1 h.
	MaxDuration time.Duration

	// RequestTimeout is the time limit for requests other than snapshots. Defaults to 15 s.
	RequestTimeout time.Duration

	// SpoolDir is a directory that keeps snapshots in files while clients read them and for some time after.
	// Then a slow client holds up no transaction, the next client costs the database nothing, and a download
	// that was cut off can resume. Empty means to serve every client straight from the database.
	SpoolDir string

	// SpoolBytes bounds the size of the files in SpoolDir. Snapshots that do not fit are served straight from
	// the database. Defaults to 4 GiB.
	SpoolBytes int64

	// SpoolAge is how long a spooled snapshot is kept. Defaults to 10 min.
	SpoolAge time.Duration

	// SpoolTail is how many operations a spooled snapshot may be behind the room and still be served to a new
	// client, which then fetches them. Defaults to 10,000.
	SpoolTail int64

	// DrainTimeout is how long Serve lets running snapshots go on at shutdown. Defaults to 15 s.
	DrainTimeout time.Duration
}

// WithDefaults returns the configuration that New would use: zero fields have their default.
func (cfg Config) WithDefaults() Config {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Registry == nil {
		cfg.Registry = prometheus.NewRegistry()
	}
	if cfg.Middleware == nil {
		cfg.Middleware = func(h http.Handler) http.Handler { return h }
	}
	if cfg.Authorize == nil {
		cfg.Authorize = func(context.Context, string, string) error { return nil }
	}
	setDefault(&cfg.HeaderTimeout, 10*time.Second)
	setDefault(&cfg.MaxSnapshots, 4)
	setDefault(&cfg.StallTimeout, 30*time.Second)
	setDefault(&cfg.MaxDuration, time.Hour)
	setDefault(&cfg.RequestTimeout, 15*time.Second)
	setDefault(&cfg.DrainTimeout, 15*time.Second)
	setDefault(&cfg.SpoolBytes, 4<<30)
	setDefault(&cfg.SpoolAge, 10*time.Minute)
	setDefault(&cfg.SpoolTail, 10_000)
	return cfg
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (cfg Config) check() error {
	if cfg.Source == nil {
		return errors.New("bootstrap: Config.Source is required")
	}
	if cfg.MaxSnapshots < 0 || min(cfg.HeaderTimeout, cfg.StallTimeout, cfg.MaxDuration, cfg.RequestTimeout, cfg.DrainTimeout, cfg.SpoolAge) < 0 ||
		min(cfg.SpoolBytes, cfg.SpoolTail) < 0 {
		return errors.New("bootstrap: negative limit")
	}
	return nil
}

// Server is the snapshot service.
type Server struct {
	cfg      Config
	metrics  *metrics
	handler  http.Handler
	slots    chan struct{} // one element per running snapshot
	counts   chan struct{} // one element per statistics request that the source is answering
	encoders sync.Pool     // of *zstd.Encoder
	spools   *spools       // nil if spooling is off
	draining atomic.Bool   // no new snapshots, not ready
}

// New returns a Server. It does no I/O. Call Serve, or mount Handler in a server of your own.
func New(cfg Config) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	cfg = cfg.WithDefaults()
	s := &Server{cfg: cfg, metrics: newMetrics(cfg.Registry), slots: make(chan struct{}, cfg.MaxSnapshots), counts: make(chan struct{}, cfg.MaxSnapshots)}
	s.encoders.New = func() any { return newEncoder() }
	if cfg.SpoolDir != "" {
		s.spools = &spools{dir: cfg.SpoolDir, maxBytes: cfg.SpoolBytes, maxAge: cfg.SpoolAge}
	}
	s.handler = s.routes()
	return s, nil
}

// Close cuts off the snapshots being spooled, waits for them and removes their files. If you mount Handler, call
// Close after the handlers have returned; Serve does it by itself.
func (s *Server) Close() {
	if s.spools != nil {
		s.spools.close()
	}
}

// Handler returns the handler of the service's routes. The server that you mount it in must not set WriteTimeout:
// the handler sets the deadlines.
func (s *Server) Handler() http.Handler { return s.handler }

// newEncoder returns an encoder that compresses in the writing goroutine, so that nothing is left to wait for when a
// snapshot is aborted. On snapshots, which are mostly random ids, level 1 is both smaller and faster than the next, and
// a larger window gains nothing.
func newEncoder() *zstd.Encoder {
	enc, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic("bootstrap: zstd options: " + err.Error()) // they are constants
	}
	return enc
}
