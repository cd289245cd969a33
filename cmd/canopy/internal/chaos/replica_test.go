//go:build unix

package chaos_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/goleak"
	"modernc.org/sqlite"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
)

// beReplica is the environment variable that makes the test binary a client process.
const beReplica = "CANOPY_CHAOS_REPLICA"

// plan is the first line that a client process reads.
type plan struct {
	Path, Room, Name    string
	Realtime, Bootstrap string // URLs
	Seed                uint64
	Death               death
	MaxPages            int // of the file; 0 for no limit
}

// death is the point at which a client process kills itself: a stage of its nth transaction.
type death struct {
	Stage stage
	Nth   int64
	Row   int64 // of stageRow: so many rows are changed before
	Bytes int64 // of stageTorn: so many bytes of the log get written
}

type stage string

const (
	stageRow     stage = "row"     // in the middle of its statements
	stageCommit  stage = "commit"  // before anything is written
	stageTorn    stage = "torn"    // while it is written, after some bytes
	stageWritten stage = "written" // when it has begun to be written
)

// order is what a client process is told to do.
type order struct {
	Do    string
	N     int           // of edits, or nodes
	Size  int           // of values, in bytes
	Pause time.Duration // at most, between edits
	Clock time.Duration // what is added to the clock
	Disk  int64         // bytes that a file may have; negative for no limit
}

// report is what a client process says: "edited" after each edit that is kept, "refused" after each that is
// not, and one of "ready", "done" or "failed" in the end.
type report struct {
	What    string
	Edits   int64 // made by this name so far and kept
	Commits int64 // of this process
	Error   string
	Full    bool // the error is client.ErrDiskFull
	State   client.State
	Seq     int64
	Pending int64
	Refused int64
	// Mismatches are of this process, as Commits are.
	Mismatches int64
	Digest     moveop.Digest
	Leaked     string // goroutines
}

// replica is the client process's side.
type replica struct {
	plan plan
	*client.Client
	rng   *rand.Rand
	clock atomic.Int64 // added, in nanoseconds
	edits int64
	out   *json.Encoder
}

var commits atomic.Int64

// replicaMain is the client process.
func replicaMain() {
	in := bufio.NewScanner(os.Stdin)
	r := &replica{out: json.NewEncoder(os.Stdout)}
	if err := r.start(in); err != nil {
		r.say("failed", err)
		os.Exit(1)
	}
	r.say("ready", nil)
	for in.Scan() {
		var o order
		err := json.Unmarshal(in.Bytes(), &o)
		if err == nil {
			err = r.obey(o)
		}
		if err != nil {
			r.say("failed", err)
			continue
		}
		r.say("done", nil)
		if o.Do == "close" {
			os.Exit(0)
		}
	}
}

func (r *replica) start(in *bufio.Scanner) error {
	in.Scan()
	if err := json.Unmarshal(in.Bytes(), &r.plan); err != nil {
		return err
	}
	r.rng = rand.New(rand.NewPCG(r.plan.Seed, 0))
	r.hook()
	opts := client.Options{
		Room: r.plan.Room, RealtimeURL: r.plan.Realtime, BootstrapURL: r.plan.Bootstrap, Name: r.plan.Name,
		RetryMin: 10 * time.Millisecond, RetryMax: 200 * time.Millisecond,
		HTTPClient: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
		Logger:     slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Now:        func() time.Time { return time.Now().Add(time.Duration(r.clock.Load())) },
	}
	var err error
	if r.Client, err = client.Open(context.Background(), r.plan.Path, opts); err != nil {
		return err
	}
	return r.readJournal()
}

// hook has SQLite tell of transactions, so that death comes at the point planned.
func (r *replica) hook() {
	ends := make(chan os.Signal, 1)
	if r.plan.Death.Stage == stageTorn {
		signal.Notify(ends, syscall.SIGXFSZ)
		go func() {
			<-ends
			die()
		}()
	}
	var rows atomic.Int64
	sqlite.RegisterConnectionHook(func(conn sqlite.ExecQuerierContext, _ string) error {
		hooks := conn.(sqlite.HookRegisterer)
		hooks.RegisterCommitHook(func() int32 {
			if commits.Add(1) == r.plan.Death.Nth {
				r.commits()
			}
			return 0
		})
		if r.plan.Death.Stage == stageRow {
			hooks.RegisterPreUpdateHook(func(sqlite.SQLitePreUpdateData) {
				if commits.Load() == r.plan.Death.Nth-1 && rows.Add(1) > r.plan.Death.Row {
					die()
				}
			})
		}
		if r.plan.MaxPages > 0 {
			_, err := conn.ExecContext(context.Background(), fmt.Sprintf("PRAGMA max_page_count = %d", r.plan.MaxPages), nil)
			return err
		}
		return nil
	})
}

// commits is called when the planned transaction is about to be written.
func (r *replica) commits() {
	switch r.plan.Death.Stage {
	case stageCommit:
		die()
	case stageTorn:
		size, _ := r.walSize()
		limitFiles(size + r.plan.Death.Bytes)
	case stageWritten:
		size, changed := r.walSize()
		go func() {
			for {
				if now, then := r.walSize(); now != size || then != changed {
					die()
				}
			}
		}()
	}
}

// walSize says where SQLite's log ends, and when it was written to.
func (r *replica) walSize() (size int64, changed time.Time) {
	info, err := os.Stat(r.plan.Path + "-wal")
	if err != nil {
		return 0, time.Time{}
	}
	return info.Size(), info.ModTime()
}

