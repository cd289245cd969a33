//go:build unix

package chaos_test

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/pgfuncs/localpg"
	"github.com/canopysync/canopy/pgfuncs/pgtest"
)

// patience is how long a thing may take before it counts as stuck.
const patience = time.Minute

func TestMain(m *testing.M) {
	if os.Getenv(beReplica) != "" {
		replicaMain()
		os.Exit(0)
	}
	pgtest.Main(m, goleak.Cleanup(func(code int) {
		if built.dir != "" {
			_ = os.RemoveAll(built.dir)
		}
		os.Exit(code)
	}))
}

// built is the program, built once.
var built struct {
	sync.Once
	dir string
	err error
}

// program is the path of canopy, built as this test is: under the race detector or not.
func program(t testing.TB) string {
	t.Helper()
	built.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "canopy-chaos-*"); built.err != nil {
			return
		}
		args := []string{"build", "-o", built.dir, "github.com/canopysync/canopy/cmd/canopy"}
		if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
			args = slices.Insert(args, 1, "-race")
		}
		if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
			built.err = fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, "canopy")
}

// seedOf is the seed of a test: CANOPY_SEED, else a new one. It is printed.
func seedOf(t testing.TB) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("CANOPY_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("CANOPY_SEED=%d", seed)
	return seed
}

// world is a Postgres, two realtime services and two bootstrap services, one of which spools. Rooms are
// played in it one after the other.
type world struct {
	seed      uint64
	dir       string
	postgres  *localpg.Server
	realtime  [2]*service
	bootstrap [2]*service
	rooms     int
}

func setup(t *testing.T) *world {
	t.Helper()
	w := &world{seed: seedOf(t), dir: t.TempDir(), postgres: pgtest.NewServer(t)}
	w.installGates(t)
	for i := range w.realtime {
		w.realtime[i] = w.newService(t, fmt.Sprintf("realtime-%d", i+1), "serve", "realtime")
	}
	w.bootstrap[0] = w.newService(t, "bootstrap", "serve", "bootstrap")
	w.bootstrap[1] = w.newService(t, "bootstrap-spooling", "serve", "bootstrap", "--spool-dir", filepath.Join(w.dir, "spool"))
	for _, s := range w.services() {
		if err := s.start(); err != nil {
			t.Fatalf("%v\n%s", err, tail(s.log))
		}
		t.Cleanup(func() { w.end(t, s) })
	}
	return w
}

func (w *world) newService(t *testing.T, name string, args ...string) *service {
	return &service{
		name: name, binary: program(t), args: args, log: filepath.Join(w.dir, name+".log"),
		database: newProxy(t, w.dialPostgres),
	}
}

func (w *world) services() []*service {
	return append(w.realtime[:], w.bootstrap[:]...)
}

// end stops a service in order, and looks whether anything went wrong in it that nobody noticed.
func (w *world) end(t *testing.T, s *service) {
	if p := s.process(); p.alive() {
		if code, err := s.terminate(); err != nil || code != 0 {
			t.Errorf("%s ends with code %d, %v\n%s", s.name, code, err, tail(s.log))
		}
	}
	text, err := os.ReadFile(s.log)
	if err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"panic", "DATA RACE", "the log has a hole"} {
		if strings.Contains(string(text), bad) {
			t.Errorf("%s logged a %s\n%s", s.name, bad, text)
		}
	}
}

// dialPostgres connects to the Unix socket that Postgres listens on.
func (w *world) dialPostgres() (net.Conn, error) {
	u, err := url.Parse(w.postgres.URL())
	if err != nil {
		return nil, err
	}
	return net.Dial("unix", filepath.Join(u.Query().Get("host"), ".s.PGSQL."+u.Query().Get("port")))
}

// connect returns a connection to the database past all proxies. The caller closes it, or the test's end
// does.
func (w *world) connect(t testing.TB) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), w.postgres.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// db is pgfuncs past all proxies, until the test ends.
func (w *world) db(t testing.TB) *pgfuncs.DB {
	t.Helper()
	db, err := pgfuncs.Open(t.Context(), w.postgres.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

// number is the result of a query.
func (w *world) number(t testing.TB, query string, args ...any) (n int64) {
	t.Helper()
	conn := w.connect(t)
	defer conn.Close(t.Context())
	if err := conn.QueryRow(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// await waits until a condition holds.
func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(patience)
	for !holds() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("it does not come to this: %s", what)
		}
	}
}

// held waits until a gate holds something back.
func held(t testing.TB, what string, gate <-chan struct{}) {
	t.Helper()
	select {
	case <-gate:
	case <-time.After(patience):
		t.Fatalf("nothing is held: %s", what)
	}
}

// round is one room, with people and files of its own, in which something goes wrong.
type round struct {
	*testing.T
	*world
	rng       *rand.Rand
	room      string
	files     string // directory of the people's files
	people    []*person
	dismissed int          // people who came and went
	turns     atomic.Int64 // of dialEither
}

// play plays a round: something happens, everything heals, everything is checked. What a round does
// depends on the seed and the test's name alone, so it can be repeated without those before it.
func (w *world) play(t *testing.T, people int, happens func(r *round)) {
	t.Helper()
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(t.Name()))
	w.rooms++
	r := &round{T: t, world: w, rng: rand.New(rand.NewPCG(w.seed, hash.Sum64())), room: fmt.Sprintf("room-%d", w.rooms)}
	r.files = filepath.Join(w.dir, r.room)
	if err := os.Mkdir(r.files, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			r.explain()
		}
		_ = os.RemoveAll(r.files) // there may be thousands of rounds
	})
	for range people {
		r.join()
	}
	r.people[0].must(order{Do: "edit", N: 20, Size: 200})
	r.sync()
	happens(r)
	r.heal()
	r.check()
	r.leave()
}

