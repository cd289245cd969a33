//go:build unix

// Package pgtest gives tests databases: fresh, migrated, and gone when the test ends. Nothing has to
// be set up for it, and root may run the tests.
//
// The first call of New in a test process starts a private server (see pgfuncs/localpg), makes a
// template database and migrates it; each New then clones a template, in some tens of milliseconds. Test
// processes share nothing, so any number of them can run at once. Main, called by the package's
// TestMain, stops the server when the tests are through:
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
//
// A test process that dies before that takes its server along on Linux; the next test process of the
// same user removes what was left behind.
//
// New and NewServer may be called by parallel tests.
package pgtest

import (
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/canopysync/canopy/pgfuncs"
)

// The collations to test under.
const (
	// C orders by bytes. It is the default.
	C = "C"
	// English orders like a dictionary and ignores case at first: a database in which a forgotten
	// COLLATE "C" shows. Where the system does not have the locale, ICU's takes its place.
	English = "en_US.UTF-8"
)

// Option changes what New or NewServer makes.
type Option func(*options)

type options struct {
	collation string
	empty     bool
}

// WithCollation makes the database's default collation C or English. It does not change NewServer's.
func WithCollation(name string) Option {
	return func(o *options) { o.collation = name }
}

// Empty leaves the database without Canopy's schema.
func Empty() Option {
	return func(o *options) { o.empty = true }
}

func collect(opts []Option) options {
	o := options{collation: C}
	for _, opt := range opts {
		opt(&o)
	}
	return o
}

// New returns the URL of a fresh, migrated database. It is dropped, with whoever is still connected
// to it, when the test ends.
func New(t testing.TB, opts ...Option) string {
	t.Helper()
	ctx := t.Context()
	c, err := shared.get(ctx)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	name, err := c.clone(ctx, collect(opts))
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() {
		if err := c.drop(context.WithoutCancel(ctx), name); err != nil {
			t.Errorf("pgtest: drop database: %v", err)
		}
	})
	return c.server.DatabaseURL(name)
}

// Main runs the tests of a package, stops the server that they used, and exits: with 1 too if they
// left goroutines running. To be called by TestMain.
func Main(m *testing.M, opts ...goleak.Option) {
	goleak.VerifyTestMain(runner{m}, opts...)
}

// runner is a testing.M that stops the shared server before goroutines are counted.
type runner struct{ m *testing.M }

func (r runner) Run() int {
	code := r.m.Run()
	if err := shared.stop(context.Background()); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		return 1
	}
	return code
}

// migrate brings a database's schema up to date.
func migrate(ctx context.Context, url string) error {
	db, err := pgfuncs.Open(ctx, url)
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.Migrate(ctx)
	return err
}
