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
	HeaderTimeout time.Duration `default:"10s" envar:"CANOPY_HEADER_TIMEOUT" help:"Time for the head of a request."`
	DrainTimeout  time.Duration `default:"15s" envar:"CANOPY_DRAIN_TIMEOUT" help:"Time to finish what is under way when told to stop, and to close all sockets, in waves."`
}

// limitFlags bound what clients of the realtime service may cost.
type limitFlags struct {
	MaxFrame             int64         `default:"1048576" envar:"CANOPY_MAX_FRAME" placeholder:"BYTES" help:"Size of a frame of a socket and of a request's body. It must hold the largest operation."`
	MaxBatch             int           `default:"1000" envar:"CANOPY_MAX_BATCH" placeholder:"N" help:"Operations of one push."`
	MaxValue             int           `default:"1024000" envar:"CANOPY_MAX_VALUE" placeholder:"BYTES" help:"Size of a property's value, as compact JSON."`
	MaxDepth             int           `default:"64" envar:"CANOPY_MAX_DEPTH" placeholder:"N" help:"Arrays and objects in each other in a property's value, at most 1000."`
	MaxKey               int           `default:"255" envar:"CANOPY_MAX_KEY" placeholder:"BYTES" help:"Size of a property's name, at most 255."`
	MaxPresence          int           `default:"4096" envar:"CANOPY_MAX_PRESENCE" placeholder:"BYTES" help:"Size of a presence state."`
	MaxName              int           `default:"128" envar:"CANOPY_MAX_NAME" placeholder:"BYTES" help:"Size of the display name that a socket gives."`
	MaxPushes            int           `default:"4" envar:"CANOPY_MAX_PUSHES" placeholder:"N" help:"Pushes of a socket that are not answered yet; more are not read."`
	MaxReplies           int           `default:"262144" envar:"CANOPY_MAX_REPLIES" placeholder:"BYTES" help:"Replies that a socket has not taken yet; with more it is not read."`
	MaxSockets           int           `default:"20000" envar:"CANOPY_MAX_SOCKETS" placeholder:"N" help:"Open sockets; more are turned away."`
	MaxSocketsPerAddress int           `default:"1000" envar:"CANOPY_MAX_SOCKETS_PER_ADDRESS" placeholder:"N" help:"Open sockets of one IPv4 address or IPv6 /64, this machine's own not counted."`
	MaxSocketsPerUser    int           `default:"200" envar:"CANOPY_MAX_SOCKETS_PER_USER" placeholder:"N" help:"Open sockets of one user."`
	MaxOpsPerSecond      int           `default:"20000" envar:"CANOPY_MAX_OPS_PER_SECOND" placeholder:"N" help:"Operations that one connection may push a second; a socket that pushes more is read more slowly."`
	TailBytes            int           `default:"4194304" envar:"CANOPY_TAIL_BYTES" placeholder:"BYTES" help:"Memory for the newest operations of a room, from which sockets are caught up."`
	IdleRooms            int           `default:"1000" envar:"CANOPY_IDLE_ROOMS" placeholder:"N" help:"Rooms without sockets that are kept in memory for a minute, for those who come back."`
	IdleBytes            int           `default:"67108864" envar:"CANOPY_IDLE_BYTES" placeholder:"BYTES" help:"Memory for the operations of those."`
	BodyTimeout          time.Duration `default:"30s" envar:"CANOPY_BODY_TIMEOUT" help:"Time for all of a request."`
	HelloTimeout         time.Duration `default:"5s" envar:"CANOPY_HELLO_TIMEOUT" help:"Time for the first message of a socket."`
	PingInterval         time.Duration `default:"20s" envar:"CANOPY_PING_INTERVAL" help:"How often a socket is asked for a sign of life; one that gives none for three times that is closed."`
	LagTimeout           time.Duration `default:"30s" envar:"CANOPY_LAG_TIMEOUT" help:"How long a socket may stay behind before it is closed."`
	TrustedProxy         []string      `envar:"CANOPY_TRUSTED_PROXY" placeholder:"CIDR" help:"Networks of proxies whose X-Forwarded-For is believed."`
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
			{"--max-ops-per-second", f.MaxOpsPerSecond, &l.OpsPerSecond}, {"--tail-bytes", f.TailBytes, &l.TailBytes},
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
		return usagef("--max-key must not be above %d, --max-depth not above %d", maxKey, maxDepth)
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
	MaxSnapshots    int           `default:"4" envar:"CANOPY_MAX_SNAPSHOTS" placeholder:"N" help:"Snapshots taken at a time; more are turned away."`
	SnapshotTimeout time.Duration `default:"1h" envar:"CANOPY_SNAPSHOT_TIMEOUT" help:"Time for one snapshot, which may hold up the database's vacuum for so long."`
	StallTimeout    time.Duration `default:"30s" envar:"CANOPY_STALL_TIMEOUT" help:"How long a client may take for 128 KiB of a snapshot before it is broken off."`
	RequestTimeout  time.Duration `default:"15s" envar:"CANOPY_REQUEST_TIMEOUT" help:"Time for what is asked of the database beside snapshots."`
	SpoolDir        string        `envar:"CANOPY_SPOOL_DIR" placeholder:"DIR" type:"path" help:"Keep snapshots of busy rooms in files here, so that one COPY serves many clients and none of them holds a transaction open. Without it each snapshot is taken anew."`
	SpoolBytes      int64         `default:"4294967296" envar:"CANOPY_SPOOL_BYTES" placeholder:"BYTES" help:"Disk space for --spool-dir; what does not fit is served straight from the database."`
	SpoolAge        time.Duration `default:"10m" envar:"CANOPY_SPOOL_AGE" help:"How long a file in --spool-dir is kept."`
	SpoolTail       int64         `default:"10000" envar:"CANOPY_SPOOL_TAIL" placeholder:"N" help:"Operations that a file in --spool-dir may be behind the room and still be given to new clients."`
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

// setPositive sets limits, none of which can be without: zero is no way to say so.
func setPositive[T int | int64 | time.Duration](limits ...limit[T]) error {
	for _, l := range limits {
		if l.value <= 0 {
			return usagef("%s must be positive", l.flag)
		}
		*l.to = l.value
	}
	return nil
}
