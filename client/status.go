package client

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/canopysync/canopy/moveop"
)

// State is how far a replica is from being in step with the server.
type State string

const (
	// StateOffline means that there is no connection. The client tries again by itself, unless it was
	// opened without services.
	StateOffline State = "offline"
	// StateConnecting means that a connection is being made.
	StateConnecting State = "connecting"
	// StateBootstrapping means that a snapshot is being loaded: Rows of about RowsTotal. During the
	// first load, only parts of the room can be read: see Status.Partial.
	StateBootstrapping State = "bootstrapping"
	// StateCatchingUp means that operations are on their way: those from Seq to Head to the replica, the
	// Pending ones to the server. See Status.Progress.
	StateCatchingUp State = "catching up"
	// StateSynced means that nothing is known to be missing on either side.
	StateSynced State = "synced"
	// StateQuarantined is StateSynced except for operations that the server refused for good: see
	// Client.Refused.
	StateQuarantined State = "quarantined"
	// StateNeedsAuth means that the server did not accept the token. The client keeps trying, and calls
	// Options.Token each time; the state stays until an attempt gets further. See Client.Reconnect.
	StateNeedsAuth State = "needs auth"
	// StateUpdateRequired means that this program knows none of the server's versions of the protocol,
	// or of the snapshot format. The client keeps trying, and keeps edits.
	StateUpdateRequired State = "update required"
)

// Status is the sync status of a replica.
type Status struct {
	State   State
	Replica moveop.ReplicaID
	// Epoch names the history that Seq counts in; empty before the first contact with the server.
	Epoch string
	// Seq is the cursor: everything up to it is applied. Head is the server's newest known seq. From is
	// the Seq at the start of the connection.
	Seq, Head, From int64
	// Pending counts the operations that the server has not acknowledged, Refused those of them that
	// it refused for good: see Client.Refused.
	Pending, Refused int64
	// ClockOffset is added to the clock because the server found it wrong.
	ClockOffset time.Duration
	// Rows and RowsTotal are the progress of StateBootstrapping; the total is an estimate.
	Rows, RowsTotal int64
	// Partial is set until the replica has all of the room for the first time. Reads then see local
	// edits, and those parts of the room that they fetch, if the realtime service can be reached. Edits
	// work as always. See "The first load" in the package comment.
	Partial bool
	// Mismatches counts, since Open, how often the digests of replica and server differed at the same
	// cursor. Each time, the operations that differ are exchanged or, if that is not enough, the room is
	// loaded anew.
	Mismatches int64
	// Err is the error that ended the last connection or attempt, or that keeps operations from being
	// pushed; nil once all is well. In StateCatchingUp, a *wire.Error with wire.CodeForbidden means that
	// the token does not allow the pending operations: it may only allow reading, for instance.
	Err error
}

// Progress returns the work done and the total: in rows for StateBootstrapping, where the total is an
// estimate; in operations from the server for StateCatchingUp. Both are 0 in other states.
func (s Status) Progress() (done, total int64) {
	switch s.State {
	case StateBootstrapping:
		return s.Rows, max(s.Rows, s.RowsTotal)
	case StateCatchingUp:
		return s.Seq - s.From, s.Head - s.From
	}
	return 0, 0
}

// progress is the part of Status that is not in the file.
type progress struct {
	mu              sync.Mutex // guards what follows, and the order in which statuses are published
	state           State      // of the connection
	loading         bool       // a snapshot
	loadErr         error      // of the last attempt at that
	head, from      int64
	rows, rowsTotal int64
	mismatches      int64
	err             error
	published       Status
}

// Status returns the current status.
func (c *Client) Status() Status {
	c.progress.mu.Lock()
	defer c.progress.mu.Unlock()
	return c.status()
}

