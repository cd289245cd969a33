package main

import (
	"net/netip"
	"time"

	"github.com/canopysync/canopy/realtime"
)

// limitFlags bound what clients of the realtime service may cost.
type limitFlags struct {
	MaxSockets           int           `default:"20000" envar:"CANOPY_MAX_SOCKETS" placeholder:"N" help:"Open sockets; more are turned away."`
	MaxSocketsPerAddress int           `default:"1000" envar:"CANOPY_MAX_SOCKETS_PER_ADDRESS" placeholder:"N" help:"Open sockets of one IPv4 address or IPv6 /64, this machine's own not counted."`
	MaxSocketsPerUser    int           `default:"200" envar:"CANOPY_MAX_SOCKETS_PER_USER" placeholder:"N" help:"Open sockets of one user."`
	MaxOpsPerSecond      int           `default:"20000" envar:"CANOPY_MAX_OPS_PER_SECOND" placeholder:"N" help:"Operations that one connection may push a second; a socket that pushes more is read more slowly."`
	HeaderTimeout        time.Duration `default:"10s" envar:"CANOPY_HEADER_TIMEOUT" help:"Time for the head of a request."`
	BodyTimeout          time.Duration `default:"30s" envar:"CANOPY_BODY_TIMEOUT" help:"Time for all of a request."`
	DrainTimeout         time.Duration `default:"15s" envar:"CANOPY_DRAIN_TIMEOUT" help:"Time to finish what is under way and to close all sockets, in waves, when told to stop."`
	TrustedProxy         []string      `envar:"CANOPY_TRUSTED_PROXY" placeholder:"CIDR" help:"Networks of proxies whose X-Forwarded-For is believed."`
}

func (f limitFlags) apply(cfg *realtime.Config) error {
	for _, value := range []struct {
		flag string
		n    int
	}{
		{"--max-sockets", f.MaxSockets}, {"--max-sockets-per-address", f.MaxSocketsPerAddress},
		{"--max-sockets-per-user", f.MaxSocketsPerUser}, {"--max-ops-per-second", f.MaxOpsPerSecond},
		{"--header-timeout", int(f.HeaderTimeout)}, {"--body-timeout", int(f.BodyTimeout)},
		{"--drain-timeout", int(f.DrainTimeout)},
	} {
		if value.n <= 0 {
			return usagef("%s must be positive", value.flag)
		}
	}
	for _, text := range f.TrustedProxy {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return usagef("--trusted-proxy %q is not of the form 10.0.0.0/8", text)
		}
		cfg.TrustedProxies = append(cfg.TrustedProxies, prefix)
	}
	cfg.Limits.Sockets, cfg.Limits.SocketsPerAddress = f.MaxSockets, f.MaxSocketsPerAddress
	cfg.Limits.SocketsPerUser, cfg.Limits.OpsPerSecond = f.MaxSocketsPerUser, f.MaxOpsPerSecond
	cfg.Timing.Header, cfg.Timing.Body, cfg.Timing.Drain = f.HeaderTimeout, f.BodyTimeout, f.DrainTimeout
	return nil
}
