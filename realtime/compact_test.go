package realtime_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canopysync/canopy/realtime"
)

// fakeCompactor answers one round after the other.
type fakeCompactor struct {
	rounds chan func(each func(room string, folded int64, err error)) (bool, error)
	ages   []time.Duration
}

func (f *fakeCompactor) CompactAll(ctx context.Context, age time.Duration, each func(string, int64, error)) (bool, error) {
	f.ages = append(f.ages, age)
	select {
	case round := <-f.rounds:
		return round(each)
	case <-ctx.Done():
		return true, ctx.Err()
	}
}

func TestCompactsBySchedule(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rounds := make(chan func(func(string, int64, error)) (bool, error), 4)
		rounds <- func(each func(string, int64, error)) (bool, error) {
			each("a", 3, nil)
			each("b", 0, errors.New("damaged"))
			each("c", 4, nil)
			return true, nil
		}
		rounds <- func(func(string, int64, error)) (bool, error) { return false, nil }
		rounds <- func(func(string, int64, error)) (bool, error) { return true, errors.New("no database") }
		rounds <- func(func(string, int64, error)) (bool, error) { panic("a fault") }
		f := &fakeCompactor{rounds: rounds}
		s := setupPipe(t, func(cfg *realtime.Config) {
			cfg.Compaction = realtime.Compaction{Every: time.Hour, Retention: 24 * time.Hour, Rooms: f}
		})
		if len(rounds) != 4 {
			t.Error("compacted at the start")
		}
		time.Sleep(5*time.Hour + time.Minute) // the fifth round goes on until the server stops
		for name, want := range map[string]string{
			`canopy_realtime_compactions_total{result="done"}`:        "1",
			`canopy_realtime_compactions_total{result="busy"}`:        "1",
			`canopy_realtime_compactions_total{result="failed"}`:      "1",
			`canopy_realtime_compactions_total{result="room_failed"}`: "1",
			"canopy_realtime_compacted_ops_total":                     "7",
			"canopy_realtime_panics_total":                            "1",
		} {
			if got := s.metric(name); got != want {
				t.Errorf("%s is %q, want %s", name, got, want)
			}
		}
		if len(f.ages) != 5 || f.ages[0] != 24*time.Hour {
			t.Errorf("asked for %v", f.ages)
		}
	})
}
