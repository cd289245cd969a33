// Package bench measures the engine against limits that it cannot beat: the same rows by one plain
// insert, a map write, an empty durable commit, or the same operation close to the end of the log.
//
// Limit and engine take turns, round after round, in one process and on one database, so that
// whatever else the machine does meets both. What is reported is the median of the rounds. The first
// round warms up and does not count.
//
// Everything that is random has a fixed seed: two runs do the same work.
package bench

import (
	"context"
	"slices"
	"time"
)

// Config says how much to measure. The zero value of a field stands for its default.
type Config struct {
	// Nodes is the size of the largest room. Other sizes and distances keep their proportion to it: a
	// late operation is Nodes (tree) or Nodes/10 (SQL) behind. Defaults to 1,000,000.
	Nodes int
	// Time is what one measure may take, without setting up. Defaults to 5 s. Whatever it is, there
	// are minRounds rounds.
	Time time.Duration
	// Rounds, where it is not 0, is the number of rounds of each measure, in place of Time.
	Rounds int
	// Growth adds the tables that show how cost grows.
	Growth bool
	// DatabaseURL is a database to leave rooms behind in, migrated or empty. Defaults to a private
	// durable server in a temporary directory.
	DatabaseURL string
	// Sockets is the number of idle sockets that are held. Other numbers of sockets and writers keep their
	// proportion to it. Defaults to 10,000.
	Sockets int
	// Load is the command that runs Load in a process of its own. Needed by Relay, Push and Connections.
	Load []string
	// Dir is where files are made and removed: its disk is what durable commits wait for. Defaults to
	// the system's directory for temporary files.
	Dir string
	// Progress is told how far the work is. Defaults to nobody.
	Progress Progress
}

// Progress shows how far a piece of work is. Pieces do not overlap.
type Progress interface {
	Start(what string, total int64)
	Add(n int64)
	End()
}

type noProgress struct{}

func (noProgress) Start(string, int64) {}
func (noProgress) Add(int64)           {}
func (noProgress) End()                {}

func (c Config) withDefaults() Config {
	if c.Nodes <= 0 {
		c.Nodes = 1_000_000
	}
	if c.Time <= 0 {
		c.Time = 5 * time.Second
	}
	if c.Sockets <= 0 {
		c.Sockets = defaultSockets
	}
	if c.Progress == nil {
		c.Progress = noProgress{}
	}
	return c
}

const defaultSockets = 10_000

// sockets keeps the proportion of a number of sockets or writers; there are two of them at least.
func (c *Config) sockets(n int) int { return max(2, n*c.Sockets/defaultSockets) }

// Section is what was measured of one part of the engine.
type Section struct {
	Name    string   `json:"name"`
	Engine  string   `json:"engine,omitempty"` // version of the database
	Results []Result `json:"results"`
	Growth  []Growth `json:"growth,omitempty"`
}

// Result is one measure. Limit and Engine are medians in Unit.
type Result struct {
	Name   string  `json:"name"`
	Unit   string  `json:"unit"`
	Limit  float64 `json:"limit,omitempty"` // 0 where nothing is compared with
	Of     string  `json:"of,omitempty"`    // what the limit is
	Engine float64 `json:"engine"`
	Ratio  float64 `json:"ratio,omitempty"` // Engine / Limit
	// Target is the greatest good Ratio or, where there is no limit, the greatest good Engine; 0 where
	// none was set. Of a Rate, it is the least good one.
	Target  float64 `json:"target,omitempty"`
	Rate    bool    `json:"rate,omitempty"` // more is better
	Reached bool    `json:"reached"`
	Rounds  int     `json:"rounds"`
}

// Units.
const (
	nsPerOp      = "ns/op"
	bytesPerNode = "B/node"
	nanoseconds  = "ns"
)

// comparison makes the result of a race of two.
func comparison(name, of string, target float64, medians []float64, rounds int) Result {
	ratio := medians[1] / medians[0]
	return Result{
		Name: name, Unit: nsPerOp, Limit: medians[0], Of: of, Engine: medians[1], Ratio: ratio,
		Target: target, Reached: target == 0 || ratio <= target, Rounds: rounds,
	}
}

// absolute makes the result of a measure that is compared with nothing but its target.
func absolute(name, unit string, target, engine float64, rounds int) Result {
	return Result{
		Name: name, Unit: unit, Engine: engine, Target: target, Reached: target == 0 || engine <= target, Rounds: rounds,
	}
}

// rate makes the result of a measure of which more is better: at least target times the limit or, where
// there is no limit, at least target.
func rate(name, unit, of string, target float64, limit, engine float64, rounds int) Result {
	r := Result{Name: name, Unit: unit, Limit: limit, Of: of, Engine: engine, Target: target, Rate: true, Rounds: rounds}
	r.Reached = engine >= target
	if limit > 0 {
		r.Ratio = engine / limit
		r.Reached = r.Ratio >= target
	}
	return r
}

