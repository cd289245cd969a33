package realtime

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// elsewhere is a hub's knowledge of the room's sockets at other processes, and its news for those processes. Guarded
// by the hub's mu.
type elsewhere struct {
	rosters  map[string]*roster // by process
	awaited  map[string]struct{}
	met      chan struct{} // closed when nobody is awaited any more
	contests map[moveop.ReplicaID]*contest

	// What is to be said.
	head     int64 // zero: nothing new
	spread   int64 // the newest seq that others know, or were told
	beats    bool  // a sign of life
	lists    bool  // the list of members
	whole    bool  // and presence from the beginning
	speaks   bool  // presence
	probes   []moveop.ReplicaID
	alive    []moveop.ReplicaID
	changed  bool  // members have come or gone since the list had its version
	version  int64 // of the list; zero: nobody
	presence int64 // the newest change of presence that was told
}

// presenceBytes is the size after which a letter takes no more presence.
const presenceBytes = 32 << 10

// roster is who is in the room at another process.
type roster struct {
	version int64
	members map[moveop.ReplicaID]member
	heard   time.Time
}

func newElsewhere() elsewhere {
	return elsewhere{rosters: map[string]*roster{}, contests: map[moveop.ReplicaID]*contest{}}
}

// askAround asks the other processes who is in the room.
func (h *hub) askAround() {
	others := h.srv.cluster.others()
	if len(others) == 0 {
		return
	}
	h.mu.Lock()
	h.away.awaited, h.away.met = others, make(chan struct{})
	h.mu.Unlock()
	h.srv.cluster.ask(h.room)
}

// meet waits, at most Timing.Answer, until the other processes have told who is in the room. Those that have not by
// then are considered gone until they are heard again.
func (h *hub) meet(ctx context.Context) {
	h.mu.Lock()
	met := h.away.met
	h.mu.Unlock()
	if met == nil {
		return
	}
	timer := time.NewTimer(h.srv.cfg.Timing.Answer)
	defer timer.Stop()
	select {
	case <-met:
		return
	case <-ctx.Done():
		return
	case <-timer.C:
	}
	h.mu.Lock()
	silent := h.away.awaited
	h.away.awaited = nil
	h.mu.Unlock()
	h.srv.cluster.lose(silent)
}

// beat gives the others a sign of life of the room's members, if it has any.
func (h *hub) beat() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.away.version != 0 {
		h.away.beats = true
		h.srv.cluster.add(h)
	}
}

// answer tells those who ask who is in the room, and what they show.
func (h *hub) answer() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sayAll()
}

// sayAgain has the next letters repeat everything that may have been lost with earlier ones.
func (h *hub) sayAgain() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.away.head = h.told
	h.sayAll()
}

// sayAll has the next letters tell who is here, and what they show. The caller holds mu.
func (h *hub) sayAll() {
	h.away.lists, h.away.whole, h.away.speaks, h.away.presence = true, true, true, 0
	h.srv.cluster.add(h)
}

// list makes a new version of the list of members. The caller holds mu.
func (h *hub) list() {
	h.away.changed, h.away.lists, h.away.version = false, true, 0
	if len(h.members) > 0 {
		h.away.version = h.srv.cluster.versions.Add(1)
	}
	h.srv.cluster.add(h)
}

// say takes the news for other processes as a letter; ok is false if there are none.
func (h *hub) say() (l letter, ok bool) {
	alone := h.srv.cluster.alone()
	h.mu.Lock()
	defer h.mu.Unlock()
	a := &h.away
	l = letter{From: h.srv.cluster.id, Head: a.head, Probes: a.probes, Alive: a.alive}
	if alone {
		a.speaks = false // whoever comes asks
	}
	if a.lists && !alone {
		if l.Members = h.roster(); len(l.Members) == 0 {
			a.version = 0
		}
	}
	if a.speaks {
		l.Presence = h.speak()
	}
	if a.head > 0 {
		h.sayOps(&l)
		a.spread = max(a.spread, a.head)
	}
	l.Version, l.Whole = a.version, a.whole
	ok = a.head > 0 || !alone && (a.beats || a.lists || len(l.Presence)+len(a.probes)+len(a.alive) > 0)
	a.head, a.beats, a.lists, a.whole, a.probes, a.alive = 0, false, false, false, nil, nil
	return l, ok
}

