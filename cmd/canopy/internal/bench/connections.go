package bench

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/google/uuid"
)

// socketsARoom is how many idle sockets there are in a room.
const socketsARoom = 50

// Connections measures what an idle socket costs.
func Connections(ctx context.Context, cfg Config) (Section, error) {
	cfg = cfg.withDefaults()
	if err := checkFiles(cfg.Sockets); err != nil {
		return Section{}, fmt.Errorf("measure connections: %w", err)
	}
	return withService(ctx, cfg, "connections", idleSockets)
}

// filesBeside is how many files each of the two processes has open besides its sockets, at most.
const filesBeside = 200

// checkFiles makes sure that so many sockets can be open in one process.
func checkFiles(sockets int) error {
	limit, ok := openFilesLimit()
	if need := uint64(sockets + filesBeside); ok && limit < need {
		return fmt.Errorf("%d sockets need %d open files in each of two processes, and the limit is %d: raise it (ulimit -n %d), or take fewer (--sockets)",
			sockets, need, limit, need)
	}
	return nil
}

// idleSockets joins and waits until each socket was sent the head of its idle room.
func idleSockets(ctx context.Context, c *Config, s *service) ([]Result, error) {
	j := join{URL: s.url, Sockets: c.Sockets}
	for i := range max(1, c.Sockets/socketsARoom) {
		room, err := s.db.CreateRoom(ctx, fmt.Sprintf("idle-%x-%d", time.Now().UnixNano(), i), uuid.NewString())
		if err != nil {
			return nil, err
		}
		j.Rooms = append(j.Rooms, room)
	}
	before := memory()
	name := fmt.Sprintf("%s idle sockets, %d a room", count(c.Sockets), min(socketsARoom, c.Sockets))
	c.Progress.Start(name, int64(c.Sockets))
	defer c.Progress.End()
	crowd, err := s.join(j)
	if err != nil {
		return nil, err
	}
	for heard := 0; heard < c.Sockets; {
		a, err := s.ask(order{Count: &crowd})
		if err != nil {
			return nil, err
		}
		c.Progress.Add(int64(a.Count - heard))
		heard = a.Count
		if err := sleepUntil(ctx, time.Now().Add(200*time.Millisecond)); err != nil {
			return nil, err
		}
	}
	each := (memory() - before) / float64(c.Sockets)
	results := []Result{
		absolute("memory for each of "+name, "B/socket", 20<<10, each, 1),
		rate("idle sockets held, each was sent the head of its room", "sockets", "", float64(c.Sockets), 0, float64(c.Sockets), 1),
	}
	return results, s.leave(crowd)
}

// memory is what this process has from the system, without what it would give back. Each collection
// halves stacks that are too large, so that it takes some, which come by themselves in some minutes.
func memory() float64 {
	for range 4 {
		debug.FreeOSMemory()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.Sys - m.HeapReleased)
}
