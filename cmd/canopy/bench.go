package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/canopysync/canopy/cmd/canopy/internal/bench"
)

type benchCmd struct {
	SQL         benchSQLCmd         `cmd:"" name:"sql" help:"Measure the stored functions on Postgres."`
	Tree        benchTreeCmd        `cmd:"" help:"Measure the tree in memory."`
	SQLite      benchSQLiteCmd      `cmd:"" name:"sqlite" help:"Measure the client's replica on SQLite."`
	Client      benchClientCmd      `cmd:"" help:"Measure the client with its services, in a large room."`
	Relay       benchRelayCmd       `cmd:"" help:"Measure how operations are relayed to the others in a room."`
	Push        benchPushCmd        `cmd:"" help:"Measure how many operations sockets get committed."`
	Connections benchConnectionsCmd `cmd:"" help:"Measure what an idle socket costs."`
	All         benchAllCmd         `cmd:"" help:"Measure everything."`
	Load        benchLoadCmd        `cmd:"" hidden:"" help:"The process that makes the load of the others; takes orders on standard input."`
}

// Help is the command's long help.
func (*benchCmd) Help() string {
	return `Each measurement alternates between a physical limit, such as a plain insert of the same rows, and the engine, and prints both medians and their ratio. Output is Markdown.

Examples:

    canopy bench tree
    canopy bench relay --sockets 2000
    canopy bench all --growth > benchmarks.md
    canopy bench sql --nodes 10000 --time 1s`
}

// benchFlags are for all measures.
type benchFlags struct {
	Nodes  int           `default:"1000000" help:"Nodes of the largest room; other sizes scale with it (1000000 by default)."`
	Time   time.Duration `default:"5s" help:"Time for each measurement, without set-up (5s by default)."`
	Count  int           `placeholder:"N" help:"Rounds of each measurement, instead of a time."`
	Growth bool          `help:"Also show how cost grows with nodes, depth, siblings and log."`
	Dir    string        `placeholder:"DIR" help:"Directory for files and the private Postgres during the run: its disk is measured."`
	jsonFlag
}

// benchDatabaseFlag is for the measures that need Postgres.
type benchDatabaseFlag struct {
	DatabaseURL string `placeholder:"URL" help:"Postgres to measure; the rooms are left behind in it. A private one by default."`
}

type (
	benchSQLCmd struct {
		benchFlags
		benchDatabaseFlag
	}
	benchTreeCmd   struct{ benchFlags }
	benchSQLiteCmd struct{ benchFlags }
	benchClientCmd struct {
		benchFlags
		benchDatabaseFlag
	}
	benchRelayCmd       struct{ benchServiceFlags }
	benchPushCmd        struct{ benchServiceFlags }
	benchConnectionsCmd struct{ benchServiceFlags }
	benchAllCmd         struct{ benchServiceFlags }
	benchLoadCmd        struct{}
)

// benchServiceFlags are for the measures of the realtime service.
type benchServiceFlags struct {
	benchFlags
	benchDatabaseFlag
	Sockets int `default:"10000" help:"Idle sockets; other numbers of sockets and writers scale with it (10000 by default)."`
}

type measure func(ctx context.Context, cfg bench.Config) (bench.Section, error)

func (c *benchTreeCmd) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, bench.Config{}, bench.Tree)
}

func (c *benchSQLCmd) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, bench.Config{DatabaseURL: c.DatabaseURL}, bench.SQL)
}

func (c *benchSQLiteCmd) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, bench.Config{}, bench.SQLite)
}

func (c *benchClientCmd) Run(ctx context.Context, env *Env) error {
	service := benchServiceFlags{benchFlags: c.benchFlags, benchDatabaseFlag: c.benchDatabaseFlag, Sockets: 1}
	return service.run(ctx, env, bench.Client)
}

func (c *benchRelayCmd) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, bench.Relay)
}

func (c *benchPushCmd) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, bench.Push)
}

func (c *benchConnectionsCmd) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, bench.Connections)
}

func (c *benchAllCmd) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, bench.SQL, bench.Tree, bench.SQLite, bench.Client, bench.Relay, bench.Push, bench.Connections)
}

// run uses this program as the load generator too.
func (c *benchServiceFlags) run(ctx context.Context, env *Env, measures ...measure) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if c.Sockets < 1 {
		return usagef("--sockets %d: at least 1", c.Sockets)
	}
	cfg := bench.Config{DatabaseURL: c.DatabaseURL, Sockets: c.Sockets, Load: []string{self, "bench", "load"}}
	return c.benchFlags.run(ctx, env, cfg, measures...)
}

func (*benchLoadCmd) Run(ctx context.Context, env *Env) error {
	return bench.Load(ctx, env.Stdin, env.Stdout)
}

// run prints the machine and build that figures depend on, and then each section when it is ready.
func (c *benchFlags) run(ctx context.Context, env *Env, cfg bench.Config, measures ...measure) error {
	if c.Nodes < 1000 {
		return usagef("--nodes %d: fewer than 1000 show nothing", c.Nodes)
	}
	if c.Time <= 0 || c.Count < 0 {
		return usagef("--time must be positive, and --count not negative")
	}
	about := struct {
		bench.Machine
		Build buildInfo `json:"build"`
	}{bench.ThisMachine(), readBuild()}
	err := c.print(env, about, func() {
		commit := about.Build.Revision
		if commit == "" {
			commit = "unknown (go build knows it, go run does not)"
		} else if about.Build.Modified {
			commit += ", with changes"
		}
		fmt.Fprintf(env.Stdout, "Machine: %s, %d cores, %s. Built with %s from commit %s.\n\n",
			about.CPU, about.Cores, about.Platform, about.Go, commit)
	})
	if err != nil {
		return err
	}
	cfg.Nodes, cfg.Time, cfg.Rounds, cfg.Growth, cfg.Dir = c.Nodes, c.Time, c.Count, c.Growth, c.Dir
	cfg.Progress = &benchProgress{env: env}
	for _, measure := range measures {
		section, err := measure(ctx, cfg)
		if err != nil {
			return err
		}
		if c.JSON {
			err = printJSON(env, section)
		} else {
			err = section.Write(env.Stdout)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// benchProgress shows each piece of work as a bar of its own.
type benchProgress struct {
	env *Env
	progress
}

func (p *benchProgress) Start(what string, total int64) {
	p.progress = newProgress(p.env, total, what, false)
}

func (p *benchProgress) Add(n int64) { p.add(n) }

func (p *benchProgress) End() { p.end() }
