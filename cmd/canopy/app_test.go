package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/cmd/canopy/internal/outline"
	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/realtime/wire"
)

func TestWrongUsageIsSaidSo(t *testing.T) {
	t.Parallel()
	for _, args := range []string{
		"nonsense", "serve", "migrate up", "room list", "import room", "import room /nowhere/at/all.json --format=csv",
		"snapshot export room", "room stats UPPER", "tail ../etc", "dev --log-level=loud", "export room --parent=x",
		"room stats room --realtime-url=localhost", "export room --ids --format=opml", "import room /dev/null --format=dir",
		"import room /dev/null", "migrate up --database-url=::", "dev --realtime-addr=0.0.0.0:0", "dev --realtime-addr=:0",
		"dev --realtime-addr=127.0.0.1", "dev --bootstrap-addr=192.0.2.1:0 --realtime-addr=127.0.0.1:0",
		"dev --realtime-addr=127.0.0.1:99999", "serve realtime --addr=0.0.0.0:0 --database-url=x",
		"serve bootstrap --addr=[::]:0 --database-url=x", "room set room --database-url=x", "tail room --after=-1", "tail room --limit=-1",
		"room stats room --realtime-url=http://localhost?x=y", "bench tree --time=0s", "bench tree --count=-1",
		"demo --edits=-1", "demo --pause=-1s", "room set room --restore-on=never",
		"room set room --restore-on=always --database-url=x", "room set UPPER --restore-on=never --create --database-url=x",
	} {
		r := command(t.Context(), nil, nil, strings.Fields(args)...)
		if r.code != exitUsage || r.stderr == "" || r.stdout != "" {
			t.Errorf("canopy %s: exit code %d, stdout %q, stderr %q", args, r.code, r.stdout, r.stderr)
		}
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{nil, {"--help"}, {"dev", "--help"}, {"snapshot", "verify", "-h"}} {
		r := command(t.Context(), nil, nil, args...)
		if r.code != exitOK || !strings.HasPrefix(r.stdout, "Usage: canopy") {
			t.Errorf("%v: exit code %d, %q", args, r.code, r.stdout)
		}
	}
}

// full is a disk with no space left.
type full struct{}

func (full) Write([]byte) (int, error) {
	return 0, &fs.PathError{Op: "write", Path: "/dev/full", Err: syscall.ENOSPC}
}

// A script that redirects a result to a file must not go on without it.
func TestAResultThatCannotBeWrittenIsAFailure(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"version"}, {"version", "--json"}, {"config", "default"}} {
		var stderr lockedBuffer
		code := run(t.Context(), &Env{Stdout: full{}, Stderr: &stderr, LookupEnv: func(string) (string, bool) { return "", false }}, args)
		if code != exitFailure || stderr.String() == "" {
			t.Errorf("%v: exit code %d, stderr %q", args, code, stderr.String())
		}
	}
}

// documented calls fn for every command and flag.
func documented(t *testing.T, command func(path string, node *kong.Node), flag func(path string, f *kong.Flag)) {
	t.Helper()
	parser, err := newParser(t.Context(), &Env{LookupEnv: func(string) (string, bool) { return "", false }})
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range parser.Model.Leaves(true) {
		path := node.Path()
		command(path, node)
		for _, f := range node.Flags {
			flag(path, f)
		}
	}
}

func TestTheReadmeHasEveryCommandFlagAndVariable(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	readme := string(text)
	documented(t,
		func(path string, node *kong.Node) {
			if !strings.Contains(readme, "canopy "+path) {
				t.Errorf("README.md lacks canopy %s", path)
			}
			if node.Help == "" {
				t.Errorf("%s has no help", path)
			}
		},
		func(path string, f *kong.Flag) {
			if f.Name != "help" && !strings.Contains(readme, "`--"+f.Name) {
				t.Errorf("README.md lacks --%s of %s", f.Name, path)
			}
			if name := f.Tag.Get("envar"); name != "" && !strings.Contains(readme, "`"+name+"`") {
				t.Errorf("README.md lacks %s of %s", name, path)
			}
			if f.Help == "" {
				t.Errorf("--%s of %s has no help", f.Name, path)
			}
		})
	for _, code := range []int{exitOK, exitFailure, exitUsage, exitUnknownRoom, exitUnavailable, exitBadInput, exitInterrupted, exitUnread} {
		if !strings.Contains(readme, fmt.Sprintf("| %d |", code)) {
			t.Errorf("README.md lacks exit code %d", code)
		}
	}
}

