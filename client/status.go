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
	// StateOffline means that there is no connection; the next attempt comes by itself, unless the
	// client was opened without services.
	StateOffline State = "offline"
	// StateConnecting means that a connection is being made.
	StateConnecting State = "connecting"
	// StateBootstrapping means that a snapshot is being loaded: Rows of about RowsTotal. The first time,
	// what is loaded can be seen only in part until then: see Status.Partial.
	StateBootstrapping State = "bootstrapping"
	// StateCatchingUp means that operations are on their way: from Seq to Head here, and Pending there.
	// See Status.Progress.
	StateCatchingUp State = "catching up"
	// StateSynced means that nothing is known to be missing on either side.
	StateSynced State = "synced"
	// StateQuarantined is StateSynced but for operations that the server refused for good: see
	// Client.Refused.
	StateQuarantined State = "quarantined"
	// StateNeedsAuth means that the server did not accept the token. Attempts go on, with
	// Options.Token asked each time; see Client.Reconnect.
	StateNeedsAuth State = "needs auth"
	// StateUpdateRequired means that the server speaks versions of the protocol, or of the snapshot's
	// format, that this program does not know. Attempts go on, and edits are kept.
	StateUpdateRequired State = "update required"
)

// Status is where a replica stands.
type Status struct {
	State   State
	Replica moveop.ReplicaID
	// Epoch names the history that Seq counts in; empty before the first contact.
	Epoch string
	// Seq is the cursor: everything up to it is applied. Head is the newest seq known of. From is what
	// Seq was when the connection was made.
	Seq, Head, From int64
	// Pending counts the operations that the server has not acknowledged, Refused those of them that
	// it refused for good: see Client.Refused.
	Pending, Refused int64
	// ClockOffset is what is added to the clock because the server found it wrong.
	ClockOffset time.Duration
	// Rows and RowsTotal are the progress of StateBootstrapping; the total is an estimate.
	Rows, RowsTotal int64
	// Partial is set while the replica has not got all of the room for the first time: what is read is
	// what was edited here, and of the room what was asked for, as far as the realtime service can be
	// reached. Edits work as always. See the package comment about the first load.
	Partial bool
	// Mismatches counts how often the digests of the replica and the server were found to differ at the
	// same cursor, since Open. Each time the operations that differ are exchanged or, where that does not do,
	// the room is loaded anew.
	Mismatches int64
	// Err is what ended the last connection or attempt, or keeps operations from being pushed; nil
	// once all is well.
	Err error
}

// Progress is how much of the work of StateBootstrapping is done, in rows of which the total is an
// estimate, or of StateCatchingUp, in operations that come from the server. Both are 0 in other states.
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

// Status returns where the replica stands.
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
	after := stateAfter(p.loadErr)
	switch {
	case p.loading:
		s.State = StateBootstrapping
	case p.loadErr != nil && after != StateOffline:
		s.State = after
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

// WatchStatus returns a channel that holds the status, the newest one if the reader is slow. It is
// closed when ctx is done or the client is closed.
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

// rounds are the exchanges that WaitSynced waits for: in each, the server is asked for its head, and
// the round is done when that is reached here and nothing is pending.
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

// WaitSynced waits until everything that was edited here is acknowledged by the server and everything
// that the server had when WaitSynced was called is applied here. Where several servers serve a room it is
// the one that we are connected to that counts: what another one has just committed may be on its way to
// it, for milliseconds, or a second where they do not hear of each other. The error is that of ctx,
// ErrOffline where there are no services to sync with, ErrClosed, or ErrRefused where all is done but
// for operations that the server refused for good.
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
