// Package realtime is the room server: it takes pushed operations, has the store apply them in one
// transaction, and relays what was committed to everybody in the room.
//
// # Invariants
//
//   - Only the committed log feeds sockets. What a socket is sent comes from Store.OpsAfter, or from the
//     tail of the log that the room's hub keeps in memory. To that it adds what Store.Apply has committed, with
//     the seqs given there, where this follows on the tail and is all that the transaction logged; other
//     processes may add what they have (see Transport).
//   - A socket is sent contiguous ranges of seq. Its place is one number, the cursor; a socket that
//     lags keeps its place and is caught up from the log. There is no queue of ops per socket.
//   - Nothing is acknowledged before it is committed.
//   - What is pushed while a transaction is under way goes together into the next one; large pushes and
//     small ones into transactions of their own, in turn, so that uploads do not hold up those who type.
//   - Everything is bounded: frames, batches, pushes in flight and unsent replies per socket (where they
//     are full the socket is not read), the tail in memory, presence.
//
// # Goroutines
//
// Each room that is in use, or was a moment ago, has a hub with one goroutine that relays and one that commits;
// each socket has one that reads and one that writes; two more talk to the other processes (Transport), and one
// compacts (Compaction). Serve owns them all and returns after they have stopped. Server is safe for concurrent use.
//
// The protocol, with its codes and what a client does about each, is described in package wire.
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

// Store is the committed log and what can be read from it. A refused batch is a *wire.Error, a room
// that does not exist wire.ErrUnknownRoom; with any other error of Apply it is not known whether the
// batch was committed, which is harmless because applying it again is. Implementations are safe for
// concurrent use.
type Store interface {
	// Ready reports why the store cannot serve, nil if it can.
	Ready(ctx context.Context) error
	Room(ctx context.Context, room string) (wire.Room, error)
	// LastTimestamp is the newest timestamp held from a replica, zero if none.
	LastTimestamp(ctx context.Context, room string, replica moveop.ReplicaID) (moveop.Timestamp, error)
	// Apply applies one batch as one transaction. When it returns it is committed: each op that is new, in the
	// order given, as it was given but with its seq, and with a Known that is no more than the head was before.
	Apply(ctx context.Context, room string, ops []moveop.Op) (wire.Applied, error)
	// ApplyFirst is Apply for a room that it makes with that epoch, in the same transaction: where the batch is
	// refused there is no room. It returns the room as it was before the batch. Where that is there with another
	// epoch, somebody was first, and nothing is applied.
	ApplyFirst(ctx context.Context, room, epoch string, ops []moveop.Op) (wire.Room, wire.Applied, error)
	// OpsAfter returns at most limit ops, contiguous from seq after+1; fewer only at the head. The error
	// is a *wire.Error with CodeCompacted where after is below the room's MinSeq.
	OpsAfter(ctx context.Context, room string, after int64, limit int) ([]moveop.Op, error)
	Children(ctx context.Context, room string, parent moveop.NodeID, after string, limit, most int) (wire.Page, error)
	// Subtree reads everything below node, at most depth levels down (0: all of them).
	Subtree(ctx context.Context, room string, node moveop.NodeID, depth int, after string, limit int) (wire.Page, error)
	Stats(ctx context.Context, room string) (wire.Stats, error)
	// Buckets reads the parts of a span of the log.
	Buckets(ctx context.Context, room string, span wire.Span) (wire.Buckets, error)
	// OpsBetween returns at most limit ops with after < ts ≤ last, in timestamp order.
	OpsBetween(ctx context.Context, room string, after, last moveop.Timestamp, limit int) ([]moveop.Op, error)
}

// Grant is what a token allows in a room. Without Read the room does not exist for its bearer.
type Grant struct {
	Read  bool
	Write bool
	// User is shown to the others in the room; empty for nobody in particular.
	User string
	// Expires is when the grant ends. An open socket is closed with 4401 then, unless it has brought a
	// fresh token. Zero for never.
	Expires time.Time
	// Withdrawn reports whether the grant was taken back before that. It is asked about every open socket,
	// every Timing.Recheck, and must not block. Nil for never.
	Withdrawn func() bool
}

