package realtime

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// presence is the latest ephemeral state of each replica of a room, guarded by the hub's mu. Changes are numbered; a
// socket remembers the number of the last one sent to it, so nothing is queued and it gets only the latest state.
type presence struct {
	entries   map[moveop.ReplicaID]*presenceEntry
	changes   int64 // the newest change
	published int64 // the newest change that sockets are told of
	cache     presenceFrame
}

type presenceEntry struct {
	replica moveop.ReplicaID
	process string          // where it is; empty: here
	state   json.RawMessage // nil: gone, kept until every socket has been told
	change  int64
	at      time.Time
}

// presenceFrame tells the changes from…to; kept because most sockets have been told the same.
type presenceFrame struct {
	*frame
	from, to int64
}

// set changes the state of a replica at a process (empty: here); nil takes it back.
func (p *presence) set(replica moveop.ReplicaID, process string, state json.RawMessage) {
	e := p.entries[replica]
	if e == nil {
		if state == nil {
			return
		}
		e = &presenceEntry{replica: replica}
		p.entries[replica] = e
	}
	if e.state == nil && state == nil {
		return
	}
	p.changes++
	e.state, e.process, e.change, e.at = state, process, p.changes, time.Now()
}

// publish lets sockets see the changes, and drops replicas that are gone for so long that every socket has been told
// or was closed for being slow. It reports whether there is anything new.
func (p *presence) publish(forget time.Duration) bool {
	for replica, e := range p.entries {
		if e.state == nil && e.change <= p.published && time.Since(e.at) > forget {
			delete(p.entries, replica)
		}
	}
	if p.published == p.changes {
		return false
	}
	p.published = p.changes
	return true
}

// expire takes back the state of replicas here that have said nothing for PresenceTTL.
func (p *presence) expire(h *hub) {
	for replica, e := range p.entries {
		s := h.byReplica[replica]
		if e.state != nil && e.process == "" && (s == nil || s.quietFor() > h.srv.cfg.Timing.PresenceTTL) {
			p.set(replica, "", nil)
			signal(h.stir)
		}
	}
}

// after returns a frame with the changes after seen, as many as fit into maxBytes, and up to which
// change it goes. Those up to joined are told only where there is a state.
func (p *presence) after(seen, joined int64, maxBytes int64) (*frame, int64) {
	if c := p.cache; c.frame != nil && c.from == seen && c.to == p.published && joined <= seen {
		return c.frame, c.to
	}
	changed := slices.DeleteFunc(p.since(seen), func(e *presenceEntry) bool {
		return e.state == nil && e.change <= joined
	})
	to, size := p.published, int64(64)
	updates := make(map[moveop.ReplicaID]json.RawMessage, len(changed))
	for i, e := range changed {
		if size += int64(len(e.state)) + 24; size > maxBytes && i > 0 {
			to = changed[i-1].change
			break
		}
		updates[e.replica] = orNull(e.state)
	}
	if len(updates) == 0 {
		return nil, to
	}
	f := newFrame(wire.Presence{Updates: updates})
	if joined <= seen && to == p.published {
		p.cache = presenceFrame{f, seen, to}
	}
	return f, to
}

// since lists what was published after a change, the oldest first.
func (p *presence) since(change int64) []*presenceEntry {
	var changed []*presenceEntry
	for _, e := range p.entries {
		if e.change > change && e.change <= p.published {
			changed = append(changed, e)
		}
	}
	slices.SortFunc(changed, func(a, b *presenceEntry) int { return cmp.Compare(a.change, b.change) })
	return changed
}

func orNull(state json.RawMessage) json.RawMessage {
	if state == nil {
		return json.RawMessage("null")
	}
	return state
}
