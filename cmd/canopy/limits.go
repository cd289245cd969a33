package main

import (
	"net/netip"
	"time"

	"github.com/canopysync/canopy/realtime"
)

// limitFlags bound what clients of the realtime service may cost.
type limitFlags struct {
	MaxFrame             int           `default:"1048576" envar:"CANOPY_MAX_FRAME" placeholder:"BYTES" help:"Size of a frame of a socket and of a request's body. It must hold the largest operation."`
	MaxBatch             int           `default:"1000" envar:"CANOPY_MAX_BATCH" placeholder:"N" help:"Operations of one push."`
	MaxValue             int           `default:"1024000" envar:"CANOPY_MAX_VALUE" placeholder:"BYTES" help:"Size of a property's value, as compact JSON."`
	MaxDepth             int           `default:"64" envar:"CANOPY_MAX_DEPTH" placeholder:"N" help:"Arrays and objects in each other in a property's value, at most 1000."`
	MaxKey               int           `default:"255" envar:"CANOPY_MAX_KEY" placeholder:"BYTES" help:"Size of a property's name, at most 255."`
	MaxPresence          int           `default:"4096" envar:"CANOPY_MAX_PRESENCE" placeholder:"BYTES" help:"Size of a presence state."`
	MaxPushes            int           `default:"4" envar:"CANOPY_MAX_PUSHES" placeholder:"N" help:"Pushes of a socket that are not answered yet; more are not read."`
	MaxReplies           int           `default:"262144" envar:"CANOPY_MAX_REPLIES" placeholder:"BYTES" help:"Replies that a socket has not taken yet; with more it is not read."`
	MaxSockets           int           `default:"20000" envar:"CANOPY_MAX_SOCKETS" placeholder:"N" help:"Open sockets; more are turned away."`
	MaxSocketsPerAddress int           `default:"1000" envar:"CANOPY_MAX_SOCKETS_PER_ADDRESS" placeholder:"N" help:"Open sockets of one IPv4 address or IPv6 /64, this machine's own not counted."`
	MaxSocketsPerUser    int           `default:"200" envar:"CANOPY_MAX_SOCKETS_PER_USER" placeholder:"N" help:"Open sockets of one user."`
	MaxOpsPerSecond      int           `default:"20000" envar:"CANOPY_MAX_OPS_PER_SECOND" placeholder:"N" help:"Operations that one connection may push a second; a socket that pushes more is read more slowly."`
	TailBytes            int           `default:"4194304" envar:"CANOPY_TAIL_BYTES" placeholder:"BYTES" help:"Memory for the newest operations of a room, from which sockets are caught up."`
	IdleRooms            int           `default:"1000" envar:"CANOPY_IDLE_ROOMS" placeholder:"N" help:"Rooms without sockets that are kept in memory for a minute, for those who come back."`
	IdleBytes            int           `default:"67108864" envar:"CANOPY_IDLE_BYTES" placeholder:"BYTES" help:"Memory for the operations of those."`
	HeaderTimeout        time.Duration `default:"10s" envar:"CANOPY_HEADER_TIMEOUT" help:"Time for the head of a request."`
	BodyTimeout          time.Duration `default:"30s" envar:"CANOPY_BODY_TIMEOUT" help:"Time for all of a request."`
	HelloTimeout         time.Duration `default:"5s" envar:"CANOPY_HELLO_TIMEOUT" help:"Time for the first message of a socket."`
	PingInterval         time.Duration `default:"20s" envar:"CANOPY_PING_INTERVAL" help:"How often a socket is asked for a sign of life; one that gives none for three times that is closed."`
	LagTimeout           time.Duration `default:"30s" envar:"CANOPY_LAG_TIMEOUT" help:"How long a socket may stay behind before it is closed."`
	DrainTimeout         time.Duration `default:"15s" envar:"CANOPY_DRAIN_TIMEOUT" help:"Time to finish what is under way and to close all sockets, in waves, when told to stop."`
	TrustedProxy         []string      `envar:"CANOPY_TRUSTED_PROXY" placeholder:"CIDR" help:"Networks of proxies whose X-Forwarded-For is believed."`
}

// The most that the database takes.
const maxKey, maxDepth = 255, 1000

func (f limitFlags) apply(cfg *realtime.Config) error {
	l, t := &cfg.Limits, &cfg.Timing
	for _, limit := range []struct {
		flag string
		n    int
		to   *int
	}{
		{"--max-batch", f.MaxBatch, &l.MaxOps}, {"--max-value", f.MaxValue, &l.Op.ValueBytes},
		{"--max-depth", f.MaxDepth, &l.Op.ValueDepth}, {"--max-key", f.MaxKey, &l.Op.KeyBytes},
		{"--max-presence", f.MaxPresence, &l.PresenceBytes}, {"--max-pushes", f.MaxPushes, &l.Pushes},
		{"--max-replies", f.MaxReplies, &l.ReplyBytes}, {"--max-sockets", f.MaxSockets, &l.Sockets},
		{"--max-sockets-per-address", f.MaxSocketsPerAddress, &l.SocketsPerAddress},
		{"--max-sockets-per-user", f.MaxSocketsPerUser, &l.SocketsPerUser},
		{"--max-ops-per-second", f.MaxOpsPerSecond, &l.OpsPerSecond}, {"--tail-bytes", f.TailBytes, &l.TailBytes},
		{"--idle-rooms", f.IdleRooms, &l.IdleRooms}, {"--idle-bytes", f.IdleBytes, &l.IdleBytes},
	} {
		if limit.n <= 0 {
			return usagef("%s must be positive", limit.flag)
		}
		*limit.to = limit.n
	}
	for _, timeout := range []struct {
		flag string
		d    time.Duration
		to   *time.Duration
	}{
		{"--header-timeout", f.HeaderTimeout, &t.Header}, {"--body-timeout", f.BodyTimeout, &t.Body},
		{"--hello-timeout", f.HelloTimeout, &t.Hello}, {"--ping-interval", f.PingInterval, &t.Ping},
		{"--lag-timeout", f.LagTimeout, &t.Lag}, {"--drain-timeout", f.DrainTimeout, &t.Drain},
	} {
		if timeout.d <= 0 {
			return usagef("%s must be positive", timeout.flag)
		}
		*timeout.to = timeout.d
	}
	if f.MaxKey > maxKey || f.MaxDepth > maxDepth {
		return usagef("--max-key must not be above %d, --max-depth not above %d", maxKey, maxDepth)
	}
	if f.MaxFrame <= 0 {
		return usagef("--max-frame must be positive")
	}
	l.MaxFrame = int64(f.MaxFrame)
	for _, text := range f.TrustedProxy {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return usagef("--trusted-proxy %q is not of the form 10.0.0.0/8", text)
		}
		cfg.TrustedProxies = append(cfg.TrustedProxies, prefix)
	}
	return nil
}