// Config is what New needs. Only Store is required.
type Config struct {
	Store Store

	// Transport is of use where several processes serve one database. Only Serve runs it. Defaults to
	// none: what other processes commit is found by polling, and who is in a room is told of each
	// process's own sockets.
	Transport Transport

	// Logger gets one line per session and per fault. Defaults to none.
	Logger *slog.Logger

	// Registry takes the metrics and is what /metrics shows. Defaults to one of its own.
	Registry *prometheus.Registry

	// TracerProvider makes spans of pushes. Defaults to none, which costs nothing.
	TracerProvider trace.TracerProvider

	// Middleware is around the handler of all requests; it finds the route in Request.Pattern afterwards.
	// Sockets have to be able to hijack through it. Defaults to none.
	Middleware func(http.Handler) http.Handler

	// Authorize says what a token (empty: none was given) allows in a room. An error that is a
	// *wire.Error goes to the client as it is, any other as internal. Defaults to everything for
	// everybody.
	Authorize func(ctx context.Context, token, room string) (Grant, error)

	// AllowedOrigins are the origins ("https://app.example.com", compared exactly) of web pages that
	// may use the service. Requests without an Origin header, which browsers do not make, are let
	// through. Defaults to the page's own host only.
	AllowedOrigins []string

	// TrustedProxies are the networks of proxies whose X-Forwarded-For says where a request comes from.
	// Defaults to none: the peer is whom it comes from.
	TrustedProxies []netip.Prefix

	// Compaction is when the store's rooms are compacted. Defaults to never.
	Compaction Compaction

	Limits Limits
	Timing Timing

	// Now is the wall clock that clients are told. Defaults to time.Now.
	Now func() time.Time
}

// Limits bounds what one room, socket or message may cost. Zero fields get their default.
type Limits struct {
	// MaxOps is the number of ops of one push, and of one frame of ops. Defaults to 1,000.
	MaxOps int
	// MaxFrame is the size of one received frame or HTTP body, and the most that a sent frame of ops
	// takes, in bytes, at most wire.MaxFrame. Defaults to 1 MiB. It must hold the largest op.
	MaxFrame int64
	// Op bounds what one op may carry, no more than fits into a row of a snapshot (format.MaxTuple). Defaults to
	// moveop.DefaultLimits.
	Op moveop.Limits
	// Pushes is the number of a socket's pushes that are not answered yet; its next frame is read
	// after that. Defaults to 4.
	Pushes int
	// ReplyBytes is the size of a socket's unsent replies above which its next frame is not read, so
	// that a socket that does not read is not answered either. Defaults to 256 KiB.
	ReplyBytes int
	// TailBytes is how much of a room's newest ops is kept in memory for all its sockets. Defaults
	// to 4 MiB.
	TailBytes int
	// IdleRooms is the number of rooms that nobody uses any more whose tails are kept for those who come
	// back, IdleBytes the size of all those tails; beyond either, the rooms that are empty for longest
	// are let go. Default to 1,000 and 64 MiB.
	IdleRooms, IdleBytes int
	// PresenceBytes is the size of one presence state. Defaults to 4 KiB.
	PresenceBytes int
	// TransportPresence is how much presence this process tells others, in bytes a second; where there is
	// more, it is told less often. Defaults to 256 KiB.
	TransportPresence int
	// RosterBytes is the size of the list of a room's sockets that one process tells others: those who
	// do not go into it are not known there. Defaults to 256 KiB, for 2,000 to 3,000 sockets.
	RosterBytes int
	// NameBytes is the size of the display name in hello. Defaults to 128.
	NameBytes int
	// Sockets is the number of open sockets; more are turned away with busy. Defaults to 20,000.
	Sockets int
	// SocketsPerAddress is the same for an IPv4 address or an IPv6 network of 64 bits, more are turned
	// away with rate_limited. Loopback addresses are not counted. Defaults to 1,000.
	SocketsPerAddress int
	// SocketsPerUser is the same for a user that Grant names. Defaults to 200.
	SocketsPerUser int
	// OpsPerSecond is how many ops a connection may push, on average after a first second's worth. A
	// socket that pushes more is read more slowly, a request answered later. It must allow MaxOps
	// in ten seconds. Defaults to 20,000, which is more than a room can take.
	OpsPerSecond int
	// MessagesPerSecond is the same for frames that are no pushes: presence, pulls, pings, what is malformed. A ping
	// counts once more for every 10 sockets that its answer lists. Defaults to 500.
	MessagesPerSecond int
	// Wave is the number of sockets that are closed at a time when the server stops. Defaults to 200.
	Wave int
	// Readers is the number of catch-up reads of the log at a time, over all rooms, and that of reads for
	// requests over HTTP; others wait. Both should leave connections of Store for pushes. Defaults to 8.
	Readers int
}

