package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
)

type demoCmd struct {
	Pause        time.Duration `default:"700ms" placeholder:"DURATION" help:"Time to read each step; 700ms by default."`
	Edits        int           `default:"100" placeholder:"N" help:"Random edits by each of the three in the last part; 100 by default."`
	Seed         uint64        `placeholder:"N" help:"Repeat the random edits of an earlier run."`
	RealtimeURL  string        `placeholder:"URL" help:"Use this realtime service, with a new room; by default the demo starts services of its own and leaves nothing behind."`
	BootstrapURL string        `placeholder:"URL" help:"Use this bootstrap service."`
	tokenFlag
	jsonFlag
}

// Help is the command's long help.
func (*demoCmd) Help() string {
	return `Ann, Ben and Cleo edit one outline, each with a replica in a file of their own. They go offline, make edits that conflict, and come back: every replica refuses the same move that would make a cycle, a delete that had not seen a new node is corrected, and after a few hundred random edits all three and the server have the same tree.

The exit code is 0 if they do.

Examples:

    canopy demo
    canopy demo --pause 2s --edits 1000
    canopy demo --realtime-url http://127.0.0.1:8420 --bootstrap-url http://127.0.0.1:8421`
}

// demo is the stage: the services, the room and the three.
type demo struct {
	env       *Env
	quiet     bool
	pause     time.Duration
	rng       *rand.Rand
	room      string
	realtime  service
	bootstrap service
	players   []*player
}

// demoResult is what --json prints.
type demoResult struct {
	Equal  bool                     `json:"equal"`
	Seed   uint64                   `json:"seed"`
	Room   string                   `json:"room"`
	Server moveop.Digest            `json:"server"`
	People map[string]moveop.Digest `json:"people"`
}

func (c *demoCmd) Run(ctx context.Context, env *Env) (err error) {
	if c.Pause < 0 || c.Edits < 0 {
		return usagef("neither --pause nor --edits may be negative")
	}
	dir, err := os.MkdirTemp("", "canopy-demo-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if c.Seed == 0 {
		c.Seed = rand.Uint64()
	}
	if c.RealtimeURL != "" || c.BootstrapURL != "" {
		return c.play(ctx, env, dir, c.RealtimeURL, c.BootstrapURL)
	}
	// Postgres may run as another user, who has to get through.
	if err := os.Chmod(dir, 0o711); err != nil {
		return err
	}
	return withBackend(ctx, env, dir, func(ctx context.Context, b *backend) error {
		return c.play(ctx, env, dir, httpURL(b.realtime), httpURL(b.bootstrap))
	})
}

