package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/alecthomas/kong"
)

// Env is a command's environment.
type Env struct {
	Stdin  io.Reader
	Stdout io.Writer // results
	Stderr io.Writer // everything else: logs, progress, errors
	// LookupEnv reads the environment.
	LookupEnv func(name string) (value string, ok bool)
	// Terminal is set if Stderr is a terminal.
	Terminal bool
}

// grammar is the command line.
type grammar struct {
	ConfigFile string `name:"config" placeholder:"FILE" help:"Read settings from this file; canopy config default prints one to start from ($CANOPY_CONFIG)."`

	Dev      devCmd      `cmd:"" group:"services" help:"Run both services and a private Postgres, for development."`
	Serve    serveCmd    `cmd:"" group:"services" help:"Run one service on a database."`
	Config   configCmd   `cmd:"" group:"services" help:"Check a configuration file, or print one."`
	Migrate  migrateCmd  `cmd:"" group:"services" help:"Bring a database's schema up to date."`
	Token    tokenCmd    `cmd:"" group:"services" help:"Make keys; issue, inspect, list and revoke tokens."`
	Room     roomCmd     `cmd:"" group:"rooms" help:"List rooms, count their content, set their restore policy, start a new epoch after a restore."`
	Import   importCmd   `cmd:"" group:"rooms" help:"Add a directory tree or a document to a room."`
	Export   exportCmd   `cmd:"" group:"rooms" help:"Write a room as a document."`
	Tail     tailCmd     `cmd:"" group:"rooms" help:"Print a room's operations as they happen."`
	Snapshot snapshotCmd `cmd:"" group:"rooms" help:"Fetch and check snapshot files."`
	Compact  compactCmd  `cmd:"" group:"rooms" help:"Remove old operations that are no longer needed from rooms' logs."`

	Doctor  doctorCmd  `cmd:"" group:"more" help:"Examine the replica file of an application, and repair it."`
	Bench   benchCmd   `cmd:"" group:"more" help:"Measure the engine against physical limits."`
	Demo    demoCmd    `cmd:"" group:"more" help:"Watch three people edit one tree, partly offline."`
	Version versionCmd `cmd:"" group:"more" help:"Print the version and how it was built."`
}

const description = `Canopy is a collaboration backend for tree-shaped documents.

A flag that names an environment variable takes its value from the command line, the variable or the file of --config, in this order.

Exit codes: 0 success, 1 failure, 2 wrong usage, 3 no such room, 4 service or database not available (try again later), 5 damaged or malformed input, 130 interrupted, 141 output closed by its reader.`

// run parses the command line, runs the command and returns the exit code.
func run(ctx context.Context, env *Env, args []string) (code int) {
	defer func() {
		// Kong's help asks to exit from deep inside the parser.
		switch r := recover().(type) {
		case nil:
		case exitRequest:
			code = int(r)
		default:
			panic(r)
		}
	}()
	results := &output{to: env.Stdout}
	around := *env
	around.Stdout = results
	parser, err := newParser(ctx, &around)
	if err != nil {
		fmt.Fprintln(env.Stderr, "canopy:", err)
		return exitFailure
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	parsed, err := parser.Parse(args)
	if err == nil {
		err = parsed.Run()
	}
	if err == nil {
		err = results.failed()
	}
	return report(ctx, env, err)
}

// output receives results. It keeps the first error, so that code which prints text piece by piece need not check each
// time.
type output struct {
	to io.Writer

	mu  sync.Mutex // guards err
	err error
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.to.Write(p)
	if err != nil {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.err = err
	}
	return n, err
}

func (o *output) failed() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return fmt.Errorf("write output: %w", o.err)
	}
	return nil
}

// exitRequest carries an exit code out of the parser.
type exitRequest int

func newParser(ctx context.Context, env *Env) (*kong.Kong, error) {
	g := new(grammar)
	return kong.New(g,
		kong.Name("canopy"),
		kong.Description(description),
		kong.ExplicitGroups([]kong.Group{
			{Key: "services", Title: "Services:"},
			{Key: "rooms", Title: "Rooms:"},
			{Key: "more", Title: "More:"},
		}),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.Vars(defaults),
		kong.Writers(env.Stdout, env.Stderr),
		kong.Exit(func(code int) { panic(exitRequest(code)) }),
		kong.ValueFormatter(helpWithVariable),
		kong.Bind(env, g),
		kong.BindTo(ctx, (*context.Context)(nil)),
	)
}

// configPath is the configuration file, empty for none.
func (g *grammar) configPath(env *Env) string {
	if g.ConfigFile != "" {
		return g.ConfigFile
	}
	path, _ := env.LookupEnv("CANOPY_CONFIG")
	return path
}

// BeforeResolve sets the sources of flags that are not given: the last source that has a value wins.
func (g *grammar) BeforeResolve(parsed *kong.Context, env *Env) error {
	for _, trace := range parsed.Path {
		if trace.Flag != nil && trace.Flag.Name == "config" {
			g.ConfigFile, _ = parsed.FlagValue(trace.Flag).(string)
		}
	}
	if path := g.configPath(env); path != "" {
		file, err := loadConfig(path, parsed.Model)
		if err != nil {
			return err
		}
		parsed.AddResolver(file)
	}
	parsed.AddResolver(environment(env))
	return nil
}

// environment takes flags that were not given from the variable that their tag envar names. Kong's own
// env tag reads the process's environment, which tests cannot have each for itself.
func environment(env *Env) kong.Resolver {
	return kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		name := flag.Tag.Get("envar")
		if name == "" {
			return nil, nil
		}
		if value, ok := env.LookupEnv(name); ok && value != "" {
			return value, nil
		}
		return nil, nil
	})
}

func helpWithVariable(value *kong.Value) string {
	help := kong.DefaultHelpValueFormatter(value)
	name := value.Tag.Get("envar")
	if name == "" {
		return help
	}
	return strings.TrimSuffix(help, ".") + " ($" + name + ")."
}

// report prints an error and returns the exit code for it.
func report(ctx context.Context, env *Env, err error) int {
	code := exitCode(ctx, err)
	switch {
	case err == nil, code == exitUnread:
	case code == exitInterrupted:
		fmt.Fprintln(env.Stderr, "canopy: interrupted:", inert(err.Error(), lines))
	default:
		fmt.Fprintln(env.Stderr, "canopy:", inert(err.Error(), lines))
	}
	if usage, ok := errors.AsType[*kong.ParseError](err); ok && usage.Context != nil {
		fmt.Fprintf(env.Stderr, "Run \"%s --help\" for usage.\n", commandOf(usage.Context))
	}
	return code
}

// commandOf is the command as far as it was understood.
func commandOf(c *kong.Context) string {
	if node := c.Selected(); node != nil {
		return "canopy " + node.Path()
	}
	return "canopy"
}