// status needs progress.mu.
func (c *Client) status() Status {
	p, m := &c.progress, c.store.meta.Load()
	s := Status{
		State: p.state, Replica: m.replica, Epoch: m.epoch, Seq: m.seq, Head: max(p.head, m.seq), From: min(p.from, m.seq),
		Pending: m.pending, Refused: m.refused, ClockOffset: m.offset,
		Rows: p.rows, RowsTotal: p.rowsTotal, Partial: c.partial(m), Mismatches: p.mismatches, Err: p.err,
	}
	if s.Err == nil {
		s.Err = p.loadErr
	}
	switch {
	case persists(p.loadErr):
		s.State = stateAfter(p.loadErr)
	case p.loading:
		s.State = StateBootstrapping
	case s.State == StateConnecting && persists(p.err):
		s.State = stateAfter(p.err)
	case s.State == "":
		s.State = StateOffline
	case s.State == StateCatchingUp && m.partial:
		s.State = StateBootstrapping
	case s.State != StateCatchingUp || s.Seq < s.Head || s.Pending > s.Refused:
	case s.Refused > 0:
		s.State = StateQuarantined
	default:
		s.State = StateSynced
	}
	return s
}

// persists reports whether what ended an attempt is shown until one gets further, and not only until the next
// one begins: what asks the user to do something should not come and go.
func persists(err error) bool { return stateAfter(err) != StateOffline }

// WatchStatus returns a channel of statuses: the current one, then each new one. A slow reader gets only
// the newest. The channel is closed when ctx is done or the client is closed.
func (c *Client) WatchStatus(ctx context.Context) <-chan Status {
	c.progress.mu.Lock()
	defer c.progress.mu.Unlock()
	return c.statuses.subscribe(ctx, 1, c.status())
}

// setProgress changes what is not in the file, and publishes.
func (c *Client) setProgress(change func(p *progress)) {
	c.progress.mu.Lock()
	defer c.progress.mu.Unlock()
	change(&c.progress)
	c.publishStatus()
}

func (c *Client) statusChanged() { c.setProgress(func(*progress) {}) }

// publishStatus needs progress.mu.
func (c *Client) publishStatus() {
	now := c.status()
	if !now.same(c.progress.published) {
		c.progress.published = now
		c.statuses.publish(now, sendLatest[Status])
	}
}

// same compares errors by their text, because not every error can be compared.
func (s Status) same(other Status) bool {
	if (s.Err == nil) != (other.Err == nil) || s.Err != nil && s.Err.Error() != other.Err.Error() {
		return false
	}
	s.Err, other.Err = nil, nil
	return s == other
}

// rounds are the exchanges that WaitSynced waits for. Each asks the server for its head, and is done when the
// replica has reached that and nothing is pending.
type rounds struct {
	mu      sync.Mutex // guards what follows
	wanted  int64
	done    int64
	refused int64         // operations that the server had refused when the last round was done
	changed chan struct{} // closed and replaced when done moves
}

func (r *rounds) request() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wanted++
	return r.wanted
}

func (r *rounds) want() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.wanted
}

func (r *rounds) finish(round, refused int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if round <= r.done {
		return
	}
	r.done, r.refused = round, refused
	close(r.changed)
	r.changed = make(chan struct{})
}

// WaitSynced waits until the server has acknowledged every local operation, and the replica has applied
// every operation that the server had when WaitSynced was called. If several servers serve the room, only
// the one that the client is connected to counts: it may learn of another server's commits milliseconds
// later, or a second later if the servers do not notify each other. Without a connection it waits for one;
// Status.Err gives the reason. The error is that of ctx, ErrOffline if there are no services to sync with,
// ErrClosed, or ErrRefused if everything is in step except operations that the server refused for good.
func (c *Client) WaitSynced(ctx context.Context) error {
	if c.opts.RealtimeURL == "" {
		return ErrOffline
	}
	round := c.rounds.request()
	signal(c.wakeups)
	for {
		c.rounds.mu.Lock()
		done, refused, changed := c.rounds.done >= round, c.rounds.refused, c.rounds.changed
		c.rounds.mu.Unlock()
		if done && refused > 0 {
			return fmt.Errorf("%w: %d", ErrRefused, refused)
		}
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-c.store.closed:
			return ErrClosed
		}
	}
}
