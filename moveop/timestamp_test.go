package moveop_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/canopysync/canopy/moveop"
)

func TestTimestamp_parts(t *testing.T) {
	t.Parallel()
	ts := moveop.NewTimestamp(1732143600000, 0x1234, alice)
	if ts.Millis() != 1732143600000 || ts.Counter() != 0x1234 || ts.Replica() != alice {
		t.Errorf("%s has parts %d, %#x, %s", ts, ts.Millis(), ts.Counter(), ts.Replica())
	}
	if want := time.UnixMilli(1732143600000); !ts.Time().Equal(want) {
		t.Errorf("time %s, want %s", ts.Time(), want)
	}
	if want := "01934bcd-d180-1234-00a1-b2c3d4e5f607"; ts.String() != want {
		t.Errorf("text %s, want %s", ts, want)
	}
	if last := moveop.NewTimestamp(moveop.MaxMillis, 0xffff, 1<<64-1); last != moveop.MaxTimestamp {
		t.Errorf("the greatest parts make %s", last)
	}
	if !(moveop.Timestamp{}).IsZero() || ts.IsZero() {
		t.Error("IsZero is wrong")
	}
}

// The order of operations: time, then counter, then replica.
func TestTimestamp_order(t *testing.T) {
	t.Parallel()
	ascending := []moveop.Timestamp{
		{},
		moveop.NewTimestamp(1, 0, alice),
		moveop.NewTimestamp(1, 0, bob),
		moveop.NewTimestamp(1, 1, alice),
		moveop.NewTimestamp(1, 0x100, alice),
		moveop.NewTimestamp(0x100, 0, alice),
		moveop.NewTimestamp(1<<40, 0, 1),
		moveop.MaxTimestamp,
	}
	for i, a := range ascending {
		for j, b := range ascending {
			if got, want := a.Before(b), i < j; got != want {
				t.Errorf("%s before %s: %t", a, b, got)
			}
		}
	}
}

// A correction stands behind its delete and ahead of the next reading, whoever made that.
func TestTimestamp_correction(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	for range 1000 {
		d := moveop.NewTimestamp(r.Int64N(1<<47), uint16(r.IntN(0xffff)), moveop.ReplicaID(1+r.Int64N(1<<62)))
		c := d.Correction()
		if !d.Before(c) || !c.Before(moveop.NewTimestamp(d.Millis(), d.Counter()+1, 1)) {
			t.Fatalf("%s corrects %s out of place", c, d)
		}
		if d.IsCorrection() || !c.IsCorrection() || c.Replica().Valid() || c.Correction() != c {
			t.Fatalf("%s corrects %s: wrong marks", c, d)
		}
	}
}

func TestTimestamp_json(t *testing.T) {
	t.Parallel()
	ts := moveop.NewTimestamp(1, 2, alice)
	var back struct{ TS *moveop.Timestamp }
	if err := json.Unmarshal(must(json.Marshal(map[string]any{"TS": ts})), &back); err != nil || *back.TS != ts {
		t.Errorf("got %v, %v", back.TS, err)
	}
}
