package realtime

import (
	"cmp"
	"context"
	"time"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// contest is the question whether a replica's socket at another process is alive.
type contest struct {
	process string
	heard   chan struct{} // the process has answered anything at all
	verdict chan bool     // whether it is
}

// older returns a process with a socket of s's replica that was there before s; empty if there is none.
// The caller holds mu.
func (h *hub) older(s *session) (process string) {
	for p, r := range h.away.rosters {
		m, ok := r.members[s.replica]
		if ok && cmp.Or(cmp.Compare(m.Since, s.since), cmp.Compare(p, h.srv.cluster.id)) < 0 {
			return p
		}
	}
	return ""
}

// contested finds out whether another process has a live socket of s's replica that was there before s.
func (h *hub) contested(ctx context.Context, s *session) bool {
	for ctx.Err() == nil && h.srv.hinted.Load() {
		c := h.challenge(s)
		if c == nil {
			return false
		}
		alive := c.wait(ctx, h.srv.cfg.Timing)
		h.mu.Lock()
		delete(h.away.contests, s.replica)
		h.mu.Unlock()
		switch alive {
		case yes:
			return true
		case silent:
			h.forget(c.process)
			continue
		case noAnswer:
			return false
		}
	}
	return false
}

// challenge has the process with an older socket of s's replica asked; nil if there is none.
func (h *hub) challenge(s *session) *contest {
	h.mu.Lock()
	defer h.mu.Unlock()
	process := h.older(s)
	if process == "" || h.byReplica[s.replica] != s || h.away.contests[s.replica] != nil {
		return nil
	}
	c := &contest{process, make(chan struct{}, 1), make(chan bool, 1)}
	h.away.contests[s.replica] = c
	h.away.probes = append(h.away.probes, s.replica)
	h.srv.cluster.add(h)
	return c
}

// outcome is how a contest ends.
type outcome int

const (
	no       outcome = iota
	yes              // the other socket is alive
	silent           // the other process is not
	noAnswer         // in time
)

func (c *contest) decide(alive bool) {
	select {
	case c.verdict <- alive:
	default:
	}
}

// wait waits for the verdict: a process that is there answers something at once, and knows after
// Timing.Probe.
func (c *contest) wait(ctx context.Context, timing Timing) outcome {
	timer := time.NewTimer(timing.Answer)
	defer timer.Stop()
	late := silent
	for {
		select {
		case alive := <-c.verdict:
			if alive {
				return yes
			}
			return no
		case <-c.heard:
			if late == silent {
				late = noAnswer
				timer.Reset(timing.Probe + timing.Answer)
			}
		case <-timer.C:
			return late
		case <-ctx.Done():
			return noAnswer
		}
	}
}

// contestOlder closes sockets whose replica has an older one at a process that has just listed it: the two processes
// did not know of each other's sockets. The caller holds mu.
func (h *hub) contestOlder(ctx context.Context, process string) {
	for replica := range h.away.rosters[process].members {
		s := h.byReplica[replica]
		if s == nil || h.away.contests[replica] != nil || h.older(s) == "" {
			continue
		}
		h.srv.running.Go(func() {
			if h.contested(ctx, s) {
				s.turnAway(replicaInUse(s.replica))
			}
		})
	}
}

// probed tells another process with a newer socket of a replica whether the socket here is alive. If it is not, it
// is closed. The caller holds mu.
func (h *hub) probed(ctx context.Context, replica moveop.ReplicaID) {
	s := h.byReplica[replica]
	if s == nil {
		h.list()
		return
	}
	h.away.beats = true
	h.srv.cluster.add(h)
	if s.probed {
		return
	}
	s.probed = true
	h.srv.running.Go(func() {
		alive := s.alive(ctx)
		if !alive {
			s.close(wire.CloseReplicaInUse, replaced)
			h.leave(s)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		s.probed = false
		if alive {
			h.away.alive = append(h.away.alive, replica)
			h.srv.cluster.add(h)
		} else {
			h.list()
		}
	})
}

func replicaInUse(replica moveop.ReplicaID) *wire.Error {
	return wire.NewError(wire.CodeReplicaInUse, "replica %s is already connected", replica)
}
