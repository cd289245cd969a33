package moveop

import (
	"errors"
	"sync"
	"time"
)

// ErrClockExhausted is returned by Clock.Next when the next reading does not fit into a Timestamp: the
// wall clock, or a reading observed from another replica, has reached MaxMillis.
var ErrClockExhausted = errors.New("clock exhausted")

// Clock is a replica's hybrid logical clock. It follows the wall clock if it can and counts ahead of it
// if it must: each reading is strictly greater than every one issued, observed or started with before. It
// is safe for concurrent use.
//
// Losing an issued reading (by a crash before it was stored) does no harm, but issuing a stored one again
// does. So start a clock with the greatest timestamp in the replica's log.
type Clock struct {
	replica ReplicaID
	now     func() time.Time

	mu     sync.Mutex // guards what follows
	last   Timestamp  // the greatest reading issued or observed
	offset time.Duration
}

// NewClock returns the clock of a replica. Last is the greatest timestamp that the replica has stored,
// zero if none; now reads the wall clock, which may stand still or go backwards.
func NewClock(replica ReplicaID, last Timestamp, now func() time.Time) *Clock {
	return &Clock{replica: replica, now: now, last: last}
}

// Next issues a timestamp. The only error is ErrClockExhausted.
func (c *Clock) Next() (Timestamp, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	millis, counter := c.now().Add(c.offset).UnixMilli(), uint16(0)
	if last := c.last.Millis(); millis <= last {
		millis, counter = last, c.last.Counter()+1
		if counter == 0 { // overflow: borrow from the next millisecond
			millis++
		}
	}
	if millis > MaxMillis {
		return Timestamp{}, ErrClockExhausted
	}
	c.last = NewTimestamp(millis, counter, c.replica)
	return c.last, nil
}

// Observe makes every later reading greater than ts, which another replica issued. Observing a timestamp
// twice or out of order does no harm.
func (c *Clock) Observe(ts Timestamp) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last.Before(ts) {
		c.last = ts
	}
}

// Last returns the greatest timestamp issued, observed or started with.
func (c *Clock) Last() Timestamp {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// SetOffset sets the offset added to the wall clock: the server's time minus our own. It never makes the
// clock go backwards.
func (c *Clock) SetOffset(offset time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset = offset
}
