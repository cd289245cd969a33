package realtime

import (
	"context"
	"log/slog"
	"time"
)

// Compaction schedules the compaction of the rooms of a database. Any number of servers may have one; only one
// of them compacts at a time.
type Compaction struct {
	// Every is the time before the first round and between two rounds. Defaults to never.
	Every time.Duration
	// Retention is the age from which operations are removed from logs.
	Retention time.Duration
	// Trash is the age from which deleted nodes are purged, once everything in them is older than Retention.
	// Defaults to never.
	Trash time.Duration
	// Rooms compacts the rooms. It is required if Every is set.
	Rooms Compactor
}

// Compactor compacts all rooms.
type Compactor interface {
	// CompactAll removes from the logs of all rooms the operations that are older than age and no longer
	// needed, and purges nodes deleted longer ago than trash, unless trash is 0. It calls each with the number
	// of operations and nodes removed from each room, or the room's error. If another process is compacting,
	// ran is false.
	CompactAll(ctx context.Context, age, trash time.Duration, each func(room string, folded, purged int64, err error)) (ran bool, err error)
}

// start begins to compact by the schedule; the function that it returns stops that and waits.
func (c Compaction) start(ctx context.Context, s *Server) (stop func()) {
	if c.Every == 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(c.Every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				s.guard(s.cfg.Logger, func() { c.round(ctx, s) })
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// round compacts all rooms once.
func (c Compaction) round(ctx context.Context, s *Server) {
	began := time.Now()
	var ops, nodes int64
	ran, err := c.Rooms.CompactAll(ctx, c.Retention, c.Trash, func(room string, folded, purged int64, err error) {
		ops, nodes = ops+folded, nodes+purged
		s.metrics.foldedOps.Add(float64(folded))
		s.metrics.purged.Add(float64(purged))
		if err != nil {
			s.metrics.compactions.WithLabelValues("room_failed").Inc()
			s.cfg.Logger.Error("compact room", "room", room, "error", err)
		}
	})
	switch {
	case ctx.Err() != nil: // told to stop: the next round goes on
	case err != nil:
		s.metrics.compactions.WithLabelValues("failed").Inc()
		s.cfg.Logger.Error("compact rooms", "error", err)
	case !ran:
		s.metrics.compactions.WithLabelValues("busy").Inc()
	default:
		s.metrics.compactions.WithLabelValues("done").Inc()
		s.metrics.compacted.SetToCurrentTime()
		s.cfg.Logger.Info("compacted rooms", slog.Int64("folded", ops), slog.Int64("purged", nodes), slog.Duration("took", time.Since(began)))
	}
}
