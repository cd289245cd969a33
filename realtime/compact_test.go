package realtime_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canopysync/canopy/realtime"
)

// hear is what CompactAll tells.
type hear = func(room string, folded, purged int64, err error)

// fakeCompactor answers one round after the other.
type fakeCompactor struct {
	rounds chan func(each hear) (bool, error)
	ages   []time.Duration
}

func (f *fakeCompactor) CompactAll(ctx context.Context, age, trash time.Duration, each func(string, int64, int64, error)) (bool, error) {
	f.ages = append(f.ages, age, trash)
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
		rounds := make(chan func(hear) (bool, error), 4)
		rounds <- func(each hear) (bool, error) {
			each("a", 3, 2, nil)
			each("b", 0, 0, errors.New("damaged"))
			each("c", 4, 0, nil)
			return true, nil
		}
		rounds <- func(hear) (bool, error) { return false, nil }
		rounds <- func(hear) (bool, error) { return true, errors.New("no database") }
		rounds <- func(hear) (bool, error) { panic("a fault") }
		f := &fakeCompactor{rounds: rounds}
		s := setupPipe(t, func(cfg *realtime.Config) {
			cfg.Compaction = realtime.Compaction{Every: time.Hour, Retention: 24 * time.Hour, Trash: 48 * time.Hour, Rooms: f}
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
			"canopy_realtime_purged_nodes_total":                      "2",
			"canopy_realtime_panics_total":                            "1",
		} {
			if got := s.metric(name); got != want {
				t.Errorf("%s is %q, want %s", name, got, want)
			}
		}
		synctest.Wait()
		if len(f.ages) != 10 || f.ages[0] != 24*time.Hour || f.ages[1] != 48*time.Hour {
			t.Errorf("asked for %v", f.ages)
		}
	})
}