// Timing holds the server's intervals and deadlines. Zero fields get their default.
type Timing struct {
	// Header is the time for the head of a request, Body for all of it. Default to 10 s and 30 s.
	Header, Body time.Duration
	// Hello is the time for the first message, the close code after it 4408. Defaults to 5 s.
	Hello time.Duration
	// Poll is how often a room's head is read from the store, which is how commits of other processes
	// are found while none of their messages come through. Defaults to 1 s.
	Poll time.Duration
	// HintedPoll is the same while messages come through: for the one that may be lost all the same, and
	// for a history that was replaced. An idle room is read for every head that it sends, too.
	// Defaults to 5 s.
	HintedPoll time.Duration
	// Linger is how long a room's tail is kept in memory after its last socket has left, for reconnect
	// storms. Negative for not at all. Defaults to 1 min.
	Linger time.Duration
	// Head is how often an idle room sends its head and digest. Defaults to 5 s.
	Head time.Duration
	// Presence is the time over which presence is coalesced. Defaults to 100 ms.
	Presence time.Duration
	// PresenceTTL is how long presence lasts after its replica's last message. Defaults to 5 min.
	PresenceTTL time.Duration
	// Transport is the least time between two batches that are sent to other processes; the first one
	// after a pause goes at once. Defaults to 5 ms.
	Transport time.Duration
	// Heartbeat is how often a process gives others a sign of life. One that has given none for three
	// times that is gone, with all its sockets. Defaults to 5 s.
	Heartbeat time.Duration
	// Answer is how long a hello waits for other processes to say who is in the room. Those who have
	// not by then are taken for gone until they are heard of. Defaults to 500 ms.
	Answer time.Duration
	// Ping is how often a socket is asked for a sign of life; one that gave none for three times
	// that is closed. Defaults to 20 s.
	Ping time.Duration
	// Probe is how long the older one of two sockets of a replica has to prove that it is alive.
	// Defaults to 2 s.
	Probe time.Duration
	// Recheck is how often the token of an open socket is looked at again. Defaults to 1 s.
	Recheck time.Duration
	// Lag is how long a socket may stay behind, once it was up to date, and how long it may take for
	// one frame; then it is closed with 1013. A frame not taken within twice that cuts the
	// connection. It is also how long a peer may take for a part of an HTTP answer. Defaults to 30 s.
	Lag time.Duration
	// Store is the time for one call of the store, such as applying a batch. Defaults to 30 s.
	Store time.Duration
	// Close is how long the peer may take for the closing handshake. Defaults to 2 s.
	Close time.Duration
	// Drain is how long Serve waits, when told to stop, for commits, acks and closing handshakes.
	// Defaults to 15 s.
	Drain time.Duration
	// Wave is the time between two waves of sockets that are closed when the server stops; less where
	// they would take more than half of Drain. Defaults to 100 ms.
	Wave time.Duration
	// Restart is the least delay that clients are given when the server stops; each is given another,
	// up to twice that. Defaults to 1 s.
	Restart time.Duration
}

// WithDefaults returns the configuration with what New would fill in.
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
		return errors.New("realtime: Compaction needs Rooms and a positive Retention, and takes nothing negative")
	}
	l := cfg.Limits
	largest := opBytes(l.Op.ValueBytes, l.Op.KeyBytes)
	if l.MaxFrame < int64(largest)+envelope {
		return fmt.Errorf("realtime: MaxFrame %d is less than an op of the largest size, %d, and what is around it", l.MaxFrame, largest)
	}
	if l.MaxFrame > wire.MaxFrame { // frames of ops become so large
		return fmt.Errorf("realtime: MaxFrame %d is more than clients read in one frame, %d", l.MaxFrame, wire.MaxFrame)
	}
	if largest > format.MaxTuple { // nobody could load a snapshot with it
		return fmt.Errorf("realtime: an op of the largest size, %d, does not fit into a row of a snapshot, %d", largest, format.MaxTuple)
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
