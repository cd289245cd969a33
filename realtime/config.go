// Package realtime is the room server: it accepts pushed operations, has the store apply them in one
// transaction, and relays the committed operations to everybody in the room.
//
// # Invariants
//
//   - Sockets get ops only from the committed log: from Store.OpsAfter, or from the tail of the log that the
//     room's hub keeps in memory. The hub appends ops that Store.Apply has committed, with the seqs that it
//     returned, if they follow the tail directly and are all that the transaction logged. Other processes may
//     supply their commits too (see Transport).
//   - A socket gets contiguous ranges of seq. Its position is one number, the cursor. A socket that lags keeps
//     its cursor and catches up from the log; there is no queue of ops per socket.
//   - Nothing is acknowledged before it is committed.
//   - Pushes that arrive during a transaction go into the next one together. Large and small pushes get
//     separate transactions, in turn, so that uploads do not hold up people who type.
//   - Everything is bounded: frames, batches, pushes in flight and unsent replies per socket (when they are
//     full, the server stops reading the socket), the tail in memory, presence.
//
// # Goroutines
//
// Each room that is in use, or was a moment ago, has a hub with one goroutine that relays and one that commits.
// Each socket has one that reads and one that writes. Two more talk to the other processes (Transport), and one
// compacts (Compaction). Serve owns them all and returns after they have stopped. Server is safe for concurrent
// use.
//
// Package wire describes the protocol, its codes and how a client reacts to each.
package realtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// Store is the committed log and the state of rooms. The error for a refused batch is a *wire.Error, for a room
// that does not exist wire.ErrUnknownRoom. After any other error of Apply it is unknown whether the batch was
// committed; applying it again is harmless. Implementations are safe for concurrent use.
type Store interface {
	// Ready returns the reason why the store cannot serve, nil if it can.
	Ready(ctx context.Context) error
	Room(ctx context.Context, room string) (wire.Room, error)
	// LastTimestamp returns the newest timestamp from a replica, zero if none.
	LastTimestamp(ctx context.Context, room string, replica moveop.ReplicaID) (moveop.Timestamp, error)
	// Apply applies one batch as one transaction, which is committed when Apply returns. It logs each new op
	// in the given order and unchanged, but with its seq, and with Known at most the head before the batch.
	Apply(ctx context.Context, room string, ops []moveop.Op) (wire.Applied, error)
	// ApplyFirst is Apply for a room that it creates with that epoch, in the same transaction: a refused batch
	// leaves no room behind. It returns the room as it was before the batch. If that has another epoch, somebody
	// else created the room first, and nothing is applied.
	ApplyFirst(ctx context.Context, room, epoch string, ops []moveop.Op) (wire.Room, wire.Applied, error)
	// OpsAfter returns at most limit ops, contiguous from seq after+1; fewer only at the head. The error
	// is a *wire.Error with CodeCompacted if after is below the room's MinSeq.
	OpsAfter(ctx context.Context, room string, after int64, limit int) ([]moveop.Op, error)
	// Children reads a page of a node's children. It counts each one's own children up to most (0: all).
	Children(ctx context.Context, room string, parent moveop.NodeID, after string, limit, most int) (wire.Page, error)
	// Subtree reads a page of the nodes below node, at most depth levels down (0: all).
	Subtree(ctx context.Context, room string, node moveop.NodeID, depth int, after string, limit int) (wire.Page, error)
	Stats(ctx context.Context, room string) (wire.Stats, error)
	// Buckets reads the parts of a span of the log.
	Buckets(ctx context.Context, room string, span wire.Span) (wire.Buckets, error)
	// OpsBetween returns at most limit ops with after < ts ≤ last, in timestamp order.
	OpsBetween(ctx context.Context, room string, after, last moveop.Timestamp, limit int) ([]moveop.Op, error)
}

// Grant is the access that a token gives to a room. Without Read, the room does not exist for the bearer.
type Grant struct {
	Read  bool
	Write bool
	// User is shown to the others in the room; may be empty.
	User string
	// Expires is when the grant ends. The server then closes an open socket with 4401, unless it has sent a
	// fresh token. Zero means never.
	Expires time.Time
	// Withdrawn reports whether the grant was withdrawn before Expires. The server calls it for every open
	// socket, every Timing.Recheck; it must not block. Nil means never.
	Withdrawn func() bool
}