// withBackend runs fn beside services of its own, on free ports and with a Postgres in dir.
func withBackend(ctx context.Context, env *Env, dir string, fn func(context.Context, *backend) error) (err error) {
	b := &backend{log: slog.New(slog.NewTextHandler(env.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	defer func() { err = errors.Join(err, b.close(ctx)) }()
	for _, ln := range []*net.Listener{&b.realtime, &b.bootstrap} {
		if *ln, err = listenLoopback(ctx, "address", "127.0.0.1:0"); err != nil {
			return err
		}
	}
	if b.database, err = privateDatabase(ctx, dir, b.log); err != nil {
		return err
	}
	if err := b.migrate(ctx); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	serving, stop := context.WithCancel(ctx)
	group.Go(func() error { return b.serve(serving) })
	group.Go(func() error {
		defer stop()
		return fn(ctx, b)
	})
	return group.Wait()
}

// errDiffers is the demo's failure.
var errDiffers = errors.New("the trees differ")

func (c *demoCmd) play(ctx context.Context, env *Env, dir, realtimeURL, bootstrapURL string) (err error) {
	d := &demo{env: env, quiet: c.JSON, pause: c.Pause, rng: rand.New(rand.NewPCG(c.Seed, 0))}
	d.room = fmt.Sprintf("demo-%08x", rand.Uint32())
	if d.realtime, err = newService("--realtime-url", realtimeURL, c.Token); err != nil {
		return err
	}
	if d.bootstrap, err = newService("--bootstrap-url", bootstrapURL, c.Token); err != nil {
		return err
	}
	for _, s := range []service{d.realtime, d.bootstrap} {
		if err := s.ready(ctx); err != nil {
			return err
		}
	}
	for _, name := range []string{"Ann", "Ben", "Cleo"} {
		d.players = append(d.players, &player{name: name, path: filepath.Join(dir, name)})
	}
	defer func() { err = errors.Join(err, d.close()) }()
	d.say("Room %s, seed %d.\n", d.room, c.Seed)
	for _, scene := range []func(context.Context) error{
		d.annBegins, d.othersJoin, d.cycle, d.lateDelete,
		func(ctx context.Context) error { return d.everybody(ctx, c.Edits) },
	} {
		if err := scene(ctx); err != nil {
			return err
		}
	}
	return c.verdict(ctx, d)
}

// verdict compares what everybody ends with.
func (c *demoCmd) verdict(ctx context.Context, d *demo) error {
	stats, err := d.realtime.stats(ctx, d.room)
	if err != nil {
		return err
	}
	result := demoResult{Equal: true, Seed: c.Seed, Room: d.room, Server: stats.Digest, People: map[string]moveop.Digest{}}
	for _, p := range d.players {
		result.People[p.name] = p.Digest()
		result.Equal = result.Equal && p.Digest() == stats.Digest
	}
	d.say("\nDigests of log and state:")
	for _, p := range d.players {
		d.say("  %-7s %016x %016x", p.name, p.Digest().Log, p.Digest().State)
	}
	d.say("  %-7s %016x %016x   %d nodes, %d in Trash, %d operations",
		"server", stats.Digest.Log, stats.Digest.State, stats.Nodes, stats.Trashed, stats.Ops)
	if c.JSON {
		err = printJSON(d.env, result)
	}
	if !result.Equal {
		return errors.Join(err, errDiffers)
	}
	d.say("\nAll of them have the same tree.")
	return err
}

func (d *demo) say(format string, args ...any) {
	if !d.quiet {
		fmt.Fprintf(d.env.Stdout, format+"\n", args...)
	}
}

// step says what happens and gives time to read it.
func (d *demo) step(ctx context.Context, format string, args ...any) error {
	d.say(format, args...)
	select {
	case <-time.After(d.pause):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *demo) close() (err error) {
	for _, p := range d.players {
		err = errors.Join(err, p.leave())
	}
	return err
}

// player is one of the three.
type player struct {
	*client.Client // nil before the first time
	name, path     string
	online         bool
}

// reopen starts the player's program anew, with or without a network.
func (p *player) reopen(ctx context.Context, d *demo, online bool) error {
	if err := p.leave(); err != nil {
		return err
	}
	opts := client.Options{
		Room: d.room, Name: p.name, Synchronous: client.SynchronousNormal,
		RetryMin: 50 * time.Millisecond, RetryMax: time.Second,
	}
	if online {
		opts.RealtimeURL, opts.BootstrapURL = d.realtime.base, d.bootstrap.base
		opts.HTTPClient = &http.Client{Transport: d.bootstrap.http.Transport}
		opts.Token = tokenFlag{d.realtime.token}.source()
	}
	c, err := client.Open(ctx, p.path, opts)
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	p.Client, p.online = c, online
	return nil
}

func (p *player) leave() error {
	if p.Client == nil {
		return nil
	}
	return p.Close()
}

func (d *demo) offline(ctx context.Context, players ...*player) error {
	for _, p := range players {
		if err := p.reopen(ctx, d, false); err != nil {
			return err
		}
	}
	return nil
}

// together brings everybody online and waits until all have the same: after the first wait the server has everything,
// after the second one everybody has.
func (d *demo) together(ctx context.Context) error {
	for _, p := range d.players {
		if !p.online {
			if err := p.reopen(ctx, d, true); err != nil {
				return err
			}
		}
	}
	for range 2 {
		for _, p := range d.players {
			if err := (&replica{Client: p.Client, patience: demoPatience}).synced(ctx, func(client.Status) {}); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
		}
	}
	return nil
}

// demoPatience is how long the demo does without a connection.
const demoPatience = 30 * time.Second

// show prints the tree once if all have the same, and each one's where they differ.
func (d *demo) show(ctx context.Context) error {
	if d.quiet {
		return nil
	}
	var trees []string
	for _, p := range d.players {
		text, err := treeText(ctx, p.Client)
		if err != nil {
			return err
		}
		trees = append(trees, text)
	}
	if len(slices.Compact(slices.Clone(trees))) == 1 {
		d.say("\n  all three have\n%s", trees[0])
		return nil
	}
	for i, p := range d.players {
		d.say("\n  %s has\n%s", p.name, trees[i])
	}
	return nil
}
