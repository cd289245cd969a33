//go:build unix

package localpg

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// pollEvery is how often the server's state file, or a process, is checked.
	pollEvery = 10 * time.Millisecond
	// patience is how long to wait after a signal before sending a harsher one.
	patience = 5 * time.Second
)

// postmaster is a running server process.
type postmaster struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process is gone
	err  error         // how it ended; set before done is closed
}

// launch starts cmd on a thread of its own, which lives as long as the process (see "Ends of life" in the package
// comment).
func launch(cmd *exec.Cmd) (*postmaster, error) {
	// Not in our process group: a Ctrl-C in the terminal should reach only us, and we then stop the server properly.
	cmd.SysProcAttr.Setpgid = true
	dieWithThread(cmd.SysProcAttr)
	p := &postmaster{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// awaitReady waits until the state file says that the server accepts connections.
func (p *postmaster) awaitReady(ctx context.Context, data string) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		state, err := readState(data)
		if err != nil {
			return err
		}
		if state.pid == p.cmd.Process.Pid && state.ready {
			return nil
		}
		select {
		case <-p.done:
			return &ProgramError{Program: "postgres", Err: p.exit()}
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// exit returns how the process ended, once it has.
func (p *postmaster) exit() error {
	if p.err != nil {
		return p.err
	}
	return errors.New("ended")
}

// stop shuts the server down: fast mode until ctx is done, then immediate mode, then SIGKILL. It returns when the
// process is gone.
func (p *postmaster) stop(ctx context.Context) {
	p.signal(syscall.SIGINT)
	select {
	case <-p.done:
		return
	case <-ctx.Done():
	}
	p.signal(syscall.SIGQUIT)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.done:
		return
	case <-timer.C:
	}
	p.signal(syscall.SIGKILL)
	<-p.done
}

// signal ignores that the process may be gone: callers check done next.
func (p *postmaster) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// state is what a server records about itself in postmaster.pid.
type state struct {
	pid     int // 0 if there is no such file, or no readable one
	segment int // the id of its System V shared memory, or 0
	ready   bool
}

// readState reads the state file in data. It is written in place, so any part of it may be missing.
func readState(data string) (state, error) {
	text, err := os.ReadFile(filepath.Join(data, stateName))
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, nil
	}
	if err != nil {
		return state{}, err
	}
	lines := strings.Split(string(text), "\n")
	lines = append(lines, make([]string, statusLine)...)
	pid, _ := strconv.Atoi(lines[0])
	segment := 0
	if f := strings.Fields(lines[segmentLine]); len(f) == 2 { // its key and its id
		segment, _ = strconv.Atoi(f[1])
	}
	return state{pid: max(pid, 0), segment: segment, ready: strings.HasPrefix(lines[statusLine], "ready")}, nil
}

// stateName is the server's lock and state file within the cluster; some of its lines follow.
const (
	stateName   = "postmaster.pid"
	segmentLine = 6
	statusLine  = 7
)