// Config configures New. Only Store is required.
type Config struct {
	Store Store

	// Transport connects several processes that serve one database. Only Serve runs it. Defaults to none: each
	// process finds other processes' commits by polling, and shows only its own sockets as present.
	Transport Transport

	// Logger gets one line per session and per fault. Defaults to none.
	Logger *slog.Logger

	// Registry receives the metrics; /metrics shows it. Defaults to a new one.
	Registry *prometheus.Registry

	// TracerProvider makes spans of pushes. Defaults to none, which costs nothing.
	TracerProvider trace.TracerProvider

	// Middleware wraps the handler of all requests; after the handler, Request.Pattern holds the route. It must
	// let sockets hijack the connection. Defaults to none.
	Middleware func(http.Handler) http.Handler

	// Authorize returns the access that a token (empty if none was sent) gives to a room. A *wire.Error goes
	// to the client as it is, any other error as internal. Defaults to full access for everybody.
	Authorize func(ctx context.Context, token, room string) (Grant, error)

	// AllowedOrigins are the origins ("https://app.example.com", compared exactly) of web pages that may use
	// the service. Requests without an Origin header, which do not come from web pages, are always allowed.
	// Defaults to pages of the service's own host.
	AllowedOrigins []string

	// TrustedProxies are the networks of proxies whose X-Forwarded-For header is trusted. Defaults to none: the
	// client's address is that of the peer.
	TrustedProxies []netip.Prefix

	// Compaction schedules the compaction of the store's rooms. Defaults to never.
	Compaction Compaction

	Limits Limits
	Timing Timing

	// Now is the wall clock, which clients also get. Defaults to time.Now.
	Now func() time.Time
}

// Limits bounds the cost of one room, socket or message. Zero fields take their default.
type Limits struct {
	// MaxOps is the maximum number of ops in one push, and in one frame of ops. Defaults to 1,000.
	MaxOps int
	// MaxFrame is the maximum size in bytes of a received frame or HTTP body, and of a sent frame of ops; at
	// most wire.MaxFrame. It must fit the largest op. Defaults to 1 MiB.
	MaxFrame int64
	// Op bounds the content of one op, which must fit into a row of a snapshot (format.MaxTuple). Defaults to
	// moveop.DefaultLimits.
	Op moveop.Limits
	// Pushes is the maximum number of a socket's unanswered pushes; at that number, its next frame is not read.
	// Defaults to 4.
	Pushes int
	// ReplyBytes is the size of a socket's unsent replies above which its next frame is not read, so that a
	// socket that does not read stops getting replies. Defaults to 256 KiB.
	ReplyBytes int
	// TailBytes is the size of a room's newest ops that are kept in memory for all its sockets. Defaults to
	// 4 MiB.
	TailBytes int
	// IdleRooms is the maximum number of unused rooms whose tails are kept for those who come back, IdleBytes
	// the maximum size of all those tails. Beyond either, the rooms unused for longest are dropped. Default to
	// 1,000 and 64 MiB.
	IdleRooms, IdleBytes int
	// PresenceBytes is the maximum size of one presence state. Defaults to 4 KiB.
	PresenceBytes int
	// TransportPresence is the maximum rate of presence that this process sends to others, in bytes per second;
	// beyond it, updates become less frequent. Defaults to 256 KiB.
	TransportPresence int
	// RosterBytes is the maximum size of the list of a room's sockets that one process sends to others, which do
	// not see the sockets that do not fit. Defaults to 256 KiB, enough for 2,000 to 3,000 sockets.
	RosterBytes int
	// NameBytes is the maximum size of the display name in hello. Defaults to 128.
	NameBytes int
	// Sockets is the maximum number of open sockets; more are turned away with busy. Defaults to 20,000.
	Sockets int
	// SocketsPerAddress is the same for an IPv4 address or an IPv6 /64; more are turned away with rate_limited.
	// Loopback addresses do not count. Defaults to 1,000.
	SocketsPerAddress int
	// SocketsPerUser is the same for a user that Grant names. Defaults to 200.
	SocketsPerUser int
	// OpsPerSecond is the average rate of ops that a connection may push, after a burst of one second's worth.
	// A socket that pushes more is read more slowly, a request answered later. It must allow MaxOps in ten
	// seconds. Defaults to 20,000, which is more than a room can commit.
	OpsPerSecond int
	// MessagesPerSecond is the same for all other frames: presence, pulls, pings, malformed ones. A ping counts
	// once more for every 10 sockets that its answer lists, up to half of a second's. Defaults to 500.
	MessagesPerSecond int
	// Wave is the number of sockets closed at a time when the server stops. Defaults to 200.
	Wave int
	// Readers is the maximum number of concurrent catch-up reads of the log, over all rooms, and also that of
	// concurrent reads for HTTP requests; others wait. Both should leave connections of Store for pushes.
	// Defaults to 8.
	Readers int
}