// die does not return.
func die() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// limitFiles lets no file grow beyond size: a write stops there, and the next one fails. Negative lifts
// the limit.
func limitFiles(size int64) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		panic(err)
	}
	limit.Cur = limit.Max
	if size >= 0 {
		limit.Cur = uint64(size)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		panic(err)
	}
}

func (r *replica) say(what string, err error) {
	answer := report{What: what, Edits: r.edits, Commits: commits.Load()}
	if err != nil {
		answer.Error, answer.Full = err.Error(), errors.Is(err, client.ErrDiskFull)
	}
	if r.Client != nil {
		s := r.Status()
		answer.State, answer.Seq, answer.Digest = s.State, s.Seq, r.Digest()
		answer.Pending, answer.Refused, answer.Mismatches = s.Pending, s.Refused, s.Mismatches
	} else if err := goleak.Find(); err != nil {
		answer.Leaked = err.Error()
	}
	if err := r.out.Encode(answer); err != nil {
		os.Exit(2)
	}
}

func (r *replica) obey(o order) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	switch o.Do {
	case "edit":
		return r.editAll(ctx, o)
	case "grow":
		return r.grow(ctx, o)
	case "sync":
		return r.WaitSynced(ctx)
	case "status":
		return nil
	case "clock":
		r.clock.Store(int64(o.Clock))
		return nil
	case "disk":
		limitFiles(o.Disk)
		return nil
	case "doctor":
		d, err := r.Doctor(ctx)
		if err == nil && len(d.Findings) > 0 {
			err = fmt.Errorf("doctor finds %+v", d.Findings)
		}
		return err
	case "close":
		err := r.Close()
		r.Client = nil
		return err
	}
	return fmt.Errorf("unknown order %q", o.Do)
}

// entry is a line of a client's journal, a property of Root: its nth edit. A nonce tells two attempts at the
// same edit apart.
type entry struct{ N, Nonce int64 }

func journalKey(name string) string { return "journal of " + name }

func (r *replica) readJournal() error {
	text, ok, err := r.Value(context.Background(), moveop.Root, journalKey(r.plan.Name))
	if err != nil || !ok {
		return err
	}
	var last entry
	err = json.Unmarshal(text, &last)
	r.edits = last.N
	return err
}

// enter makes an edit that has its number in the journal.
func (r *replica) enter(ctx context.Context, fn func(tx *client.Tx) error) error {
	line := entry{r.edits + 1, r.rng.Int64()}
	err := r.Edit(ctx, func(tx *client.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		return tx.Set(moveop.Root, journalKey(r.plan.Name), line)
	})
	if err == nil {
		r.edits = line.N
	}
	return err
}

// grow makes a run of nodes, or of large values.
func (r *replica) grow(ctx context.Context, o order) error {
	return r.enter(ctx, func(tx *client.Tx) error {
		nodes, err := tx.CreateRun(moveop.Root, client.Last, o.N)
		for i := 0; err == nil && o.Size > 0 && i < len(nodes); i++ {
			err = tx.Set(nodes[i], "text", r.text(o.Size))
		}
		return err
	})
}

// text is not easily compressed.
func (r *replica) text(size int) string {
	var b strings.Builder
	for b.Len() < size {
		fmt.Fprintf(&b, "%016x", r.rng.Uint64())
	}
	return b.String()[:size]
}

// editAll makes edits at random. Only what SQLite itself says can make one fail.
func (r *replica) editAll(ctx context.Context, o order) error {
	nodes, err := r.hot(ctx)
	if err != nil {
		return err
	}
	for range o.N {
		err := r.enter(ctx, func(tx *client.Tx) error {
			for range 1 + r.rng.IntN(3) {
				if err := r.step(tx, &nodes, o.Size); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			r.say("refused", err)
		} else {
			r.say("edited", nil)
		}
		if o.Pause > 0 {
			time.Sleep(time.Duration(r.rng.Int64N(int64(o.Pause)))) // people do
		}
	}
	return nil
}

// hotNodes is how many nodes the edits are about, so that they meet.
const hotNodes = 40

func (r *replica) hot(ctx context.Context) (nodes []moveop.NodeID, err error) {
	enough := errors.New("enough")
	err = r.Walk(ctx, moveop.Root, func(n client.Node, _ int) error {
		if nodes = append(nodes, n.ID); len(nodes) == hotNodes {
			return enough
		}
		return nil
	})
	if errors.Is(err, enough) {
		err = nil
	}
	return nodes, err
}

// step is one random change. What cannot be done in the state that the replica is in is left.
func (r *replica) step(tx *client.Tx, nodes *[]moveop.NodeID, size int) (err error) {
	pick := func() moveop.NodeID {
		if len(*nodes) == 0 {
			return moveop.Root
		}
		return (*nodes)[r.rng.IntN(len(*nodes))]
	}
	at := []client.Position{client.First, client.Last}[r.rng.IntN(2)]
	switch dice := r.rng.IntN(100); {
	case dice < 30:
		var id moveop.NodeID
		if id, err = tx.Create(pick(), at); err == nil {
			*nodes = append(*nodes, id)
		}
	case dice < 60:
		err = tx.Move(pick(), pick(), at)
	case dice < 80:
		err = tx.Set(pick(), "text", r.text(1+r.rng.IntN(max(1, size))))
	case dice < 90:
		err = tx.Delete(pick())
	default:
		err = tx.Restore(pick())
	}
	for _, expected := range []error{client.ErrCycle, client.ErrInsideDeleted, client.ErrUnknownNode, client.ErrReserved} {
		if errors.Is(err, expected) {
			return nil
		}
	}
	return err
}
