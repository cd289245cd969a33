package main

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/canopysync/canopy/realtime"
)

// limitsOf is what serve realtime makes of a command line.
func limitsOf(t *testing.T, args ...string) (realtime.Config, error) {
	t.Helper()
	parsed, err := parserFor(t).Parse(append([]string{"serve", "realtime", "--database-url=x"}, args...))
	if err != nil {
		t.Fatal(err)
	}
	var cfg realtime.Config
	return cfg, parsed.Selected().Target.Addr().Interface().(*serveRealtimeCmd).apply(&cfg)
}

func TestLimitFlags(t *testing.T) {
	t.Parallel()
	for flag, field := range map[string]func(*realtime.Config) any{
		"max-frame":               func(c *realtime.Config) any { return c.Limits.MaxFrame },
		"max-batch":               func(c *realtime.Config) any { return c.Limits.MaxOps },
		"max-value":               func(c *realtime.Config) any { return c.Limits.Op.ValueBytes },
		"max-depth":               func(c *realtime.Config) any { return c.Limits.Op.ValueDepth },
		"max-key":                 func(c *realtime.Config) any { return c.Limits.Op.KeyBytes },
		"max-presence":            func(c *realtime.Config) any { return c.Limits.PresenceBytes },
		"max-pushes":              func(c *realtime.Config) any { return c.Limits.Pushes },
		"max-replies":             func(c *realtime.Config) any { return c.Limits.ReplyBytes },
		"max-sockets":             func(c *realtime.Config) any { return c.Limits.Sockets },
		"max-sockets-per-address": func(c *realtime.Config) any { return c.Limits.SocketsPerAddress },
		"max-sockets-per-user":    func(c *realtime.Config) any { return c.Limits.SocketsPerUser },
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
	} {
		unit := ""
		if _, isTime := field(new(realtime.Config)).(time.Duration); isTime {
			unit = "ns"
		}
		cfg, err := limitsOf(t, "--"+flag+"=77"+unit)
		if value := reflect.ValueOf(field(&cfg)); err != nil || value.Int() != 77 {
			t.Errorf("--%s=77 makes %v (%v)", flag, value, err)
		}
		for _, wrong := range []string{"=0", "=-1"} {
			if _, err := limitsOf(t, "--"+flag+wrong+unit); err == nil || !strings.Contains(err.Error(), "--"+flag) {
				t.Errorf("--%s%s: %v", flag, wrong, err)
			}
		}
	}
	for _, flag := range []string{"--max-key=256", "--max-depth=1001"} {
		if _, err := limitsOf(t, flag); err == nil {
			t.Errorf("%s is accepted", flag)
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