// sayOps puts new ops into a letter, if they are few and in the tail. The caller holds mu.
func (h *hub) sayOps(l *letter) {
	if !h.srv.cluster.carriesOps() || h.relayed < l.Head || h.away.spread < h.minSeq {
		return
	}
	var ops []moveop.Op
	for seq, size := h.away.spread, 0; seq < h.relayed; seq = ops[len(ops)-1].Seq {
		f := h.tail.after(seq)
		if f == nil {
			return
		}
		if size += f.bytes; size > opsBytes {
			return
		}
		ops = append(ops, f.ops...)
	}
	if len(ops) > 0 {
		l.Epoch, l.After, l.Ops = h.epoch, h.away.spread, moveop.AppendOps(nil, ops)
		l.Head = h.relayed
	}
}

// takeOps appends ops that another process has read from the log to the tail. If they do not fit, it ignores them,
// and the log is read instead.
func (h *hub) takeOps(l *letter) {
	if len(l.Ops) == 0 || !h.srv.cluster.carriesOps() || h.sleeping.Load() {
		return
	}
	ops, err := moveop.DecodeOps(l.Ops)
	if err != nil || len(ops) == 0 || !contiguous(ops, l.After) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.exists && l.Epoch == h.epoch && ops[len(ops)-1].Seq > h.relayed {
		h.srv.metrics.transportOps.Add(float64(h.take(ops)))
	}
}

// roster lists the members, as many as go into a letter, those who are longest here first. The caller
// holds mu.
func (h *hub) roster() []member {
	list := make([]member, 0, len(h.members))
	for s := range h.members {
		list = append(list, member{Replica: s.replica, Name: s.name, User: s.grant.User, Since: s.since})
	}
	slices.SortFunc(list, func(a, b member) int { return cmp.Compare(a.Since, b.Since) })
	left := h.srv.cfg.Limits.RosterBytes
	return slices.DeleteFunc(list, func(m member) bool {
		fits := m.size() <= left
		if fits {
			left -= m.size()
		}
		return !fits
	})
}

// speak takes the presence that other processes do not know yet, as much as may be sent now. The caller holds mu.
func (h *hub) speak() map[moveop.ReplicaID]json.RawMessage {
	c, a := h.srv.cluster, &h.away
	a.speaks = false
	if c.presence.overdrawn() > 0 {
		h.srv.metrics.limited.WithLabelValues("transport_presence").Inc()
		a.speaks = true
		signal(h.stir) // look again at the next tick
		return nil
	}
	said, size := map[moveop.ReplicaID]json.RawMessage{}, 0
	for _, e := range h.presence.since(a.presence) {
		if e.process != "" {
			continue
		}
		if size > presenceBytes {
			a.speaks = true
			signal(h.stir)
			break
		}
		said[e.replica] = orNull(e.state)
		size += len(e.state) + 32
		a.presence = e.change
	}
	c.presence.spend(size)
	return said
}

