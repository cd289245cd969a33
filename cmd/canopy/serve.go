package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/canopysync/canopy/bootstrap"
	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/realtime"
)

type serveCmd struct {
	Realtime  serveRealtimeCmd  `cmd:"" help:"Serve rooms over WebSocket and HTTP."`
	Bootstrap serveBootstrapCmd `cmd:"" help:"Serve snapshots of rooms."`
}

// serviceFlags are what both services need.
type serviceFlags struct {
	databaseFlag
	authFlags
	InsecureNoAuth bool `envar:"CANOPY_INSECURE_NO_AUTH" help:"Serve without authentication, on a loopback address: everybody on this machine can read and change every room."`
	JSON           bool `name:"json" envar:"CANOPY_JSON" help:"Print one line of JSON when ready."`
	logFlags
}

const serveHelp = `
The database must be migrated to this version (canopy migrate up). If it is not, or cannot be reached within ten seconds, the command ends with exit code 4.

JSON Web Tokens say who may do what. The keys to check them with come from --auth-key-file, --auth-key and --auth-jwks-url; canopy token makes your own keys and tokens. Without keys the command requires --insecure-no-auth and a loopback address.

On SIGINT or SIGTERM it finishes requests under way and stops.

Examples:

    canopy serve %[1]s --database-url postgres://canopy@db/canopy --auth-key-file keys.json --addr 0.0.0.0:%[2]s
    CANOPY_DATABASE_URL=postgres://canopy@db/canopy canopy serve %[1]s --auth-jwks-url https://issuer.example/jwks.json --auth-audience canopy
    canopy serve %[1]s --database-url postgres://localhost/canopy --insecure-no-auth`

// serviceReady is the line of --json.
type serviceReady struct {
	Event   string `json:"event"` // "ready"
	Service string `json:"service"`
	URL     string `json:"url"`
	Auth    bool   `json:"auth"`
	PID     int    `json:"pid"`
}

// parts is what a service is put together from.
type parts struct {
	db      *pgfuncs.DB
	gate    *gate
	tracing *tracing
}

// run listens, connects, announces and serves.
func (f serviceFlags) run(ctx context.Context, env *Env, name, addr string, serve func(context.Context, parts, net.Listener) error) error {
	if f.given() == f.InsecureNoAuth {
		return usagef("give either keys for tokens (--auth-key-file, --auth-key or --auth-jwks-url) or --insecure-no-auth")
	}
	ln, err := f.listen(ctx, addr)
	if err != nil {
		return err
	}
	defer ln.Close() // closed already where it was served
	tracing, err := newTracing(ctx, env, name, f.logger(env))
	if err != nil {
		return err
	}
	defer tracing.stop(ctx)
	db, err := f.open(ctx, tracing.database()...)
	if err != nil {
		return err
	}
	defer db.Close()
	gate, err := f.gate(ctx, db, f.logger(env))
	if err != nil {
		return err
	}
	if err := f.announce(env, name, ln); err != nil {
		return err
	}
	return gate.around(ctx, func(ctx context.Context) error { return serve(ctx, parts{db, gate, tracing}, ln) })
}

func (f serviceFlags) listen(ctx context.Context, addr string) (net.Listener, error) {
	if f.given() {
		return listen(ctx, "--addr", addr)
	}
	return listenLoopback(ctx, "--addr", addr)
}

// gate is nil without authentication.
func (f serviceFlags) gate(ctx context.Context, db *pgfuncs.DB, log *slog.Logger) (*gate, error) {
	if !f.given() {
		return nil, nil
	}
	return newGate(ctx, f.authFlags, db, log)
}

// around is what all requests go through; without authentication the service may be called by names.
func (f serviceFlags) around(with parts, names []string) middleware {
	if f.given() {
		return with.tracing.requests()
	}
	return localOnly(names, with.tracing.requests())
}

