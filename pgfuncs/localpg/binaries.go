//go:build unix

package localpg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// minMajor is the oldest major version that supports Canopy's functions.
const minMajor = 15

// Version is a version of PostgreSQL, such as 15.18.
type Version struct{ Major, Minor int }

func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

func (v Version) compare(o Version) int {
	if v.Major != o.Major {
		return v.Major - o.Major
	}
	return v.Minor - o.Minor
}

// usualPlaces are patterns of directories to search for binaries that are not in PATH.
var usualPlaces = []string{
	"/usr/lib/postgresql/*/bin",          // Debian, Ubuntu
	"/usr/pgsql-*/bin",                   // Fedora, Red Hat: the PostgreSQL project's packages
	"/usr/lib64/pgsql/bin",               // Fedora: its own side-by-side packages
	"/usr/lib/postgresql*/bin",           // SUSE, Gentoo
	"/usr/libexec/postgresql*",           // Alpine
	"/opt/homebrew/opt/postgresql@*/bin", // Homebrew on Apple silicon
	"/usr/local/opt/postgresql@*/bin",    // Homebrew on Intel
	"/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
	"/usr/local/pgsql/bin", // built from source
}

// installation is a directory of binaries that can run a cluster.
type installation struct {
	bin     string
	version Version
}

func (i installation) program(name string) string { return filepath.Join(i.bin, name) }

// finder searches for installations.
type finder struct {
	path   string   // as $PATH
	places []string // glob patterns
}

// find lists the usable installations, newest first; among equal versions, those in the path come first.
func (f finder) find(ctx context.Context, a account) []installation {
	dirs := filepath.SplitList(f.path)
	for _, pattern := range f.places {
		matches, _ := filepath.Glob(pattern) // the patterns are well-formed constants
		dirs = append(dirs, matches...)
	}
	var found []installation
	seen := make(map[string]bool)
	for _, dir := range dirs {
		bin, err := binOf(dir)
		if err != nil || seen[bin] {
			continue
		}
		seen[bin] = true
		if inst, err := inspect(ctx, a, bin); err == nil && inst.version.Major >= minMajor {
			found = append(found, inst)
		}
	}
	slices.SortStableFunc(found, func(x, y installation) int { return y.version.compare(x.version) })
	return found
}

// binOf returns the directory that really contains dir's programs: Homebrew and Fedora put links to them in PATH, not
// always to all of them.
func binOf(dir string) (string, error) {
	if !filepath.IsAbs(dir) {
		return "", fmt.Errorf("relative path %q", dir)
	}
	server, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres"))
	if err != nil {
		return "", err
	}
	bin := filepath.Dir(server)
	_, err = os.Stat(filepath.Join(bin, "initdb"))
	return bin, err
}

var versionOutput = regexp.MustCompile(`\(PostgreSQL\) (\d+)(?:\.(\d+))?`)

// inspect asks the server in bin for its version.
func inspect(ctx context.Context, a account, bin string) (installation, error) {
	program := filepath.Join(bin, "postgres")
	if err := a.reach(ctx, program); err != nil {
		return installation{}, err
	}
	out, err := a.command(ctx, program, "--version").Output()
	if err != nil {
		return installation{}, fmt.Errorf("%s --version: %w", program, err)
	}
	m := versionOutput.FindSubmatch(out)
	if m == nil {
		return installation{}, fmt.Errorf("%s --version: unexpected answer %q", program, out)
	}
	major, _ := strconv.Atoi(string(m[1])) // digits, by the pattern
	minor, _ := strconv.Atoi(string(m[2])) // digits or, for a beta, nothing
	return installation{bin: bin, version: Version{Major: major, Minor: minor}}, nil
}

// choose returns the installation for a cluster of the given major version, or for a new one if it is 0.
func choose(ctx context.Context, a account, cfg Config, f finder, major int) (installation, error) {
	if cfg.BinDir != "" {
		return explicit(ctx, a, cfg.BinDir, major)
	}
	found := f.find(ctx, a)
	if ctx.Err() != nil {
		return installation{}, context.Cause(ctx) // not "none found", which would start a download
	}
	for _, inst := range found {
		if major == 0 || inst.version.Major == major {
			return inst, nil
		}
	}
	inst, err := fetch(ctx, a, cfg, major)
	if errors.Is(err, ErrNoPostgres) && len(found) > 0 {
		return inst, errors.Join(versionError(major, found...), err)
	}
	return inst, err
}

func explicit(ctx context.Context, a account, dir string, major int) (installation, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return installation{}, err
	}
	bin, err := binOf(dir)
	if err != nil {
		return installation{}, fmt.Errorf("%s: %w", dir, errors.Join(ErrNoPostgres, err))
	}
	inst, err := inspect(ctx, a, bin)
	switch {
	case err != nil:
		return inst, err
	case inst.version.Major < minMajor:
		return inst, fmt.Errorf("%s has PostgreSQL %v: %w", dir, inst.version, ErrNoPostgres)
	case major != 0 && inst.version.Major != major:
		return inst, versionError(major, inst)
	}
	return inst, nil
}

func versionError(need int, found ...installation) error {
	e := &VersionError{Need: need}
	for _, inst := range found {
		e.Found = append(e.Found, inst.version.Major)
	}
	return e
}

// clusterMajor returns the major version of the cluster at data, or 0 if there is none.
func clusterMajor(data string) (int, error) {
	text, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("read version of cluster: %w", err)
	}
	return major, nil
}