// Timing holds the server's intervals and deadlines. Zero fields take their default.
type Timing struct {
	// Header is the time limit for the headers of a request, Body for all of it. Default to 10 s and 30 s.
	Header, Body time.Duration
	// Hello is the time limit for the first message; after it the close code is 4408. Defaults to 5 s.
	Hello time.Duration
	// Poll is how often a room's head is read from the store while no messages arrive from other processes, to
	// find their commits. Defaults to 1 s.
	Poll time.Duration
	// HintedPoll is the same while messages arrive, in case one is lost or the history was replaced. An idle
	// room is also read before each head that it sends. Defaults to 5 s.
	HintedPoll time.Duration
	// Linger is how long a room's tail stays in memory after its last socket has left, for reconnect storms.
	// Negative means not at all. Defaults to 1 min.
	Linger time.Duration
	// Head is how often an idle room sends its head and digest. Defaults to 5 s.
	Head time.Duration
	// Presence is the time over which presence updates are coalesced. Defaults to 100 ms.
	Presence time.Duration
	// PresenceTTL is how long presence lasts after its replica's last message. Defaults to 5 min.
	PresenceTTL time.Duration
	// Transport is the minimum time between two batches to other processes; the first one after a pause is sent
	// at once. Defaults to 5 ms.
	Transport time.Duration
	// Heartbeat is how often a process sends a heartbeat to others. A process that was silent for three
	// heartbeats is considered gone, with all its sockets. Defaults to 5 s.
	Heartbeat time.Duration
	// Answer is how long a hello waits for other processes to list their sockets in the room. A process that
	// has not answered by then is considered gone until it is heard again. Defaults to 500 ms.
	Answer time.Duration
	// Ping is how often a socket is pinged; one that is silent for three times this long is closed. Defaults to
	// 20 s.
	Ping time.Duration
	// Probe is how long the older of two sockets of one replica has to prove that it is alive. Defaults to 2 s.
	Probe time.Duration
	// Recheck is how often the token of an open socket is checked again. Defaults to 1 s.
	Recheck time.Duration
	// Lag is how long a socket may lag behind, once it was up to date, and how long it may take to receive one
	// frame; then it is closed with 1013. If a frame takes twice as long, the connection is cut. Lag is also how
	// long a peer may take to receive a part of an HTTP response. Defaults to 30 s.
	Lag time.Duration
	// Store is the time limit for one call of the store, such as applying a batch. Defaults to 30 s.
	Store time.Duration
	// Close is how long the peer may take for the closing handshake. Defaults to 2 s.
	Close time.Duration
	// Drain is how long Serve waits on shutdown for commits, acks and closing handshakes. Defaults to 15 s.
	Drain time.Duration
	// Wave is the time between two waves of sockets closed on shutdown; less if the waves would take more than
	// half of Drain. Defaults to 100 ms.
	Wave time.Duration
	// Restart is the minimum reconnect delay that clients get on shutdown; each gets a different one, up to
	// twice as long. Defaults to 1 s.
	Restart time.Duration
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
		cfg.Authorize = func(context.Context, string, string) (Grant, error) {
			return Grant{Read: true, Write: true}, nil
		}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Limits.setDefaults()
	cfg.Timing.setDefaults()
	return cfg
}

func (l *Limits) setDefaults() {
	setDefault(&l.MaxOps, wire.DefaultLimit)
	setDefault(&l.MaxFrame, 1<<20)
	setDefault(&l.Op, moveop.DefaultLimits)
	setDefault(&l.Pushes, 4)
	setDefault(&l.ReplyBytes, 256<<10)
	setDefault(&l.TailBytes, 4<<20)
	setDefault(&l.IdleRooms, 1000)
	setDefault(&l.IdleBytes, 64<<20)
	setDefault(&l.PresenceBytes, 4<<10)
	setDefault(&l.TransportPresence, 256<<10)
	setDefault(&l.RosterBytes, 256<<10)
	setDefault(&l.NameBytes, 128)
	setDefault(&l.Sockets, 20_000)
	setDefault(&l.SocketsPerAddress, 1000)
	setDefault(&l.SocketsPerUser, 200)
	setDefault(&l.OpsPerSecond, 20_000)
	setDefault(&l.MessagesPerSecond, 500)
	setDefault(&l.Wave, 200)
	setDefault(&l.Readers, 8)
}

