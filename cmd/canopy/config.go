package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/canopysync/canopy/bootstrap"
	"github.com/canopysync/canopy/realtime"
)

type configCmd struct {
	Check   configCheckCmd   `cmd:"" help:"Check a configuration file without starting anything."`
	Default configDefaultCmd `cmd:"" help:"Print a configuration file with every setting, its default and what it does."`
}

type configCheckCmd struct {
	File string `arg:"" optional:"" help:"The file; that of --config by default."`
	jsonFlag
}

// Help is the command's long help.
func (*configCheckCmd) Help() string {
	return `Finds unknown keys, malformed values, and values with which a service would not start. It connects to nothing, and reads no other file.

Example:

    canopy config check /etc/canopy/canopy.toml`
}

// checkedConfig is what config check prints with --json.
type checkedConfig struct {
	File string   `json:"file"`
	Keys []string `json:"keys"`
}

func (c *configCheckCmd) Run(ctx context.Context, env *Env, parsed *kong.Context, g *grammar) error {
	if c.File == "" {
		c.File = g.configPath(env)
	}
	if c.File == "" {
		return usagef("no file given: name it, or use --config")
	}
	file, err := loadConfig(c.File, parsed.Model)
	if err != nil {
		return err
	}
	if err := startable(ctx, file); err != nil {
		return usagef("configuration %s: %v", c.File, err)
	}
	keys := slices.Sorted(maps.Keys(file.values))
	return c.print(env, checkedConfig{c.File, nonNil(keys)}, func() {
		fmt.Fprintf(env.Stdout, "%s is good: %d settings\n", c.File, len(keys))
	})
}

// startable returns the reason why a service would refuse its settings before it connects to anything.
func startable(ctx context.Context, file *configFile) error {
	env := &Env{Stdout: io.Discard, Stderr: io.Discard, LookupEnv: func(string) (string, bool) { return "", false }}
	for _, service := range []string{"realtime", "bootstrap"} {
		parser, err := newParser(ctx, env)
		if err != nil {
			return err
		}
		args := []string{"serve", service, "--config", file.path}
		if url := file.values["database-url"]; url == nil || url == "" {
			args = append(args, "--database-url=postgres://") // from elsewhere, when it is started
		}
		parsed, err := parser.Parse(args)
		if err != nil {
			return err
		}
		switch c := parsed.Selected().Target.Addr().Interface().(type) {
		case *serveRealtimeCmd:
			cfg, err := c.config(env)
			if err != nil {
				return err
			}
			cfg.Store = struct{ realtime.Store }{}
			if _, err = realtime.New(cfg); err != nil {
				return err
			}
		case *serveBootstrapCmd:
			cfg, err := c.config(env)
			if err != nil {
				return err
			}
			cfg.Source = struct{ bootstrap.Source }{}
			if _, err = bootstrap.New(cfg); err != nil {
				return err
			}
		}
	}
	return nil
}

type configDefaultCmd struct{}

// Help is the command's long help.
func (*configDefaultCmd) Help() string {
	return `Every line is a comment: remove the # from the lines that you change.

Example:

    canopy config default > canopy.toml`
}

const configHead = `# Settings of Canopy, for canopy --config FILE or CANOPY_CONFIG. The format is TOML, without sections.
# A flag overrides its environment variable, which overrides this file, which overrides the default.
# An empty string counts as not set. canopy config check finds mistakes.
`

func (c *configDefaultCmd) Run(env *Env, parsed *kong.Context) error {
	var order []string
	flags, commands := map[string]*kong.Flag{}, map[string][]string{}
	for _, command := range parsed.Model.Leaves(false) {
		for _, flag := range command.Flags {
			key := settingKey(flag)
			if key == "" {
				continue
			}
			if flags[key] == nil {
				order = append(order, key)
			}
			if flags[key] == nil || strings.HasPrefix(command.Path(), "serve") { // whose help says most
				flags[key] = flag
			}
			commands[key] = append(commands[key], command.Path())
		}
	}
	var b strings.Builder
	b.WriteString(configHead)
	for _, key := range order {
		of := comment("Of " + strings.Join(commands[key], ", ") + ".")
		fmt.Fprintf(&b, "\n%s%s#%s = %s\n", comment(flags[key].Help), of, key, defaultOf(flags[key]))
	}
	_, err := io.WriteString(env.Stdout, b.String())
	return err
}

// comment writes text as lines of a comment.
func comment(text string) string {
	const width = 110
	var b strings.Builder
	line := "#"
	for word := range strings.FieldsSeq(text) {
		if len(line)+1+len(word) > width {
			b.WriteString(line + "\n")
			line = "#"
		}
		line += " " + word
	}
	return b.String() + line + "\n"
}

// defaultOf writes a flag's default as TOML.
func defaultOf(flag *kong.Flag) string {
	switch flag.Target.Interface().(type) {
	case bool:
		return strconv.FormatBool(flag.Default == "true")
	case int, int64:
		return flag.Default
	case []string:
		return "[]"
	}
	return strconv.Quote(flag.Default)
}
