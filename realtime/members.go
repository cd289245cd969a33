package realtime

import (
	"time"

	"github.com/canopysync/canopy/realtime/wire"
)

// peerList is the list of members as last published.
type peerList struct {
	frame     *frame
	version   int64
	changed   bool // since it was published
	published time.Time
}

// join makes s the member for its replica, or returns the one that already is.
func (h *hub) join(s *session) (older *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if older = h.byReplica[s.replica]; older != nil {
		return older
	}
	s.since = h.after(s.replica)
	h.members[s] = struct{}{}
	h.byReplica[s.replica] = s
	h.membersChanged()
	return nil
}

// leave may be called repeatedly, and for a session that never joined.
func (h *hub) leave(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.members[s]; !ok {
		return
	}
	delete(h.members, s)
	delete(h.byReplica, s.replica)
	h.presence.set(s.replica, "", nil)
	h.membersChanged()
	if c := h.away.contests[s.replica]; c != nil {
		c.decide(false)
	}
}

// membersChanged has the list of members sent, here and to other processes. The caller holds mu.
func (h *hub) membersChanged() {
	h.peers.changed, h.away.changed = true, true
	signal(h.stir)
}

// publish makes new presence, and a changed list of members, visible to the sockets.
func (h *hub) publish() {
	h.mu.Lock()
	defer h.mu.Unlock()
	wake := h.presence.publish(4 * h.srv.cfg.Timing.Lag)
	if wake || h.away.speaks {
		h.away.speaks = true
		h.srv.cluster.add(h)
	}
	if h.peers.changed {
		if time.Since(h.peers.published) >= h.peersInterval() {
			h.peers = peerList{
				frame:     newFrame(wire.Connections{Clients: h.clients()}),
				version:   h.peers.version + 1,
				published: time.Now(),
			}
			wake = true
			if h.away.changed {
				h.list()
			}
		} else {
			signal(h.stir) // not yet: look again at the next tick
		}
	}
	if wake {
		h.wakeAll()
	}
}

// peersInterval grows with the room: a list of n to n sockets on each of n joins would be n³.
func (h *hub) peersInterval() time.Duration {
	n := len(h.members)
	for _, r := range h.away.rosters {
		n += len(r.members)
	}
	return h.srv.cfg.Timing.Presence * time.Duration(n/64)
}
