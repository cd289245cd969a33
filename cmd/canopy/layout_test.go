package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const modulePath = "github.com/canopysync/canopy"

// layers is the direction of imports: a package may import packages of lower layers, and of its own
// directory. The longest prefix counts.
var layers = map[string]int{
	"moveop":           0,
	"tree":             1,
	"sql":              1,
	"realtime/wire":    1,
	"bootstrap/format": 1,
	"realtime":         2,
	"realtime/auth":    3, // for cmd alone: the services have hooks
	"realtime/nats":    3, // the same
	"bootstrap":        2,
	"client":           2,
	"pgfuncs":          2,
	"proptest":         3, // drives all engines; for tests alone
	"cmd":              4,
	"pgfuncs/pgtest":   3, // for tests alone
}

// exclusive are libraries that only some packages may depend on, be it through others. Cmd may use
// everything.
var exclusive = map[string][]string{
	"github.com/jackc/pgx/v5":                    {"pgfuncs"},
	"github.com/fergusstrange/embedded-postgres": {"pgfuncs"},
	"modernc.org/sqlite":                         {"client"},
	"github.com/gorilla/websocket":               {"realtime", "client"},
	"github.com/labstack/echo/v4":                {"realtime", "bootstrap"},
	"github.com/prometheus/client_golang":        {"realtime", "bootstrap"},
	"github.com/leanovate/gopter":                {"proptest"},
	"github.com/golang-jwt/jwt/v5":               {"realtime"},
	"github.com/nats-io/nats.go":                 {"realtime"},
	"github.com/nats-io/nats-server/v2":          {},
	"github.com/alecthomas/kong":                 {},
	"github.com/BurntSushi/toml":                 {},
	"go.opentelemetry.io/otel/trace":             {"realtime"}, // the interface, without anything behind it
	"go.opentelemetry.io/otel/sdk":               {},
	"go.opentelemetry.io/otel/exporters":         {},
	"go.opentelemetry.io/contrib":                {},
	"github.com/exaring/otelpgx":                 {},
	"github.com/schollz/progressbar/v3":          {},
}

// goPackage is what go list says of one.
type goPackage struct {
	ImportPath string
	Standard   bool
	Imports    []string
	Deps       []string
	GoFiles    []string
}

// local is the path below the module, ok if the package is of it.
func local(path string) (string, bool) {
	return strings.CutPrefix(path, modulePath+"/")
}

func listPackages(t *testing.T) map[string]goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Standard,Imports,Deps,GoFiles", modulePath+"/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	packages := map[string]goPackage{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := d.Decode(&p); err == io.EOF {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages[p.ImportPath] = p
	}
}

// layerOf is the layer of a package and the prefix that it has it by.
func layerOf(path string) (prefix string, layer int, ok bool) {
	for p, l := range layers {
		if (path == p || strings.HasPrefix(path, p+"/")) && len(p) >= len(prefix) {
			prefix, layer, ok = p, l, true
		}
	}
	return prefix, layer, ok
}

func TestImportsGoOneWay(t *testing.T) {
	t.Parallel()
	for path, p := range listPackages(t) {
		from, ok := local(path)
		if !ok {
			continue
		}
		prefix, layer, ok := layerOf(from)
		if !ok {
			t.Errorf("%s has no layer: is it a new top-level directory?", from)
			continue
		}
		for _, i := range p.Imports {
			to, ok := local(i)
			if !ok {
				continue
			}
			if toPrefix, toLayer, _ := layerOf(to); toPrefix != prefix && toLayer >= layer {
				t.Errorf("%s imports %s: imports go downwards only", from, to)
			}
		}
	}
}

func TestPackagesThatStandOnTheStandardLibrary(t *testing.T) {
	t.Parallel()
	packages := listPackages(t)
	for _, path := range []string{"moveop", "tree", "sql"} {
		p, ok := packages[modulePath+"/"+path]
		if !ok {
			t.Errorf("%s is missing", path)
		}
		for _, dep := range p.Deps {
			below, isLocal := local(dep)
			switch {
			case isLocal && path == "tree" && below == "moveop":
			case isLocal:
				t.Errorf("%s depends on %s", path, below)
			case !packages[dep].Standard:
				t.Errorf("%s depends on %s", path, dep)
			}
		}
	}
}

// TestLibrariesStayWhereTheyBelong checks among others that a program that embeds the client gets no
// Postgres driver with it, and that nothing gets a command line.
func TestLibrariesStayWhereTheyBelong(t *testing.T) {
	t.Parallel()
	packages := listPackages(t)
	for path, p := range packages {
		from, ok := local(path)
		if !ok || strings.HasPrefix(from, "cmd/") || len(p.GoFiles) == 0 {
			continue
		}
		top, _, _ := strings.Cut(from, "/")
		for library, owners := range exclusive {
			uses := func(dep string) bool { return dep == library || strings.HasPrefix(dep, library+"/") }
			if slices.ContainsFunc(p.Deps, uses) && !slices.Contains(owners, top) {
				t.Errorf("%s depends on %s", from, library)
			}
		}
	}
}

// Packages made for tests are in no program.
func TestNoProgramContainsTestPackages(t *testing.T) {
	t.Parallel()
	for path, p := range listPackages(t) {
		if from, ok := local(path); !ok || !strings.HasPrefix(from, "cmd/") {
			continue
		}
		for _, dep := range p.Deps {
			below, _ := local(dep)
			if slices.Contains([]string{"proptest", "pgfuncs/pgtest", "bootstrap/format/formattest", "realtime/transporttest", "realtime/wire/apitest"}, below) {
				t.Errorf("%s contains %s", path, dep)
			}
		}
	}
}
