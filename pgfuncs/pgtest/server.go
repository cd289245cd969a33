//go:build unix

package pgtest

import (
	"context"
	"os"
	"testing"

	"github.com/canopysync/canopy/pgfuncs/localpg"
)

// NewServer starts a server of the test's own, with the settings of production: what is committed
// survives Kill. Its database at Server.URL is migrated. It is removed when the test ends.
//
//	server := pgtest.NewServer(t)
//	server.Kill(ctx)     // as kill -9 of all its processes
//	server.Restart(ctx)  // same data, same URL
//
// Making one takes a second or two; New is for tests that leave the server alone.
func NewServer(t testing.TB, opts ...Option) *localpg.Server {
	t.Helper()
	ctx := t.Context()
	dir, err := os.MkdirTemp("", dirPattern)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	server, err := localpg.Start(ctx, localpg.Config{DataDir: dir})
	if err != nil {
		_ = os.RemoveAll(dir)
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() {
		if err := stopAndRemove(context.WithoutCancel(ctx), server, dir); err != nil {
			t.Errorf("pgtest: %v", err)
		}
	})
	if collect(opts).empty {
		return server
	}
	if err := migrate(ctx, server.URL()); err != nil {
		t.Fatalf("pgtest: migrate: %v", err)
	}
	return server
}