func (f serviceFlags) announce(env *Env, name string, ln net.Listener) error {
	if f.JSON {
		return printJSON(env, serviceReady{Event: "ready", Service: name, URL: httpURL(ln), Auth: f.given(), PID: os.Getpid()})
	}
	warning := ", with NO AUTHENTICATION"
	if f.given() {
		warning = ""
	}
	_, err := fmt.Fprintf(env.Stdout, "%s serves on %s%s.\n", name, httpURL(ln), warning)
	return err
}

type serveRealtimeCmd struct {
	Addr         string        `default:"${realtime_addr}" envar:"CANOPY_REALTIME_ADDR" placeholder:"HOST:PORT" help:"Address to listen on: ${realtime_addr} by default."`
	AllowOrigin  []string      `envar:"CANOPY_ALLOW_ORIGIN" placeholder:"ORIGIN" help:"Origins of web pages that may connect; pages of the same host by default."`
	CompactEvery time.Duration `default:"0s" envar:"CANOPY_COMPACT_EVERY" help:"How often to compact all rooms, like canopy compact --all; only one process on a database does so at a time. 0s, the default, means never."`
	retentionFlag
	transportFlags
	limitFlags
	serviceFlags
}

// Help is the command's long help.
func (*serveRealtimeCmd) Help() string { return fmt.Sprintf(serveHelp, "realtime", "8420") }

func (c *serveRealtimeCmd) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, "realtime", c.Addr, func(ctx context.Context, with parts, ln net.Listener) error {
		cfg, err := c.config(env)
		if err != nil {
			return err
		}
		cfg.Store, cfg.Compaction.Rooms = with.db, with.db
		cfg.TracerProvider, cfg.Middleware = with.tracing.spans(), c.around(with, namesIn(c.Addr, c.AllowOrigin))
		transport, done, err := c.open(with.db, cfg.Logger)
		if err != nil {
			return err
		}
		defer done()
		cfg.Transport = transport
		with.gate.realtime(&cfg)
		s, err := realtime.New(cfg)
		if err != nil {
			return usagef("%v", err)
		}
		return s.Serve(ctx, ln)
	})
}

// config is what the flags alone decide.
func (c *serveRealtimeCmd) config(env *Env) (realtime.Config, error) {
	cfg := realtime.Config{Logger: c.logger(env), AllowedOrigins: c.AllowOrigin, Registry: newRegistry()}
	if c.CompactEvery < 0 {
		return cfg, usagef("--compact-every must not be negative")
	}
	if err := c.check(); err != nil {
		return cfg, err
	}
	cfg.Compaction.Every, cfg.Compaction.Retention, cfg.Compaction.Trash = c.CompactEvery, c.Retention, c.TrashRetention
	return cfg, c.apply(&cfg)
}

type serveBootstrapCmd struct {
	Addr string `default:"${bootstrap_addr}" envar:"CANOPY_BOOTSTRAP_ADDR" placeholder:"HOST:PORT" help:"Address to listen on: ${bootstrap_addr} by default."`
	snapshotFlags
	serviceFlags
}

// Help is the command's long help.
func (*serveBootstrapCmd) Help() string { return fmt.Sprintf(serveHelp, "bootstrap", "8421") }

func (c *serveBootstrapCmd) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, "bootstrap", c.Addr, func(ctx context.Context, with parts, ln net.Listener) error {
		cfg, err := c.config(env)
		if err != nil {
			return err
		}
		cfg.Source = with.db
		cfg.Middleware = c.around(with, namesIn(c.Addr, nil))
		if with.gate != nil {
			cfg.Authorize = with.gate.mayRead
		}
		s, err := bootstrap.New(cfg)
		if err != nil {
			return usagef("%v", err)
		}
		return s.Serve(ctx, ln)
	})
}

// config is what the flags alone decide.
func (c *serveBootstrapCmd) config(env *Env) (bootstrap.Config, error) {
	cfg := bootstrap.Config{Logger: c.logger(env), Registry: newRegistry()}
	return cfg, c.apply(&cfg)
}
