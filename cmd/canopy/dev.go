package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

type devCmd struct {
	DataDir       string   `default:"${data_dir}" envar:"CANOPY_DATA_DIR" placeholder:"DIR" help:"Where the private Postgres keeps its data: ${data_dir} by default."`
	RealtimeAddr  string   `default:"${realtime_addr}" envar:"CANOPY_REALTIME_ADDR" placeholder:"HOST:PORT" help:"Address of the realtime service: ${realtime_addr} by default. Port 0 picks a free port."`
	BootstrapAddr string   `default:"${bootstrap_addr}" envar:"CANOPY_BOOTSTRAP_ADDR" placeholder:"HOST:PORT" help:"Address of the bootstrap service: ${bootstrap_addr} by default."`
	DatabaseURL   string   `envar:"CANOPY_DATABASE_URL" placeholder:"URL" help:"Use this Postgres instead of a private one."`
	AllowOrigin   []string `envar:"CANOPY_ALLOW_ORIGIN" placeholder:"ORIGIN" help:"Origins of web pages that may connect, such as http://localhost:5173."`
	JSON          bool     `name:"json" envar:"CANOPY_JSON" help:"Print one line of JSON when ready."`
	logFlags
}

// Help is the command's long help.
func (*devCmd) Help() string {
	return `Starts a private Postgres (found on this machine, or fetched once), brings its schema up to date, and serves realtime and bootstrap on it. The data is kept for the next start.

There is NO AUTHENTICATION, so only loopback addresses are allowed. SIGINT or SIGTERM stops everything in order; a second one stops at once.

Examples:

    canopy dev
    canopy dev --data-dir ./.canopy --realtime-addr 127.0.0.1:0 --bootstrap-addr 127.0.0.1:0 --json
    canopy dev --database-url postgres://localhost/canopy_dev`
}

// devReady is the line of --json.
type devReady struct {
	Event     string `json:"event"` // "ready"
	Realtime  string `json:"realtime"`
	Bootstrap string `json:"bootstrap"`
	Database  string `json:"database"`
	DataDir   string `json:"data_dir,omitempty"` // empty with --database-url
	Auth      bool   `json:"auth"`
	PID       int    `json:"pid"`
}

func (c *devCmd) Run(ctx context.Context, env *Env) (err error) {
	b := &backend{log: c.logger(env)}
	defer func() { err = errors.Join(err, b.close(ctx)) }()
	if err := c.listen(ctx, b); err != nil {
		return err
	}
	if err := c.start(ctx, b); err != nil {
		return err
	}
	if err := c.announce(env, b); err != nil {
		return err
	}
	err = b.serve(ctx)
	if err == nil && !c.JSON {
		fmt.Fprintln(env.Stdout, "Stopped.")
	}
	return err
}

// listen comes first, because an address in use is the most likely failure, and the quickest to find.
func (c *devCmd) listen(ctx context.Context, b *backend) (err error) {
	if b.realtime, err = listenLoopback(ctx, "--realtime-addr", c.RealtimeAddr); err != nil {
		return err
	}
	if b.bootstrap, err = listenLoopback(ctx, "--bootstrap-addr", c.BootstrapAddr); err != nil {
		return err
	}
	b.origins = append(ownOrigins(b.realtime), c.AllowOrigin...)
	b.names = append(namesIn(c.RealtimeAddr, b.origins), namesIn(c.BootstrapAddr, nil)...)
	return nil
}

// ownOrigins are the names by which a page may be served from the same port. The list is explicit
// because "same host" would let a page in whose host name was made to point here.
func ownOrigins(ln net.Listener) []string {
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		return nil
	}
	return []string{httpURL(ln), "http://localhost:" + port}
}

func (c *devCmd) start(ctx context.Context, b *backend) (err error) {
	if c.DatabaseURL != "" {
		b.database = &database{url: c.DatabaseURL}
	} else {
		if c.DataDir, err = filepath.Abs(c.DataDir); err != nil {
			return err
		}
		if b.database, err = privateDatabase(ctx, c.DataDir, b.log); err != nil {
			return err
		}
	}
	return b.migrate(ctx)
}

func (c *devCmd) announce(env *Env, b *backend) error {
	ready := devReady{
		Event: "ready", Realtime: httpURL(b.realtime), Bootstrap: httpURL(b.bootstrap),
		Database: withoutPassword(b.database.url), DataDir: c.DataDir, PID: os.Getpid(),
	}
	if c.DatabaseURL != "" {
		ready.DataDir = ""
	}
	if c.JSON {
		return printJSON(env, ready)
	}
	_, err := fmt.Fprintf(env.Stdout, `Canopy is ready.

  realtime   %s   (%s/v1/rooms/ROOM/ws)
  bootstrap  %s
  database   %s
%s
  There is NO AUTHENTICATION: everybody on this machine can read and change every room.
  It listens on loopback addresses only. Ctrl-C stops it.

`, ready.Realtime, "ws"+strings.TrimPrefix(ready.Realtime, "http"), ready.Bootstrap, ready.Database, dataLine(ready.DataDir))
	return err
}

// withoutPassword is a database URL that may be shown, and kept in a log.
func withoutPassword(databaseURL string) string {
	u, err := url.Parse(databaseURL)
	if err != nil || u.Scheme == "" { // name=value pairs
		if strings.Contains(databaseURL, "password") {
			return "as given"
		}
		return databaseURL
	}
	if u.User != nil {
		u.User = url.User(u.User.Username())
	}
	if q := u.Query(); q.Has("password") {
		q.Del("password")
		u.RawQuery = q.Encode()
	}
	return u.String()
}

func dataLine(dir string) string {
	if dir == "" {
		return ""
	}
	return "  data       " + dir + "\n"
}
