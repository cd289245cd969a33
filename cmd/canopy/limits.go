package main

import (
	"cmp"
	"net/netip"
	"time"

	"github.com/canopysync/canopy/bootstrap"
	"github.com/canopysync/canopy/realtime"
)

// httpFlags are the limits that both services have.
type httpFlags struct {
	HeaderTimeout time.Duration `default:"10s" envar:"CANOPY_HEADER_TIMEOUT" help:"Time limit for the headers of a request."`
	DrainTimeout  time.Duration `default:"15s" envar:"CANOPY_DRAIN_TIMEOUT" help:"Time limit on shutdown to finish requests and close all sockets, in waves."`
}

// limitFlags bound what clients of the realtime service may cost.
type limitFlags struct {
	MaxFrame             int64         `default:"1048576" envar:"CANOPY_MAX_FRAME" placeholder:"BYTES" help:"Maximum size of a socket's frame and of a request's body. It must fit the largest operation."`
	MaxBatch             int           `default:"1000" envar:"CANOPY_MAX_BATCH" placeholder:"N" help:"Maximum operations per push."`
	MaxValue             int           `default:"1024000" envar:"CANOPY_MAX_VALUE" placeholder:"BYTES" help:"Maximum size of a property's value, as compact JSON."`
	MaxDepth             int           `default:"64" envar:"CANOPY_MAX_DEPTH" placeholder:"N" help:"Maximum nesting of arrays and objects in a property's value, up to 1000."`
	MaxKey               int           `default:"255" envar:"CANOPY_MAX_KEY" placeholder:"BYTES" help:"Maximum size of a property's name, up to 255."`
	MaxPresence          int           `default:"4096" envar:"CANOPY_MAX_PRESENCE" placeholder:"BYTES" help:"Maximum size of a presence state."`
	MaxName              int           `default:"128" envar:"CANOPY_MAX_NAME" placeholder:"BYTES" help:"Maximum size of a socket's display name."`
	MaxPushes            int           `default:"4" envar:"CANOPY_MAX_PUSHES" placeholder:"N" help:"Maximum unanswered pushes per socket; with that many, the service stops reading from it."`
	MaxReplies           int           `default:"262144" envar:"CANOPY_MAX_REPLIES" placeholder:"BYTES" help:"Maximum size of a socket's unsent replies; beyond it, the service stops reading from it."`
	MaxSockets           int           `default:"20000" envar:"CANOPY_MAX_SOCKETS" placeholder:"N" help:"Maximum open sockets; more are turned away."`
	MaxSocketsPerAddress int           `default:"1000" envar:"CANOPY_MAX_SOCKETS_PER_ADDRESS" placeholder:"N" help:"Maximum open sockets per IPv4 address or IPv6 /64, not counting this machine's own."`
	MaxSocketsPerUser    int           `default:"200" envar:"CANOPY_MAX_SOCKETS_PER_USER" placeholder:"N" help:"Maximum open sockets per user."`
	MaxOpsPerSecond      int           `default:"20000" envar:"CANOPY_MAX_OPS_PER_SECOND" placeholder:"N" help:"Maximum operations per second from one connection; a socket that pushes more is read more slowly."`
	MaxMessagesPerSecond int           `default:"500" envar:"CANOPY_MAX_MESSAGES_PER_SECOND" placeholder:"N" help:"Maximum frames per second from one socket that are not pushes; a socket that sends more is read more slowly."`
	TailBytes            int           `default:"4194304" envar:"CANOPY_TAIL_BYTES" placeholder:"BYTES" help:"Memory per room for its newest operations, from which sockets catch up."`
	IdleRooms            int           `default:"1000" envar:"CANOPY_IDLE_ROOMS" placeholder:"N" help:"Maximum rooms kept in memory for a minute after their last socket, for those who come back."`
	IdleBytes            int           `default:"67108864" envar:"CANOPY_IDLE_BYTES" placeholder:"BYTES" help:"Memory for the operations of those rooms."`
	BodyTimeout          time.Duration `default:"30s" envar:"CANOPY_BODY_TIMEOUT" help:"Time limit for a whole request."`
	HelloTimeout         time.Duration `default:"5s" envar:"CANOPY_HELLO_TIMEOUT" help:"Time limit for the first message of a socket."`
	PingInterval         time.Duration `default:"20s" envar:"CANOPY_PING_INTERVAL" help:"How often to ping a socket; one that is silent for three times this long is closed."`
	LagTimeout           time.Duration `default:"30s" envar:"CANOPY_LAG_TIMEOUT" help:"How long a socket may lag behind before it is closed."`
	TrustedProxy         []string      `envar:"CANOPY_TRUSTED_PROXY" placeholder:"CIDR" help:"Networks of proxies whose X-Forwarded-For header is trusted."`
	httpFlags
}

// The most that the database takes.
const maxKey, maxDepth = 255, 1000