// explain says how to play the round again, and shows the ends of the logs.
func (r *round) explain() {
	r.Logf("to repeat: CANOPY_SEED=%d go test ./cmd/canopy/internal/chaos -run '%s$'", r.seed, "^"+strings.ReplaceAll(r.Name(), "/", "$/^"))
	for _, s := range r.services() {
		r.Log(tail(s.log))
	}
	for _, p := range r.people {
		r.Log(tail(p.log))
	}
}

// join has somebody new open a file and come in, and waits until the process is there.
func (r *round) join() *person {
	r.Helper()
	p := r.newPerson()
	p.start(death{})
	return p
}

func (r *round) newPerson() *person {
	r.Helper()
	n := len(r.people) + r.dismissed
	name := fmt.Sprintf("person-%d", n+1)
	rt, bs := r.world.realtime[n%len(r.world.realtime)], r.world.bootstrap[r.rng.IntN(len(r.world.bootstrap))]
	p := &person{
		t: r.T, log: filepath.Join(r.files, name+".log"),
		realtime: newProxy(r, rt.dial), bootstrap: newProxy(r, bs.dial),
	}
	p.plan = plan{
		Path: filepath.Join(r.files, name+".canopy"), Room: r.room, Name: name, Seed: r.rng.Uint64(),
		Realtime: p.realtime.url(), Bootstrap: p.bootstrap.url(),
	}
	r.people = append(r.people, p)
	r.Cleanup(func() {
		if p.run != nil && p.run.alive() {
			p.kill()
		}
	})
	return p
}

// sync waits until everybody has everything. What a realtime service says is the head may be behind what
// another one has committed, so being in step with it is not enough.
func (r *round) sync() {
	r.Helper()
	r.each(order{Do: "sync"}) // now all of it is in the log
	head := r.head()
	await(r, "everybody has the whole log", func() bool {
		behind := 0
		for _, got := range r.each(order{Do: "status"}) {
			if got.Seq < head || got.Pending > 0 {
				behind++
			}
		}
		return behind == 0
	})
}

// each has everybody do something at once.
func (r *round) each(o order) (all []report) {
	r.Helper()
	for _, p := range r.people {
		p.send(o)
	}
	for _, p := range r.people {
		got, ok := p.answer()
		if !ok || got.What != "done" {
			r.Fatalf("%s, told to %s: %+v", p.plan.Name, o.Do, got)
		}
		all = append(all, got)
	}
	return all
}

// heal makes everything whole, and has everybody start again who died.
func (r *round) heal() {
	r.Helper()
	r.healServices()
	for _, p := range r.people {
		p.realtime.heal()
		p.bootstrap.heal()
		p.heal()
	}
}

func (r *round) healServices() {
	r.Helper()
	r.healPostgres()
	for _, s := range r.services() {
		s.database.heal()
		if err := s.heal(); err != nil {
			r.Fatalf("%v\n%s", err, tail(s.log))
		}
	}
}

func (r *round) healPostgres() {
	r.Helper()
	select {
	case <-r.postgres.Done():
		if err := r.postgres.Restart(r.Context()); err != nil {
			r.Fatal(err)
		}
	default:
	}
}

func (r *round) killPostgres() {
	r.Helper()
	if err := r.postgres.Kill(r.Context()); err != nil {
		r.Fatal(err)
	}
}

// leave has everybody close, and checks that nothing of them is left anywhere.
func (r *round) leave() {
	r.Helper()
	for _, p := range r.people {
		if got := p.must(order{Do: "close"}); got.Leaked != "" {
			r.Errorf("%s leaves goroutines: %s", p.plan.Name, got.Leaked)
		}
		<-p.run.exited
		if code := p.run.cmd.ProcessState.ExitCode(); code != 0 {
			r.Errorf("%s ends with code %d", p.plan.Name, code)
		}
	}
	r.checkNothingLeft()
}
