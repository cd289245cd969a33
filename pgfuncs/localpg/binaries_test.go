//go:build unix

package localpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// worldDir is t.TempDir for what another user, too, has to get to when root runs the tests.
func worldDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "canopy-localpg-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// install puts programs that only know their version into a directory.
func install(t *testing.T, dir, version string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\necho 'postgres (PostgreSQL) %s'\n", version)
	for _, program := range []string{"postgres", "initdb"} {
		if err := os.WriteFile(filepath.Join(dir, program), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func testAccount(t *testing.T) account {
	t.Helper()
	a, err := accountFor(filepath.Join(t.TempDir(), "none"))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestFindNewestFirst(t *testing.T) {
	t.Parallel()
	root := worldDir(t)
	for dir, version := range map[string]string{
		"lib/14/bin": "14.9",
		"lib/15/bin": "15.18 (Debian 15.18-0+deb12u1)",
		"lib/16/bin": "16beta1",
		"lib/9/bin":  "9.6.24",
		"lib/x/bin":  "what?",
		"cellar/bin": "15.18 (Homebrew)",
		"lib/18/bin": "18.1",
	} {
		install(t, filepath.Join(root, dir), version)
	}
	if err := os.Remove(filepath.Join(root, "lib/18/bin/initdb")); err != nil {
		t.Fatal(err)
	}
	links := filepath.Join(root, "links")
	if err := os.Mkdir(links, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(root, "cellar/bin/postgres"), filepath.Join(links, "postgres")); err != nil {
		t.Fatal(err)
	}
	f := finder{
		path:   "relative:" + filepath.Join(root, "missing") + ":" + links,
		places: []string{filepath.Join(root, "lib/*/bin"), filepath.Join(root, "cell*/bin")},
	}
	var got []string
	for _, inst := range f.find(t.Context(), testAccount(t)) {
		dir, err := filepath.Rel(root, inst.bin)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, dir+" "+inst.version.String())
	}
	want := []string{"lib/16/bin 16.0", "cellar/bin 15.18", "lib/15/bin 15.18"}
	if !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}

func TestChoose(t *testing.T) {
	t.Parallel()
	root := worldDir(t)
	for _, major := range []string{"14", "15", "17"} {
		install(t, filepath.Join(root, major), major+".1")
	}
	all := finder{places: []string{filepath.Join(root, "*")}}
	for _, test := range []struct {
		name    string
		places  finder
		bin     string
		major   int
		want    int
		version bool  // whether a VersionError is wanted
		err     error // or this
	}{
		{name: "newest", places: all, want: 17},
		{name: "the cluster's", places: all, major: 15, want: 15},
		{name: "not the cluster's", places: all, major: 99, version: true},
		{name: "nothing", err: ErrNoPostgres},
		{name: "explicit", places: all, bin: "15", want: 15},
		{name: "explicit, not the cluster's", places: all, bin: "15", major: 17, version: true},
		{name: "explicit, too old", places: all, bin: "14", err: ErrNoPostgres},
		{name: "explicit, empty", places: all, bin: "none", err: ErrNoPostgres},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			cfg := Config{Repository: noRepository}
			if test.bin != "" {
				cfg.BinDir = filepath.Join(root, test.bin)
			}
			inst, err := choose(t.Context(), testAccount(t), cfg, test.places, test.major)
			if _, is := errors.AsType[*VersionError](err); is != test.version {
				t.Errorf("answer %v", err)
			}
			if !test.version && !errors.Is(err, test.err) {
				t.Errorf("answer %v, want %v", err, test.err)
			}
			if inst.version.Major != test.want && err == nil {
				t.Errorf("chose %v, want %d", inst, test.want)
			}
		})
	}
}

func TestChooseWithoutTimeDoesNotFetch(t *testing.T) {
	repo := publish(t, versionScripts())
	cfg := serve(t, repo)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := choose(ctx, testAccount(t), cfg, finder{}, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("answer %v", err)
	}
	if _, err := os.Stat(cfg.CacheDir); err == nil {
		t.Error("it went to fetch")
	}
}
