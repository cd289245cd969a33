package moveop

import (
	"errors"
	"sync"
	"time"
)

// ErrClockExhausted is returned by Clock.Next when the next reading would not fit into a Timestamp:
// the wall clock, or a reading observed from another replica, is past MaxMillis.
var ErrClockExhausted = errors.New("clock exhausted")

// Clock is a replica's hybrid logical clock. It follows the wall clock where it can, and runs ahead
// of it by the counter where it must, so that what it issues is strictly greater than everything
// that it issued, observed or was started with. It is safe for concurrent use.
//
// A reading that was issued and then lost (a crash before it was stored) is no problem; one that was
// stored and then issued again is. So start a clock with the greatest timestamp in the replica's log.
type Clock struct {
	replica ReplicaID
	now     func() time.Time

	mu     sync.Mutex // guards what follows
	last   Timestamp  // the greatest reading issued or observed
	offset time.Duration
}

// NewClock returns the clock of a replica. Last is the greatest timestamp that the replica has
// stored, zero if none; now reads the wall clock, which may stand still or go backwards.
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

// Observe makes what is issued from now on greater than ts, which another replica issued. It costs
// nothing to observe a timestamp twice or out of order.
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

// SetOffset sets what is added to the wall clock: the server's time less our own. It never makes the
// clock go backwards.
func (c *Clock) SetOffset(offset time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset = offset
}