// listen takes in what another process says in the room.
func (h *hub) listen(ctx context.Context, l *letter) {
	if l.Head > 0 {
		h.takeOps(l)
		h.hint(l.Head)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.away.spread = max(h.away.spread, min(l.Head, h.committed))
	h.takeRoster(ctx, l)
	for _, r := range l.Alive {
		if c := h.away.contests[r]; c != nil && c.process == l.From {
			c.decide(true)
		}
	}
	for _, r := range l.Probes {
		h.probed(ctx, r)
	}
	h.takePresence(l)
}

// takeRoster takes in who is there at another process. The caller holds mu.
func (h *hub) takeRoster(ctx context.Context, l *letter) {
	a := &h.away
	if _, ok := a.awaited[l.From]; ok && (l.Version == 0 || len(l.Members) > 0) {
		if delete(a.awaited, l.From); len(a.awaited) == 0 {
			close(a.met)
			a.awaited = nil
		}
	}
	for _, c := range a.contests {
		if c.process == l.From {
			signal(c.heard)
		}
	}
	r := a.rosters[l.From]
	switch {
	case l.Version == 0:
		h.setRoster(l.From, nil)
	case len(l.Members) > 0:
		h.setRoster(l.From, newRoster(l, h.srv.cfg.Limits.RosterBytes))
		h.contestOlder(ctx, l.From)
		if r == nil && !l.Whole {
			h.srv.cluster.ask(h.room) // somebody may have shown something already
		}
	case r == nil || r.version != l.Version:
		h.srv.cluster.ask(h.room)
	default:
		r.heard = time.Now()
		h.contestOlder(ctx, l.From)
	}
}

func newRoster(l *letter, limit int) *roster {
	r := &roster{version: l.Version, members: map[moveop.ReplicaID]member{}, heard: time.Now()}
	size := 0
	for _, m := range l.Members {
		if size += m.size(); size > limit || !m.Replica.Valid() {
			break
		}
		r.members[m.Replica] = m
	}
	return r
}

// setRoster replaces the members at a process; nil for nobody. A replica's presence goes with it. The caller holds
// mu.
func (h *hub) setRoster(process string, next *roster) {
	a := &h.away
	last := a.rosters[process]
	if last == nil && next == nil {
		return
	}
	delete(a.rosters, process)
	if next != nil {
		a.rosters[process] = next
	}
	for replica, e := range h.presence.entries {
		if e.process == process && !next.has(replica) {
			h.presence.set(replica, process, nil)
		}
	}
	for replica, c := range a.contests {
		if c.process == process && !next.has(replica) {
			c.decide(false)
		}
	}
	if !last.same(next) {
		h.peers.changed = true
		signal(h.stir)
	}
}

func (r *roster) has(replica moveop.ReplicaID) bool {
	if r == nil {
		return false
	}
	_, ok := r.members[replica]
	return ok
}

// same reports whether sockets would see no difference between the two.
func (r *roster) same(other *roster) bool {
	if r == nil || other == nil || len(r.members) != len(other.members) {
		return false
	}
	for replica, m := range r.members {
		if o, ok := other.members[replica]; !ok || o.peer() != m.peer() {
			return false
		}
	}
	return true
}

// takePresence takes in what members elsewhere show. The caller holds mu.
func (h *hub) takePresence(l *letter) {
	r := h.away.rosters[l.From]
	limit := 6 * h.srv.cfg.Limits.PresenceBytes // one byte may have become \u003c on the way
	for replica, state := range l.Presence {
		if !r.has(replica) || h.byReplica[replica] != nil || len(state) > limit {
			continue
		}
		if string(state) == "null" {
			state = nil
		}
		h.presence.set(replica, l.From, state)
		signal(h.stir)
	}
}

// forget drops the members at a process that is gone.
func (h *hub) forget(process string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.setRoster(process, nil)
	if delete(h.away.awaited, process); h.away.awaited != nil && len(h.away.awaited) == 0 {
		close(h.away.met)
		h.away.awaited = nil
	}
}

// forgetSilent drops the members at processes that were last heard before limit.
func (h *hub) forgetSilent(limit time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for process, r := range h.away.rosters {
		if r.heard.Before(limit) {
			h.setRoster(process, nil)
		}
	}
}

// clients lists the members here and elsewhere in a stable order. The caller holds mu.
func (h *hub) clients() []wire.Peer {
	peers := make([]wire.Peer, 0, len(h.members))
	for s := range h.members {
		peers = append(peers, wire.Peer{Replica: s.replica, Name: s.name, User: s.grant.User})
	}
	for _, r := range h.away.rosters {
		for replica, m := range r.members {
			if h.byReplica[replica] == nil {
				peers = append(peers, m.peer())
			}
		}
	}
	slices.SortFunc(peers, func(a, b wire.Peer) int {
		return cmp.Or(cmp.Compare(a.Replica, b.Replica), cmp.Compare(a.Name, b.Name), cmp.Compare(a.User, b.User))
	})
	return slices.CompactFunc(peers, func(a, b wire.Peer) bool { return a.Replica == b.Replica })
}

// after returns a time for a new socket that is later than those of all known sockets of its replica. The caller
// holds mu.
func (h *hub) after(replica moveop.ReplicaID) int64 {
	since := time.Now().UnixMicro()
	for _, r := range h.away.rosters {
		if m, ok := r.members[replica]; ok {
			since = max(since, m.Since+1)
		}
	}
	return since
}
