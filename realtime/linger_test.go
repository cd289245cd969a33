package realtime_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime"
	"github.com/canopysync/canopy/realtime/wire"
)

// storm joins n sockets with one cursor, reads what they missed, and closes them.
func (s *service) storm(epoch string, n int, cursor, head int64) {
	s.t.Helper()
	var peers []*peer
	for i := range n {
		p := s.connect("plan")
		p.send(wire.Hello{Replica: moveop.ReplicaID(0x100 + i), Epoch: &epoch, Seq: cursor})
		p.cursor = cursor
		peers = append(peers, p)
	}
	for _, p := range peers {
		p.readTo(head)
		p.answer()
	}
	for _, p := range peers {
		_ = p.conn.Close()
	}
	synctest.Wait()
}

// Everybody loses the network and comes back: one read of the row and one of the log serve all.
func TestReconnectStorm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setupPipe(t)
		room := s.seed("plan", 50)
		s.storm(room.Epoch, 40, 50, 50)
		before := s.reads()
		time.Sleep(30 * time.Second)
		if n := s.reads() - before; n != 0 {
			t.Errorf("%d reads while nobody was there", n)
		}
		s.commit("plan", 0xb, 1, 10)
		s.storm(room.Epoch, 40, 50, 60)
		if n := s.reads() - before; n != 2 {
			t.Errorf("%d reads for the storm", n)
		}
	})
}

// After a restart the tail is empty, and is filled by one read for all who are a little behind.
func TestReconnectStormAfterARestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setupPipe(t)
		room := s.seed("plan", 5000)
		before := s.reads()
		s.storm(room.Epoch, 60, 4800, 5000)
		if n := s.reads() - before; n != 2 {
			t.Errorf("%d reads", n)
		}
		s.storm(room.Epoch, 1, 10, 5000) // far behind: on its own
	})
}

// The sockets of a process that ended are ahead of what this one knows: one read of the row tells all of
// them that it is behind, and one read of the log brings it in step.
func TestReconnectStormFromAnotherProcess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setupPipe(t)
		room := s.seed("plan", 50)
		s.join("plan", 0xa).readTo(50) // keeps the room in use
		synctest.Wait()
		before := s.reads()
		s.commit("plan", 0xb, 1, 10)
		s.storm(room.Epoch, 40, 60, 60)
		if n := s.reads() - before; n != 2 {
			t.Errorf("%d reads for the storm", n)
		}
	})
}

// Ops too large for the tail are still served, to each from the log.
func TestStormBehindASmallTail(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setupPipe(t, func(cfg *realtime.Config) { cfg.Limits.TailBytes = 20_000 })
		room := s.seed("plan", 300)
		s.storm(room.Epoch, 10, 20, 300)
	})
}

func TestLingeringIsBounded(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		configure func(*realtime.Config)
		reads     int // to join rooms 0 to 4 again: the row and the log of each that has gone
	}{
		"all linger":    {func(cfg *realtime.Config) {}, 0},
		"three at most": {func(cfg *realtime.Config) { cfg.Limits.IdleRooms = 3 }, 10},
		"no bytes":      {func(cfg *realtime.Config) { cfg.Limits.IdleBytes = 1 }, 10},
		"not at all":    {func(cfg *realtime.Config) { cfg.Timing.Linger = -1 }, 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := setupPipe(t, tc.configure)
				visit := func(ops int) {
					for i := range 5 {
						p := s.join(fmt.Sprint("room", i), 0xa)
						if ops > 0 {
							p.push(ops)
						}
						p.readTo(1)
						_ = p.conn.Close()
						synctest.Wait()
					}
				}
				visit(1)
				before := s.reads()
				visit(0)
				if n := s.reads() - before; n != tc.reads {
					t.Errorf("%d reads, want %d", n, tc.reads)
				}
			})
		})
	}
}

// A room that does not exist is not kept, or asking for names would fill the memory; and nothing is kept
// for longer than Linger.
func TestLingeringEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setupPipe(t)
		s.seed("plan", 1)
		gauge := func() string { return s.metric("canopy_realtime_rooms") }
		for _, room := range []string{"plan", "nowhere"} {
			p := s.join(room, 0xa)
			_ = p.conn.Close()
			synctest.Wait()
		}
		if got := gauge(); got != "1" {
			t.Errorf("%s rooms in memory", got)
		}
		time.Sleep(61 * time.Second)
		synctest.Wait()
		if got := gauge(); got != "0" {
			t.Errorf("%s rooms in memory after a minute", got)
		}
	})
}