// One variable must mean the same everywhere.
func TestAVariableBelongsToOneFlag(t *testing.T) {
	t.Parallel()
	flags := map[string]string{}
	documented(t, func(string, *kong.Node) {}, func(path string, f *kong.Flag) {
		name := f.Tag.Get("envar")
		if name == "" {
			return
		}
		flag := f.Name
		if flag == "addr" { // of two services
			flag = strings.TrimPrefix(path, "serve ") + "-addr"
		}
		if other, ok := flags[name]; ok && other != flag {
			t.Errorf("%s is for --%s and for --%s", name, other, flag)
		}
		flags[name] = flag
		if want := "CANOPY_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_")); name != want {
			t.Errorf("--%s of %s has %s, want %s", f.Name, path, name, want)
		}
	})
}

func TestARequiredFlagMayComeFromTheEnvironment(t *testing.T) {
	t.Parallel()
	r := command(t.Context(), nil, map[string]string{"CANOPY_DATABASE_URL": "postgres://127.0.0.1:1/x?connect_timeout=2"}, "migrate", "status")
	if r.code != exitUnavailable {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
	r = command(t.Context(), nil, map[string]string{"CANOPY_LOG_LEVEL": "loud"}, "dev")
	if r.code != exitUsage {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	stopped, cancel := context.WithCancelCause(t.Context())
	cancel(interrupted{os.Interrupt})
	for _, tt := range []struct {
		err  error
		want int
	}{
		{nil, exitOK},
		{errors.New("x"), exitFailure},
		{fmt.Errorf("x: %w", fs.ErrNotExist), exitFailure},
		{&fs.PathError{Op: "read", Path: "x", Err: os.ErrDeadlineExceeded}, exitFailure},
		{usagef("x"), exitUsage},
		{fmt.Errorf("x: %w", wire.ErrUnknownRoom), exitUnknownRoom},
		{unavailable(errors.New("x")), exitUnavailable},
		{fmt.Errorf("x: %w", pgfuncs.ErrNotMigrated), exitUnavailable},
		{wire.NewError(wire.CodeBusy, "x"), exitUnavailable},
		{wire.NewError(wire.CodeForbidden, "x"), exitFailure},
		{fmt.Errorf("x: %w", format.ErrTruncated), exitBadInput},
		{fmt.Errorf("x: %w", outline.ErrFormat), exitBadInput},
		{fmt.Errorf("x: %w", context.Canceled), exitFailure},
	} {
		if got := exitCode(t.Context(), tt.err); got != tt.want {
			t.Errorf("%v: %d, want %d", tt.err, got, tt.want)
		}
	}
	if got := exitCode(stopped, fmt.Errorf("x: %w", context.Canceled)); got != exitInterrupted {
		t.Errorf("after a signal: %d", got)
	}
	if got := exitCode(stopped, errors.New("disk full")); got != exitFailure {
		t.Errorf("an error beside a signal: %d", got)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	r := command(t.Context(), nil, nil, "version")
	if r.code != 0 || !strings.HasPrefix(r.stdout, "canopy ") || !strings.Contains(r.stdout, "go1.") {
		t.Errorf("%+v", r)
	}
	var b buildInfo
	parseJSON(t, command(t.Context(), nil, nil, "version", "--json").stdout, &b)
	if b.Go == "" || b.Platform == "" {
		t.Errorf("%+v", b)
	}
}

// A URL in --json is one for sed and grep, too.
func TestJSONHasNoEscapesForHTML(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if err := printJSON(&Env{Stdout: &out}, "postgres://canopy@/canopy?host=/run&port=5432"); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "\"postgres://canopy@/canopy?host=/run&port=5432\"\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
