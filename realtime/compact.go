package realtime

import (
	"context"
	"log/slog"
	"time"
)

// Compaction is the schedule by which a server compacts the rooms of its database. Any number of servers
// may have one: one of them does it at a time.
type Compaction struct {
	// Every is how long to wait before the first and between two rounds. Defaults to never.
	Every time.Duration
	// Retention is the age from which operations are taken out of logs.
	Retention time.Duration
	// Trash is the age from which deleted nodes are purged, once what is in them is older than Retention.
	// Defaults to never.
	Trash time.Duration
	// Rooms does it. It is required where Every is set.
	Rooms Compactor
}

// Compactor compacts all rooms.
type Compactor interface {
	// CompactAll takes out of the logs of all rooms what is older than age and nothing can need, and purges
	// what was deleted longer ago than trash, if that is not 0. Each hears how many operations and nodes went
	// from each room. ran is false where another process was at it.
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