func (t *Timing) setDefaults() {
	setDefault(&t.Header, 10*time.Second)
	setDefault(&t.Body, 30*time.Second)
	setDefault(&t.Hello, 5*time.Second)
	setDefault(&t.Poll, time.Second)
	setDefault(&t.HintedPoll, 5*time.Second)
	setDefault(&t.Linger, time.Minute)
	setDefault(&t.Head, 5*time.Second)
	setDefault(&t.Presence, 100*time.Millisecond)
	setDefault(&t.PresenceTTL, 5*time.Minute)
	setDefault(&t.Transport, 5*time.Millisecond)
	setDefault(&t.Heartbeat, 5*time.Second)
	setDefault(&t.Answer, 500*time.Millisecond)
	setDefault(&t.Ping, 20*time.Second)
	setDefault(&t.Probe, 2*time.Second)
	setDefault(&t.Recheck, time.Second)
	setDefault(&t.Lag, 30*time.Second)
	setDefault(&t.Store, 30*time.Second)
	setDefault(&t.Close, 2*time.Second)
	setDefault(&t.Drain, 15*time.Second)
	setDefault(&t.Wave, 100*time.Millisecond)
	setDefault(&t.Restart, time.Second)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// check refuses configurations under which the server could not keep its promises.
func (cfg Config) check() error {
	if cfg.Store == nil {
		return errors.New("realtime: Config.Store is required")
	}
	if c := cfg.Compaction; c.Every < 0 || c.Trash < 0 || c.Every > 0 && (c.Rooms == nil || c.Retention <= 0) {
		return errors.New("realtime: Compaction needs Rooms and a positive Retention, and no negative value")
	}
	l := cfg.Limits
	largest := opBytes(l.Op.ValueBytes, l.Op.KeyBytes)
	if l.MaxFrame < int64(largest)+envelope {
		return fmt.Errorf("realtime: MaxFrame %d does not fit the largest op, %d bytes, and its envelope", l.MaxFrame, largest)
	}
	if l.MaxFrame > wire.MaxFrame { // frames of ops become so large
		return fmt.Errorf("realtime: MaxFrame %d is more than clients read, %d", l.MaxFrame, wire.MaxFrame)
	}
	if largest > format.MaxTuple { // nobody could load a snapshot with it
		return fmt.Errorf("realtime: the largest op, %d bytes, does not fit into a row of a snapshot, %d bytes", largest, format.MaxTuple)
	}
	if min(l.MaxOps, l.Pushes, l.ReplyBytes, l.TailBytes, l.IdleRooms, l.IdleBytes, l.PresenceBytes, l.NameBytes, l.Readers,
		l.TransportPresence, l.RosterBytes,
		l.Sockets, l.SocketsPerAddress, l.SocketsPerUser, l.OpsPerSecond, l.MessagesPerSecond, l.Wave) < 0 {
		return errors.New("realtime: negative limit")
	}
	t := cfg.Timing
	if min(t.Header, t.Body, t.Hello, t.Poll, t.HintedPoll, t.Head, t.Presence, t.PresenceTTL, t.Transport, t.Heartbeat, t.Answer,
		t.Ping, t.Probe, t.Recheck, t.Lag, t.Store, t.Close, t.Drain, t.Wave, t.Restart) < 0 {
		return errors.New("realtime: negative time")
	}
	if l.OpsPerSecond*10 < l.MaxOps {
		return fmt.Errorf("realtime: OpsPerSecond %d does not allow a push of %d in ten seconds", l.OpsPerSecond, l.MaxOps)
	}
	if l.MaxOps > wire.MaxFrameOps {
		return fmt.Errorf("realtime: MaxOps %d is more than a frame may hold, %d", l.MaxOps, wire.MaxFrameOps)
	}
	for _, origin := range cfg.AllowedOrigins {
		u, err := url.Parse(origin)
		if err != nil || u.Scheme == "" || u.Host == "" || u.Scheme+"://"+u.Host != origin {
			return fmt.Errorf("realtime: origin %q is not of the form scheme://host[:port]", origin)
		}
	}
	return nil
}