func (f limitFlags) apply(cfg *realtime.Config) error {
	l, t := &cfg.Limits, &cfg.Timing
	err := cmp.Or(
		setPositive(limit[int64]{"--max-frame", f.MaxFrame, &l.MaxFrame}),
		setPositive([]limit[int]{
			{"--max-batch", f.MaxBatch, &l.MaxOps}, {"--max-value", f.MaxValue, &l.Op.ValueBytes},
			{"--max-depth", f.MaxDepth, &l.Op.ValueDepth}, {"--max-key", f.MaxKey, &l.Op.KeyBytes},
			{"--max-presence", f.MaxPresence, &l.PresenceBytes}, {"--max-name", f.MaxName, &l.NameBytes},
			{"--max-pushes", f.MaxPushes, &l.Pushes}, {"--max-replies", f.MaxReplies, &l.ReplyBytes},
			{"--max-sockets", f.MaxSockets, &l.Sockets},
			{"--max-sockets-per-address", f.MaxSocketsPerAddress, &l.SocketsPerAddress},
			{"--max-sockets-per-user", f.MaxSocketsPerUser, &l.SocketsPerUser},
			{"--max-ops-per-second", f.MaxOpsPerSecond, &l.OpsPerSecond},
			{"--max-messages-per-second", f.MaxMessagesPerSecond, &l.MessagesPerSecond}, {"--tail-bytes", f.TailBytes, &l.TailBytes},
			{"--idle-rooms", f.IdleRooms, &l.IdleRooms}, {"--idle-bytes", f.IdleBytes, &l.IdleBytes},
		}...),
		setPositive([]limit[time.Duration]{
			{"--header-timeout", f.HeaderTimeout, &t.Header}, {"--body-timeout", f.BodyTimeout, &t.Body},
			{"--hello-timeout", f.HelloTimeout, &t.Hello}, {"--ping-interval", f.PingInterval, &t.Ping},
			{"--lag-timeout", f.LagTimeout, &t.Lag}, {"--drain-timeout", f.DrainTimeout, &t.Drain},
		}...),
	)
	if err != nil {
		return err
	}
	if f.MaxKey > maxKey || f.MaxDepth > maxDepth {
		return usagef("--max-key must be at most %d and --max-depth at most %d", maxKey, maxDepth)
	}
	for _, text := range f.TrustedProxy {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return usagef("--trusted-proxy %q is not of the form 10.0.0.0/8", text)
		}
		cfg.TrustedProxies = append(cfg.TrustedProxies, prefix)
	}
	return nil
}

// snapshotFlags bound what a client of the bootstrap service may cost.
type snapshotFlags struct {
	MaxSnapshots    int           `default:"4" envar:"CANOPY_MAX_SNAPSHOTS" placeholder:"N" help:"Maximum snapshots taken at a time; more are turned away."`
	SnapshotTimeout time.Duration `default:"1h" envar:"CANOPY_SNAPSHOT_TIMEOUT" help:"Time limit for one snapshot, which may hold up the database's vacuum for as long."`
	StallTimeout    time.Duration `default:"30s" envar:"CANOPY_STALL_TIMEOUT" help:"How long a client may take to receive 128 KiB of a snapshot before it is cut off."`
	RequestTimeout  time.Duration `default:"15s" envar:"CANOPY_REQUEST_TIMEOUT" help:"Time limit for database queries other than snapshots."`
	SpoolDir        string        `envar:"CANOPY_SPOOL_DIR" placeholder:"DIR" type:"path" help:"Keep snapshots of busy rooms in files here, so that one COPY serves many clients and no slow client holds a transaction open. Without it, each client's snapshot is taken anew."`
	SpoolBytes      int64         `default:"4294967296" envar:"CANOPY_SPOOL_BYTES" placeholder:"BYTES" help:"Disk space for --spool-dir; snapshots that do not fit are served straight from the database."`
	SpoolAge        time.Duration `default:"10m" envar:"CANOPY_SPOOL_AGE" help:"How long to keep a file in --spool-dir."`
	SpoolTail       int64         `default:"10000" envar:"CANOPY_SPOOL_TAIL" placeholder:"N" help:"How many operations a file in --spool-dir may be behind its room and still be served to new clients."`
	httpFlags
}

func (f snapshotFlags) apply(cfg *bootstrap.Config) error {
	cfg.SpoolDir = f.SpoolDir
	return cmp.Or(
		setPositive(limit[int]{"--max-snapshots", f.MaxSnapshots, &cfg.MaxSnapshots}),
		setPositive(limit[int64]{"--spool-bytes", f.SpoolBytes, &cfg.SpoolBytes}, limit[int64]{"--spool-tail", f.SpoolTail, &cfg.SpoolTail}),
		setPositive([]limit[time.Duration]{
			{"--snapshot-timeout", f.SnapshotTimeout, &cfg.MaxDuration}, {"--stall-timeout", f.StallTimeout, &cfg.StallTimeout},
			{"--request-timeout", f.RequestTimeout, &cfg.RequestTimeout}, {"--spool-age", f.SpoolAge, &cfg.SpoolAge},
			{"--header-timeout", f.HeaderTimeout, &cfg.HeaderTimeout}, {"--drain-timeout", f.DrainTimeout, &cfg.DrainTimeout},
		}...),
	)
}

// limit is what a flag says and where that goes.
type limit[T int | int64 | time.Duration] struct {
	flag  string
	value T
	to    *T
}

// setPositive sets limits. Zero is refused, because no limit can be switched off.
func setPositive[T int | int64 | time.Duration](limits ...limit[T]) error {
	for _, l := range limits {
		if l.value <= 0 {
			return usagef("%s must be positive", l.flag)
		}
		*l.to = l.value
	}
	return nil
}
