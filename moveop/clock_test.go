package moveop_test

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/canopysync/canopy/moveop"
)

// wall is a clock on the wall that tests move by hand.
type wall struct{ millis int64 }

func (w *wall) now() time.Time { return time.UnixMilli(w.millis) }

func TestClock_followsTheWall(t *testing.T) {
	t.Parallel()
	w := &wall{millis: 1000}
	c := moveop.NewClock(alice, moveop.Timestamp{}, w.now)
	for _, step := range []struct {
		what    string
		millis  int64
		want    int64
		counter uint16
	}{
		{"the first reading", 1000, 1000, 0},
		{"the wall stands still", 1000, 1000, 1},
		{"the wall moves on", 1001, 1001, 0},
		{"the wall goes back", 500, 1001, 1},
		{"and comes again", 1001, 1001, 2},
		{"and passes", 1002, 1002, 0},
	} {
		w.millis = step.millis
		got := must(c.Next())
		if want := moveop.NewTimestamp(step.want, step.counter, alice); got != want {
			t.Errorf("%s: got %s, want %s", step.what, got, want)
		}
		if c.Last() != got {
			t.Errorf("%s: last is %s, want %s", step.what, c.Last(), got)
		}
	}
}

func TestClock_goesOnFromWhatWasStored(t *testing.T) {
	t.Parallel()
	stored := moveop.NewTimestamp(5000, 7, alice)
	c := moveop.NewClock(alice, stored, (&wall{millis: 1000}).now)
	if got, want := must(c.Next()), moveop.NewTimestamp(5000, 8, alice); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestClock_observe(t *testing.T) {
	t.Parallel()
	c := moveop.NewClock(alice, moveop.Timestamp{}, (&wall{millis: 1000}).now)
	c.Observe(moveop.NewTimestamp(2000, 3, bob))
	c.Observe(moveop.NewTimestamp(1500, 9, bob)) // older: no effect
	if got, want := must(c.Next()), moveop.NewTimestamp(2000, 4, alice); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	correction := moveop.NewTimestamp(2000, 4, alice).Correction()
	c.Observe(correction)
	if got := must(c.Next()); !correction.Before(got) {
		t.Errorf("%s is not behind the correction %s", got, correction)
	}
}

func TestClock_counterOverflowsIntoTheNextMillisecond(t *testing.T) {
	t.Parallel()
	w := &wall{millis: 1000}
	c := moveop.NewClock(alice, moveop.NewTimestamp(1000, 0xffff, alice), w.now)
	if got, want := must(c.Next()), moveop.NewTimestamp(1001, 0, alice); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	w.millis = 1001 // the wall catches up with what was borrowed
	if got, want := must(c.Next()), moveop.NewTimestamp(1001, 1, alice); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestClock_offset(t *testing.T) {
	t.Parallel()
	c := moveop.NewClock(alice, moveop.Timestamp{}, (&wall{millis: 1000}).now)
	c.SetOffset(2 * time.Second)
	if got := must(c.Next()); got.Millis() != 3000 {
		t.Errorf("got %d ms, want 3000", got.Millis())
	}
	c.SetOffset(-time.Second) // the wall is ahead of the server: never backwards
	if got, want := must(c.Next()), moveop.NewTimestamp(3000, 1, alice); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestClock_exhausted(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]*moveop.Clock{
		"the wall":   moveop.NewClock(alice, moveop.Timestamp{}, (&wall{millis: moveop.MaxMillis + 1}).now),
		"a reading":  moveop.NewClock(alice, moveop.MaxTimestamp, (&wall{millis: 1}).now),
		"both parts": moveop.NewClock(alice, moveop.NewTimestamp(moveop.MaxMillis, 0xffff, 1), (&wall{}).now),
	} {
		last := c.Last()
		if _, err := c.Next(); !errors.Is(err, moveop.ErrClockExhausted) {
			t.Errorf("%s: %v", name, err)
		}
		if c.Last() != last {
			t.Errorf("%s: an error moved the clock to %s", name, c.Last())
		}
	}
	c := moveop.NewClock(alice, moveop.NewTimestamp(moveop.MaxMillis, 0xfffe, 1), (&wall{}).now)
	if got, want := must(c.Next()), moveop.NewTimestamp(moveop.MaxMillis, 0xffff, alice); got != want {
		t.Errorf("the very last reading: got %s, want %s", got, want)
	}
}

// A wall before 1970 must not wrap around into the far future.
func TestClock_beforeTheEpoch(t *testing.T) {
	t.Parallel()
	c := moveop.NewClock(alice, moveop.Timestamp{}, (&wall{millis: -5}).now)
	if got, want := must(c.Next()), moveop.NewTimestamp(0, 1, alice); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestClock_randomSequenceAscends(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	w := &wall{millis: 1 << 40}
	c := moveop.NewClock(alice, moveop.Timestamp{}, w.now)
	greatest := moveop.Timestamp{}
	for range 10_000 {
		w.millis += r.Int64N(7) - 3
		if r.IntN(3) == 0 {
			ts := moveop.NewTimestamp(w.millis+r.Int64N(9)-4, uint16(r.Uint32()), bob)
			c.Observe(ts)
			if greatest.Before(ts) {
				greatest = ts
			}
		}
		ts := must(c.Next())
		if !greatest.Before(ts) || ts.Replica() != alice {
			t.Fatalf("%s after %s", ts, greatest)
		}
		greatest = ts
	}
}

func TestClock_concurrentUse(t *testing.T) {
	t.Parallel()
	c := moveop.NewClock(alice, moveop.Timestamp{}, (&wall{millis: 1000}).now)
	var wg sync.WaitGroup
	issued := make([][]moveop.Timestamp, 8)
	for i := range issued {
		wg.Go(func() {
			for j := range 1000 {
				issued[i] = append(issued[i], must(c.Next()))
				c.Observe(moveop.NewTimestamp(1000+int64(j), 0, bob))
			}
		})
	}
	wg.Wait()
	for i, own := range issued {
		if !slices.IsSortedFunc(own, moveop.Timestamp.Compare) {
			t.Errorf("goroutine %d saw the clock go back", i)
		}
	}
	all := slices.Concat(issued...)
	slices.SortFunc(all, moveop.Timestamp.Compare)
	if n := len(slices.Compact(all)); n != 8000 {
		t.Errorf("%d distinct timestamps of 8000", n)
	}
}