// Growth is one measure at several sizes.
type Growth struct {
	Name   string  `json:"name"`
	Of     string  `json:"of"` // what grows
	Unit   string  `json:"unit"`
	Expect string  `json:"expect"` // what the design promises
	Points []Point `json:"points"`
}

// Point is the cost at one size.
type Point struct {
	Size  int     `json:"size"`
	Value float64 `json:"value"`
	Times float64 `json:"times"` // the value of the first point
}

// roomSizes are the sizes that growth is measured over.
func (c *Config) roomSizes() []int {
	return []int{max(c.Nodes/1000, 100), max(c.Nodes/10, 200), max(c.Nodes, 300)}
}

// depths are those that growth is measured over.
func (c *Config) depths() []int { return []int{10, 1000, c.Nodes/10 + 1} }

// logSizes are the lengths of a log that growth is measured over, in rooms of fewNodes.
func (c *Config) logSizes() []int {
	return []int{max(c.Nodes/100, fewNodes), max(c.Nodes/10, 2*fewNodes), max(c.Nodes, 3*fewNodes)}
}

// churnSizes are how far behind a late operation is where anything moved anywhere since.
func (c *Config) churnSizes() []int {
	return []int{10, max(c.Nodes/1000, 20), max(c.Nodes/10, 30)}
}

// distances are how far behind a late operation is in a log of that length.
func distances(log int) []int {
	return []int{10, max(log/1000, 20), max(log/10, 30), log}
}

// fewNodes is the size of rooms in which only the log is long.
const fewNodes = 1000

// bySize makes a room of each size, the last one last, and races them.
func (c *Config) bySize(ctx context.Context, section string, g Growth, sizes []int, room func(size int) (contender, error)) (Growth, error) {
	var contenders []contender
	for _, size := range sizes {
		contender, err := room(size)
		if err != nil {
			return g, err
		}
		contenders = append(contenders, contender)
	}
	medians, _, err := c.race(ctx, section+": "+g.Name, contenders...)
	if err != nil {
		return g, err
	}
	g.Unit = nsPerOp
	for i, size := range sizes {
		g.Points = append(g.Points, Point{size, medians[i], medians[i] / medians[0]})
	}
	return g, nil
}

// contender is one of those that take turns.
type contender struct {
	ops     int          // of one round
	prepare func() error // makes the next round's work; not measured, may be nil
	run     func() error // does it
}

// minRounds is the least number of rounds that count.
const minRounds = 5

// race runs the contenders in turn and returns the median of each, in nanoseconds an operation, and
// the number of rounds.
func (c *Config) race(ctx context.Context, what string, contenders ...contender) ([]float64, int, error) {
	turns := make([]turn, len(contenders))
	for i := range contenders {
		turns[i] = func(ctx context.Context) (float64, time.Duration, error) {
			d, err := contenders[i].measure(ctx)
			return float64(d) / float64(contenders[i].ops), d, err
		}
	}
	return c.alternate(ctx, what, turns...)
}

// turn measures once, and says how long what counts took.
type turn func(ctx context.Context) (figure float64, took time.Duration, err error)

// alternate takes turns and returns the median figure of each, and the number of rounds.
func (c *Config) alternate(ctx context.Context, what string, turns ...turn) ([]float64, int, error) {
	total := int64(c.Time)
	if c.Rounds > 0 {
		total = int64(c.Rounds)
	}
	c.Progress.Start(what, total)
	defer c.Progress.End()
	samples := make([][]float64, len(turns))
	var spent time.Duration
	for round := 0; round == 0 || c.more(round-1, spent); round++ {
		var took time.Duration
		for i, turn := range turns {
			figure, d, err := turn(ctx)
			if err != nil {
				return nil, 0, err
			}
			took += d
			if round > 0 {
				samples[i] = append(samples[i], figure)
			}
		}
		if round == 0 {
			continue
		}
		spent += took
		if c.Rounds > 0 {
			took = 1
		}
		c.Progress.Add(int64(took))
	}
	medians := make([]float64, len(turns))
	for i := range samples {
		medians[i] = median(samples[i])
	}
	return medians, len(samples[0]), nil
}

// more reports whether there is another round after those that were done and took so long.
func (c *Config) more(done int, spent time.Duration) bool {
	if c.Rounds > 0 {
		return done < c.Rounds
	}
	return done < minRounds || spent < c.Time
}

func (c *contender) measure(ctx context.Context) (time.Duration, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if c.prepare != nil {
		if err := c.prepare(); err != nil {
			return 0, err
		}
	}
	start := time.Now()
	err := c.run()
	return time.Since(start), err
}

func median(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}
