package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

func TestFlagsGoBeforeTheEnvironmentBeforeTheFileBeforeDefaults(t *testing.T) {
	t.Parallel()
	file := write(t, "canopy.toml", "realtime-url = 'http://file'\n")
	other := write(t, "other.toml", "realtime-url = 'http://other'\n")
	none := write(t, "none.toml", "realtime-url = ''\nmax-sockets = 7\n")
	type vars map[string]string
	for _, tt := range []struct {
		env  vars
		args string
		want string
	}{
		{nil, "", "127.0.0.1:8420"},
		{vars{"CANOPY_REALTIME_URL": ""}, "", "127.0.0.1:8420"},
		{nil, "--config=" + none, "127.0.0.1:8420"},
		{nil, "--config=" + file, "file"},
		{vars{"CANOPY_CONFIG": file}, "", "file"},
		{vars{"CANOPY_CONFIG": file}, "--config=" + other, "other"},
		{vars{"CANOPY_CONFIG": file, "CANOPY_REALTIME_URL": ""}, "", "file"},
		{vars{"CANOPY_CONFIG": file, "CANOPY_REALTIME_URL": "http://env"}, "", "env"},
		{vars{"CANOPY_REALTIME_URL": "http://env"}, "--config=" + file, "env"},
		{vars{"CANOPY_REALTIME_URL": "http://env"}, "--realtime-url=http://flag", "flag"},
		{vars{"CANOPY_CONFIG": file, "CANOPY_REALTIME_URL": "http://env"}, "--realtime-url=http://flag", "flag"},
		{vars{"CANOPY_CONFIG": file}, "--realtime-url=http://flag", "flag"},
	} {
		parser, err := newParser(t.Context(), &Env{LookupEnv: func(name string) (string, bool) { v, ok := tt.env[name]; return v, ok }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, err := parser.Parse(strings.Fields("room stats r " + tt.args))
		if err != nil {
			t.Fatal(err)
		}
		if got := ctx.Selected().Target.Addr().Interface().(*roomStatsCmd).RealtimeURL; got != "http://"+tt.want {
			t.Errorf("%v %v: %s", tt.env, tt.args, got)
		}
	}
}

// The file that config default prints has every setting, says what everything is by default, and is good.
func TestTheDefaultConfiguration(t *testing.T) {
	t.Parallel()
	r := command(t.Context(), nil, nil, "config", "default")
	if r.code != exitOK {
		t.Fatalf("%+v", r)
	}
	file := write(t, "default.toml", r.stdout)
	if r := command(t.Context(), nil, nil, "config", "check", file); r.code != exitOK {
		t.Errorf("as it is printed: %+v", r)
	}
	var lines []string
	for line := range strings.Lines(r.stdout) {
		if setting, ok := strings.CutPrefix(line, "#"); ok && !strings.HasPrefix(setting, " ") {
			line = setting
		}
		lines = append(lines, line)
	}
	file = write(t, "all.toml", strings.Join(lines, ""))
	var checked checkedConfig
	parseJSON(t, command(t.Context(), nil, nil, "config", "check", "--json", file).stdout, &checked)

	var keys []string
	defaults := map[string]string{}
	documented(t, func(string, *kong.Node) {}, func(path string, f *kong.Flag) {
		if key := settingKey(f); key != "" {
			keys = append(keys, key)
			if d, ok := defaults[key]; ok && d != f.Default {
				t.Errorf("%s has the default %q in one command and %q in %s", key, d, f.Default, path)
			}
			defaults[key] = f.Default
		}
	})
	if slices.Sort(keys); !slices.Equal(checked.Keys, slices.Compact(keys)) {
		t.Errorf("the file has %v, want %v", checked.Keys, slices.Compact(keys))
	}
	loaded, err := loadConfig(file, parserFor(t).Model)
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range loaded.values {
		if text := strings.Trim(fmt.Sprint(value), "[]"); text != defaults[key] && (text != "false" || defaults[key] != "") {
			t.Errorf("%s is %q in the file, by default %q", key, text, defaults[key])
		}
	}
}

func TestWrongConfigurations(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"max-socket = 1":                        {"max-socket:", "no such setting"},
		"MAX_SOCKETS = 1":                       {"MAX_SOCKETS:", "max-sockets"},
		"CANOPY_MAX_SOCKETS = 1":                {"CANOPY_MAX_SOCKETS:", "max-sockets"},
		"output = 'x'":                          {"output:", "no such setting"}, // of one call
		"config = 'x'":                          {"config:", "no such setting"},
		"[serve]\nmax-sockets = 1":              {"serve:", "sections"},
		"max-sockets = '5'":                     {"max-sockets:", "whole number"},
		"max-sockets = 1.5":                     {"max-sockets:", "whole number"},
		"max-sockets = 99999999999999999999":    {"max-sockets", "range"},
		"max-sockets = 0":                       {"max-sockets", "positive"},
		"max-sockets = -1":                      {"max-sockets", "positive"},
		"drain-timeout = 5":                     {"drain-timeout:", "duration"},
		"drain-timeout = 'soon'":                {"drain-timeout:", "soon"},
		"insecure-no-auth = 'yes'":              {"insecure-no-auth:", "true or false"},
		"allow-origin = 'https://a'":            {"allow-origin:", "list"},
		"allow-origin = [1]":                    {"allow-origin:", "list"},
		"allow-origin = ['a']":                  {"origin", `"a"`},
		"hints = 'pigeons'":                     {"hints:", "postgres"},
		"log-level = 'loud'":                    {"log-level:", "loud"},
		"database-url = 5":                      {"database-url:", "string"},
		"trusted-proxy = ['10.0.0.1']":          {"trusted-proxy", "10.0.0.1"},
		"max-snapshots = -1":                    {"--max-snapshots", "positive"},
		"max-sockets = 1\nmax-sockets = 2":      {"max-sockets", "line 2"},
		"max-sockets 1":                         {"line 1"},
		"max-sockets = 'x'\nhints = 1\nz = 1":   {"max-sockets:", "hints:", "z:"},
		"max-ops-per-second = 1":                {"OpsPerSecond"},
		"max-ops-per-second = 9007199254740993": nil,
	} {
		r := command(t.Context(), nil, nil, "config", "check", write(t, "canopy.toml", text))
		if want == nil {
			if r.code != exitOK {
				t.Errorf("%s: %+v", text, r)
			}
			continue
		}
		if r.code != exitUsage || r.stdout != "" {
			t.Errorf("%s: %+v", text, r)
		}
		for _, part := range want {
			if !strings.Contains(r.stderr, part) {
				t.Errorf("%s: %s, want %q in it", text, r.stderr, part)
			}
		}
	}
	wrong := write(t, "wrong.toml", "nonsense = 1")
	for _, args := range []string{"version --config=" + wrong, "version --config=/nowhere/canopy.toml", "config check /nowhere/canopy.toml", "config check"} {
		if r := command(t.Context(), nil, nil, strings.Fields(args)...); r.code != exitUsage || r.stderr == "" {
			t.Errorf("%s: %+v", args, r)
		}
	}
	if r := command(t.Context(), nil, map[string]string{"CANOPY_CONFIG": wrong}, "version"); r.code != exitUsage {
		t.Errorf("%+v", r)
	}
}

func TestTheConfigurationOfTheDeployment(t *testing.T) {
	t.Parallel()
	if r := command(t.Context(), nil, nil, "config", "check", "deploy/canopy.toml"); r.code != exitOK {
		t.Errorf("%+v", r)
	}
}

func parserFor(t *testing.T) *kong.Kong {
	t.Helper()
	parser, err := newParser(t.Context(), &Env{LookupEnv: func(string) (string, bool) { return "", false }})
	if err != nil {
		t.Fatal(err)
	}
	return parser
}

// Everything that a service takes can be set in every way, so that a file is enough to run one.
func TestEveryFlagOfAServiceIsASetting(t *testing.T) {
	t.Parallel()
	known := settings(parserFor(t).Model)
	documented(t, func(string, *kong.Node) {}, func(path string, f *kong.Flag) {
		if key := settingKey(f); strings.HasPrefix(path, "serve") && known[key] == nil && f.Name != "help" {
			t.Errorf("--%s of %s is none of %v", f.Name, path, slices.Collect(maps.Keys(known)))
		}
	})
}
