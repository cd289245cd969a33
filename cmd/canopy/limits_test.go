package main

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/canopysync/canopy/bootstrap"
	"github.com/canopysync/canopy/realtime"
)

// selected is the command of a command line.
func selected[Command any](t *testing.T, args ...string) Command {
	t.Helper()
	parsed, err := parserFor(t).Parse(args)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.Selected().Target.Addr().Interface().(Command)
}

// limitsOf is what serve realtime makes of a command line.
func limitsOf(t *testing.T, args ...string) (cfg realtime.Config, err error) {
	t.Helper()
	c := selected[*serveRealtimeCmd](t, append([]string{"serve", "realtime", "--database-url=x"}, args...)...)
	return cfg, c.apply(&cfg)
}

// snapshotLimitsOf is the same for serve bootstrap.
func snapshotLimitsOf(t *testing.T, args ...string) (cfg bootstrap.Config, err error) {
	t.Helper()
	c := selected[*serveBootstrapCmd](t, append([]string{"serve", "bootstrap", "--database-url=x"}, args...)...)
	return cfg, c.apply(&cfg)
}

func TestSnapshotLimitFlags(t *testing.T) {
	t.Parallel()
	testLimitFlags(t, snapshotLimitsOf, map[string]func(*bootstrap.Config) any{
		"max-snapshots":    func(c *bootstrap.Config) any { return c.MaxSnapshots },
		"snapshot-timeout": func(c *bootstrap.Config) any { return c.MaxDuration },
		"stall-timeout":    func(c *bootstrap.Config) any { return c.StallTimeout },
		"request-timeout":  func(c *bootstrap.Config) any { return c.RequestTimeout },
		"header-timeout":   func(c *bootstrap.Config) any { return c.HeaderTimeout },
		"drain-timeout":    func(c *bootstrap.Config) any { return c.DrainTimeout },
		"spool-bytes":      func(c *bootstrap.Config) any { return c.SpoolBytes },
		"spool-age":        func(c *bootstrap.Config) any { return c.SpoolAge },
		"spool-tail":       func(c *bootstrap.Config) any { return c.SpoolTail },
	})
}

func TestLimitFlags(t *testing.T) {
	t.Parallel()
	testLimitFlags(t, limitsOf, map[string]func(*realtime.Config) any{
		"max-frame":               func(c *realtime.Config) any { return c.Limits.MaxFrame },
		"max-batch":               func(c *realtime.Config) any { return c.Limits.MaxOps },
		"max-value":               func(c *realtime.Config) any { return c.Limits.Op.ValueBytes },
		"max-depth":               func(c *realtime.Config) any { return c.Limits.Op.ValueDepth },
		"max-key":                 func(c *realtime.Config) any { return c.Limits.Op.KeyBytes },
		"max-presence":            func(c *realtime.Config) any { return c.Limits.PresenceBytes },
		"max-name":                func(c *realtime.Config) any { return c.Limits.NameBytes },
		"max-pushes":              func(c *realtime.Config) any { return c.Limits.Pushes },
		"max-replies":             func(c *realtime.Config) any { return c.Limits.ReplyBytes },
		"max-sockets":             func(c *realtime.Config) any { return c.Limits.Sockets },
		"max-sockets-per-address": func(c *realtime.Config) any { return c.Limits.SocketsPerAddress },
		"max-sockets-per-user":    func(c *realtime.Config) any { return c.Limits.SocketsPerUser },
		"max-messages-per-second": func(c *realtime.Config) any { return c.Limits.MessagesPerSecond },
		"max-ops-per-second":      func(c *realtime.Config) any { return c.Limits.OpsPerSecond },
		"tail-bytes":              func(c *realtime.Config) any { return c.Limits.TailBytes },
		"idle-rooms":              func(c *realtime.Config) any { return c.Limits.IdleRooms },
		"idle-bytes":              func(c *realtime.Config) any { return c.Limits.IdleBytes },
		"header-timeout":          func(c *realtime.Config) any { return c.Timing.Header },
		"body-timeout":            func(c *realtime.Config) any { return c.Timing.Body },
		"hello-timeout":           func(c *realtime.Config) any { return c.Timing.Hello },
		"ping-interval":           func(c *realtime.Config) any { return c.Timing.Ping },
		"lag-timeout":             func(c *realtime.Config) any { return c.Timing.Lag },
		"drain-timeout":           func(c *realtime.Config) any { return c.Timing.Drain },
	})
	for _, flag := range []string{"--max-key=256", "--max-depth=1001"} {
		if _, err := limitsOf(t, flag); err == nil {
			t.Errorf("%s is accepted", flag)
		}
	}
}

// testLimitFlags checks that each flag sets a field of what parse makes of it, and has to be positive.
func testLimitFlags[Config any](t *testing.T, parse func(*testing.T, ...string) (Config, error), fields map[string]func(*Config) any) {
	t.Helper()
	for flag, field := range fields {
		unit := ""
		if _, isTime := field(new(Config)).(time.Duration); isTime {
			unit = "ns"
		}
		cfg, err := parse(t, "--"+flag+"=77"+unit)
		if value := reflect.ValueOf(field(&cfg)); err != nil || value.Int() != 77 {
			t.Errorf("--%s=77 makes %v (%v)", flag, value, err)
		}
		for _, wrong := range []string{"=0", "=-1"} {
			if _, err := parse(t, "--"+flag+wrong+unit); err == nil || !strings.Contains(err.Error(), "--"+flag) {
				t.Errorf("--%s%s: %v", flag, wrong, err)
			}
		}
	}
}

// What the flags say is the default is that of package realtime, too.
func TestLimitsByDefault(t *testing.T) {
	t.Parallel()
	cfg, err := limitsOf(t)
	if err != nil {
		t.Fatal(err)
	}
	want := realtime.Config{}.WithDefaults()
	set := func(from, to reflect.Value) { // what has no flag
		for i := range from.NumField() {
			if to.Field(i).IsZero() {
				to.Field(i).Set(from.Field(i))
			}
		}
	}
	set(reflect.ValueOf(want.Limits), reflect.ValueOf(&cfg.Limits).Elem())
	set(reflect.ValueOf(want.Timing), reflect.ValueOf(&cfg.Timing).Elem())
	if cfg.Limits != want.Limits || cfg.Timing != want.Timing {
		t.Errorf("the flags make\n%+v\n%+v\nwant\n%+v\n%+v", cfg.Limits, cfg.Timing, want.Limits, want.Timing)
	}
}

func TestSnapshotLimitsByDefault(t *testing.T) {
	t.Parallel()
	cfg, err := snapshotLimitsOf(t)
	if err != nil {
		t.Fatal(err)
	}
	want := bootstrap.Config{}.WithDefaults()
	want.Logger, want.Registry, want.Authorize, want.Middleware = nil, nil, nil, nil // no limits
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("the flags make\n%+v\nwant\n%+v", cfg, want)
	}
}
