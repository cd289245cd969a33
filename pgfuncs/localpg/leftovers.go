//go:build unix

package localpg

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// workingIn prints the processes whose working directory is its argument. That of a server and each of its children is
// the cluster. It has to run as the server's user: root in a container may not inspect other users' processes.
const workingIn = `for p in /proc/[0-9]*; do [ "$p/cwd" -ef "$1" ] && echo "${p#/proc/}"; done; :`

// processesIn lists the server processes of the cluster at data.
func processesIn(ctx context.Context, a account, data string) ([]int, error) {
	if _, err := os.Stat("/proc/self/cwd"); err != nil {
		return namedInState(ctx, data)
	}
	cmd := a.command(ctx, "/bin/sh", "-c", workingIn, "sh", a.nameOf(data))
	dir, err := a.hand(cmd, data)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("look for processes in %s: %w", data, err)
	}
	var pids []int
	for line := range bytes.Lines(out) {
		pid, err := strconv.Atoi(strings.TrimSpace(string(line)))
		if err != nil {
			return nil, fmt.Errorf("look for processes in %s: %w", data, err)
		}
		if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && isServer(string(comm)) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// namedInState is processesIn for systems without /proc: it returns the process that the state file names, if it is a
// server.
func namedInState(ctx context.Context, data string) ([]int, error) {
	state, err := readState(data)
	if err != nil || state.pid == 0 {
		return nil, err
	}
	comm, err := exec.CommandContext(ctx, "ps", "-o", "comm=", "-p", strconv.Itoa(state.pid)).Output()
	if err != nil || !isServer(string(comm)) {
		return nil, nil // ps exits with 1 if there is no such process
	}
	return []int{state.pid}, nil
}

// isServer tells a server from, say, a shell whose working directory is the cluster.
func isServer(command string) bool {
	name := filepath.Base(strings.TrimSpace(command))
	return name == "postgres" || name == "postmaster"
}

// stopLeftovers stops what a crashed run has left running in the cluster. The caller holds the lock, so this cannot
// include another Server's processes.
func (d *directory) stopLeftovers(ctx context.Context, log *slog.Logger) error {
	if _, err := os.Stat(d.data()); err != nil {
		return nil
	}
	a, err := d.account(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var sent syscall.Signal
	for {
		pids, err := processesIn(ctx, a, d.data())
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return d.clearUp(a)
		}
		if signal := harsher(time.Since(began)); signal != sent {
			log.LogAttrs(ctx, slog.LevelWarn, "stopping what the last run left running",
				slog.String("dir", d.path), slog.Any("pids", pids), slog.String("signal", signal.String()))
			if err := d.signalLeftovers(pids, signal); err != nil {
				return err
			}
			sent = signal
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// harsher returns the signal for processes that have not ended after being asked for that long.
func harsher(waited time.Duration) syscall.Signal {
	switch {
	case waited < 2*patience:
		return syscall.SIGINT
	case waited < 3*patience:
		return syscall.SIGQUIT
	default:
		return syscall.SIGKILL
	}
}

// signalLeftovers sends s to the server, which passes it on. It signals the children themselves only if the server is
// gone, or with SIGKILL. A lone child gets SIGQUIT, because SIGINT would only cancel its query.
func (d *directory) signalLeftovers(pids []int, s syscall.Signal) error {
	state, err := readState(d.data())
	if err != nil {
		return err
	}
	switch {
	case s == syscall.SIGKILL:
	case slices.Contains(pids, state.pid):
		pids = []int{state.pid}
	default:
		s = syscall.SIGQUIT
	}
	for _, pid := range pids {
		_ = syscall.Kill(pid, s) // it may be gone already
	}
	return nil
}

// clearUp does what a crashed server could not. It frees the segment of shared memory, which systems have few of. If the
// process id in the state file now belongs to something else, it removes the file, because the next server would take
// that process for its predecessor. Otherwise the file stays: the next server's own check may see what this one cannot.
func (d *directory) clearUp(a account) error {
	state, err := readState(d.data())
	if err != nil || state.pid == 0 {
		return err
	}
	if state.segment != 0 && !freeSegment(state.segment, a.uid) {
		return nil
	}
	if syscall.Kill(state.pid, 0) != nil {
		return nil
	}
	return os.Remove(filepath.Join(d.data(), stateName))
}
