package main

import (
	"context"
	"fmt"
	"time"

	"github.com/canopysync/canopy/cmd/canopy/internal/bench"
)

type benchCmd struct {
	SQL    benchSQLCmd    `cmd:"" name:"sql" help:"Measure the stored functions on Postgres."`
	Tree   benchTreeCmd   `cmd:"" help:"Measure the tree in memory."`
	SQLite benchSQLiteCmd `cmd:"" name:"sqlite" help:"Measure the client's replica on SQLite."`
	All    benchAllCmd    `cmd:"" help:"Measure everything."`
}

// Help is the command's long help.
func (*benchCmd) Help() string {
	return `Each measure runs a limit that cannot be beaten, like a plain insert of the same rows, and the engine in turn, and prints the median of both and the ratio. Output is Markdown.

Examples:

    canopy bench tree
    canopy bench all --growth > benchmarks.md
    canopy bench sql --nodes 10000 --time 1s`
}

// benchFlags are for all measures.
type benchFlags struct {
	Nodes  int           `default:"1000000" help:"Nodes of the largest room; other sizes keep their proportion to it (1000000 by default)."`
	Time   time.Duration `default:"5s" help:"Time for each measure, without setting up (5s by default)."`
	Count  int           `placeholder:"N" help:"Rounds of each measure, in place of a time."`
	Growth bool          `help:"Show also how cost grows with nodes, depth, siblings and log."`
	Dir    string        `placeholder:"DIR" help:"Directory for files and the private Postgres, removed at the end: its disk is measured."`
	jsonFlag
}

// benchDatabaseFlag is for the measures that need Postgres.
type benchDatabaseFlag struct {
	DatabaseURL string `placeholder:"URL" help:"Postgres to measure, in which rooms are left behind; a private one by default."`
}

type (
	benchSQLCmd struct {
		benchFlags
		benchDatabaseFlag
	}
	benchTreeCmd   struct{ benchFlags }
	benchSQLiteCmd struct{ benchFlags }
	benchAllCmd    struct {
		benchFlags
		benchDatabaseFlag
	}
)

type measure func(ctx context.Context, cfg bench.Config) (bench.Section, error)

func (c *benchTreeCmd) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, "", bench.Tree)
}

func (c *benchSQLCmd) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, c.DatabaseURL, bench.SQL)
}

func (c *benchSQLiteCmd) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, "", bench.SQLite)
}

func (c *benchAllCmd) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, c.DatabaseURL, bench.SQL, bench.Tree, bench.SQLite)
}

// run prints what figures depend on, and then each section when it is there.
func (c *benchFlags) run(ctx context.Context, env *Env, databaseURL string, measures ...measure) error {
	if c.Nodes < 1000 {
		return usagef("--nodes %d: fewer than 1000 show nothing", c.Nodes)
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
	for _, measure := range measures {
		section, err := measure(ctx, bench.Config{
			Nodes: c.Nodes, Time: c.Time, Rounds: c.Count, Growth: c.Growth,
			DatabaseURL: databaseURL, Dir: c.Dir, Progress: &benchProgress{env: env},
		})
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
