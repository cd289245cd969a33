package bench_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/canopysync/canopy/cmd/canopy/internal/bench"
	"github.com/canopysync/canopy/pgfuncs/pgtest"
)

// TestMain is the load process too, where it is told so.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "load" {
		if err := bench.Load(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	pgtest.Main(m)
}

// pieces notes what was worked on.
type pieces struct {
	mu    sync.Mutex
	begun []string
	ended int
}

func (p *pieces) Start(what string, _ int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begun = append(p.begun, what)
}

func (p *pieces) Add(int64) {}

func (p *pieces) End() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended++
}

// Every section measures all that it promises, small: what the figures are does not matter here. One after the other:
// some look at the heap of the process, which shrinks where another one has just ended.
func TestSections(t *testing.T) {
	for _, c := range []struct {
		name            string
		measure         func(context.Context, bench.Config) (bench.Section, error)
		database        bool
		results, tables int
	}{
		{"tree", bench.Tree, false, 10, 6},
		{"sqlite", bench.SQLite, false, 3, 6},
		{"sql", bench.SQL, true, 4, 5},
		{"relay", bench.Relay, true, 5, 0},
		{"push", bench.Push, true, 3, 0},
		{"connections", bench.Connections, true, 2, 0},
		{"client", bench.Client, true, 10, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			progress := &pieces{}
			cfg := bench.Config{
				Nodes: 1000, Sockets: 200, Rounds: 1, Time: 100 * time.Millisecond, Growth: true,
				Load: []string{os.Args[0], "load"}, Dir: t.TempDir(), Progress: progress,
			}
			if c.database {
				cfg.DatabaseURL = pgtest.New(t)
			}
			s, err := c.measure(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			if s.Name != c.name || len(s.Results) != c.results || len(s.Growth) != c.tables {
				t.Errorf("section %s has %d results and %d tables", s.Name, len(s.Results), len(s.Growth))
			}
			checkFigures(t, s)
			if len(progress.begun) == 0 || progress.ended != len(progress.begun) {
				t.Errorf("%d of %d pieces of work ended", progress.ended, len(progress.begun))
			}
			if left, err := os.ReadDir(cfg.Dir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func checkFigures(t *testing.T, s bench.Section) {
	t.Helper()
	for _, r := range s.Results {
		figure := r.Engine
		if r.Limit > 0 {
			figure = r.Ratio
			if got := r.Engine / r.Limit; got != r.Ratio {
				t.Errorf("%s: ratio %v in place of %v", r.Name, r.Ratio, got)
			}
		}
		reached := r.Target == 0 || figure <= r.Target
		if r.Rate {
			reached = figure >= r.Target
		}
		if r.Target == 0 && r.Limit == 0 {
			t.Errorf("%s is compared with nothing", r.Name)
		}
		if r.Engine <= 0 || r.Rounds < 1 || r.Reached != reached {
			t.Errorf("%s: %+v", r.Name, r)
		}
	}
	for _, g := range s.Growth {
		if len(g.Points) < 3 || g.Points[0].Times != 1 {
			t.Errorf("%s: %+v", g.Name, g.Points)
		}
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := bench.Tree(ctx, bench.Config{Nodes: 1000, Rounds: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// stopping ends what is measured when the first piece of work begins.
type stopping struct{ cancel context.CancelFunc }

func (s stopping) Start(string, int64) { s.cancel() }
func (stopping) Add(int64)             {}
func (stopping) End()                  {}

// The load process is killed then. That is no failure of its own.
func TestCancelWithALoad(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := bench.Connections(ctx, bench.Config{
		Sockets: 200, Load: []string{os.Args[0], "load"}, DatabaseURL: pgtest.New(t), Progress: stopping{cancel},
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Without enough open files nothing is begun, and the user is told what to do.
func TestTooFewFiles(t *testing.T) {
	t.Parallel()
	_, err := bench.Connections(t.Context(), bench.Config{Sockets: 2_000_000_000})
	if err == nil || !strings.Contains(err.Error(), "ulimit -n") {
		t.Errorf("got %v", err)
	}
}

// The load process ends with the one that told it what to do, and says what went wrong.
func TestLoadEnds(t *testing.T) {
	t.Parallel()
	if err := bench.Load(t.Context(), strings.NewReader(""), io.Discard); err != nil {
		t.Error(err)
	}
	if err := bench.Load(t.Context(), strings.NewReader("nonsense"), io.Discard); err == nil {
		t.Error("nonsense was obeyed")
	}
}

func TestWrite(t *testing.T) {
	t.Parallel()
	s := bench.Section{
		Name: "sql", Engine: "PostgreSQL 15",
		Results: []bench.Result{
			{Name: "moves", Unit: "ns/op", Of: "rows", Limit: 400, Engine: 1600, Ratio: 4, Target: 5, Reached: true, Rounds: 7},
			{Name: "heap", Unit: "B/node", Engine: 12_250, Target: 200, Rounds: 3},
			{Name: "sent", Unit: "frames/s", Of: "others", Limit: 4000, Engine: 3000, Ratio: 0.75, Target: 0.7, Rate: true, Reached: true, Rounds: 5},
		},
		Growth: []bench.Growth{{
			Name: "a move", Of: "depth", Unit: "ns/op", Expect: "constant",
			Points: []bench.Point{{Size: 10, Value: 50_000, Times: 1}, {Size: 100_000, Value: 250_000_000, Times: 5000}},
		}},
	}
	var b strings.Builder
	if err := s.Write(&b); err != nil {
		t.Fatal(err)
	}
	want := `### sql (PostgreSQL 15)

| measure | compared with | limit  | engine   | times the limit | target     | reached | rounds |
|---------|---------------|--------|----------|-----------------|------------|---------|--------|
| moves   | rows          | 400 ns | 1.6 µs   | 4×              | ≤ 5×       | yes     | 7      |
| heap    |               |        | 12,250 B/node |            | ≤ 200 B/node | no    | 3      |
| sent    | others        | 4,000 frames/s | 3,000 frames/s | 0.75× | ≥ 0.70× | yes | 5      |

a move, by depth (to be: constant):

| depth | 10      | 100,000 |
|-------|---------|---------|
| cost  | 50.0 µs | 250 ms  |
| times | 1×      | 5000×   |

`
	if squeeze(b.String()) != squeeze(want) {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

// squeeze takes away what only makes columns equally wide.
func squeeze(s string) string {
	return strings.NewReplacer(" ", "", "-", "").Replace(s)
}
