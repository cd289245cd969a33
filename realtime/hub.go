package realtime

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/singleflight"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// hub is a room in use: who is in it, the tail of its log, and the two goroutines that feed them.
//
// A room that does not exist yet has a hub too, with a proposed epoch. The first push makes the room
// with it; where another process was first with another epoch, all sockets get a resync.
type hub struct {
	srv  *Server
	room string
	log  *slog.Logger

	dirty chan struct{} // something was committed
	stir  chan struct{} // presence or members changed
	look  chan struct{} // the room's row is to be read now
	pace  chan struct{} // messages of other processes began or ceased to come through
	jobs  chan *job
	chunk chunk

	lingering
	fills singleflight.Group // reads into the tail
	looks singleflight.Group // reads of the row, for sockets that are ahead of it

	refs  int                // users: sockets and requests; guarded by srv.mu
	quit  chan struct{}      // closed when there have been none for long enough
	abort context.CancelFunc // fails what the store is doing; set by start, guarded by loading

	loading  sync.Mutex
	loaded   bool   // guarded by loading
	unfollow func() // what other processes say; set by load

	mu        sync.Mutex // guards what follows, and every session's place
	exists    bool
	epoch     string
	history   int // counts the times that another one was adopted
	minSeq    int64
	committed int64 // the newest seq known to be in the log
	told      int64 // the newest seq that the other processes were told of
	relayed   int64 // the newest seq taken into the tail, which ends there
	tail      tail
	members   map[*session]struct{}
	byReplica map[moveop.ReplicaID]*session
	peers     peerList
	presence  presence
	away      elsewhere
	head      *frame // the newest idle head; headVersion counts them
	headVer   int64
	lastSent  time.Time    // when ops or a head were last handed out
	traces    []trace.Link // of commits that are yet to be relayed
}

// peerList is the list of members as last published.
type peerList struct {
	frame     *frame
	version   int64
	changed   bool // since it was published
	published time.Time
}

func newHub(srv *Server, room string) *hub {
	return &hub{
		srv:       srv,
		room:      room,
		log:       srv.cfg.Logger.With(slog.String("room", room)),
		dirty:     make(chan struct{}, 1),
		stir:      make(chan struct{}, 1),
		look:      make(chan struct{}, 1),
		pace:      make(chan struct{}, 1),
		jobs:      make(chan *job, 64),
		quit:      make(chan struct{}),
		chunk:     newChunk(srv.cfg.Limits),
		tail:      tail{limit: srv.cfg.Limits.TailBytes},
		members:   map[*session]struct{}{},
		byReplica: map[moveop.ReplicaID]*session{},
		presence:  presence{entries: map[moveop.ReplicaID]*presenceEntry{}},
		away:      newElsewhere(),
	}
}

// load reads the room and starts the goroutines, once; whoever comes in between waits for it.
func (h *hub) load(ctx context.Context) error {
	h.loading.Lock()
	defer h.loading.Unlock()
	if h.loaded {
		return h.freshen(ctx)
	}
	storeCtx, cancel := h.srv.storeContext(ctx)
	defer cancel()
	room, err := h.srv.cfg.Store.Room(storeCtx, h.room)
	if err != nil && !errors.Is(err, wire.ErrUnknownRoom) {
		return h.srv.storeError(h.log, "read room", err)
	}
	h.mu.Lock()
	if h.exists = err == nil; h.exists {
		h.epoch, h.minSeq = room.Epoch, room.MinSeq
		h.committed, h.relayed, h.away.spread = room.Head, room.Head, room.Head
	} else {
		h.epoch = uuid.NewString()
	}
	h.lastSent = time.Now()
	h.mu.Unlock()
	h.loaded = true
	h.unfollow = h.srv.cluster.follow(h.room)
	h.askAround()
	h.start(ctx)
	return nil
}

// start runs the goroutines until the hub ends, not until the request that happened to be
// first ends.
func (h *hub) start(ctx context.Context) {
	ctx, h.abort = context.WithCancel(context.WithoutCancel(ctx))
	h.srv.metrics.rooms.Inc()
	h.srv.running.Go(func() {
		defer h.srv.metrics.rooms.Dec()
		h.run(ctx)
	})
	h.srv.running.Go(func() { h.commitLoop(ctx) })
}

// end is called when nobody uses the hub any more, and nobody will.
func (h *hub) end() {
	close(h.quit)
	h.cancel()
	if h.unfollow != nil {
		h.unfollow()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.away.version != 0 {
		h.srv.cluster.nobodyIn(h.room)
	}
}

// cancel fails the store calls under way, and every later one; pushes are still answered.
func (h *hub) cancel() {
	h.loading.Lock()
	defer h.loading.Unlock()
	if h.abort != nil {
		h.abort()
	}
}

// run relays what was committed, by whichever process, and publishes members, presence and heads.
func (h *hub) run(ctx context.Context) {
	timing := h.srv.cfg.Timing
	poll := time.NewTimer(timing.Poll)
	defer poll.Stop()
	tick := time.NewTimer(timing.Presence)
	defer tick.Stop()
	ticking := true
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.dirty:
			h.srv.guard(h.log, func() { h.relay(ctx) })
		case <-poll.C:
			h.srv.guard(h.log, func() { h.poll(ctx) })
			poll.Reset(h.nextPoll())
		case <-h.look:
			h.srv.guard(h.log, func() { h.poll(ctx) })
			poll.Reset(h.nextPoll())
		case <-h.pace: // not all rooms at once
			poll.Reset(timing.Poll/2 + rand.N(timing.Poll/2+1))
		case <-h.stir:
			if !ticking {
				tick.Reset(timing.Presence)
				ticking = true
			}
		case <-tick.C:
			ticking = false
			h.srv.guard(h.log, h.publish)
		}
	}
}

// nextPoll is the time to the next poll: where hints come through, none is needed before the room is
// due to send its head.
func (h *hub) nextPoll() time.Duration {
	timing := h.srv.cfg.Timing
	if h.sleeping.Load() {
		return timing.Linger // or until it is woken
	}
	if !h.srv.hinted.Load() {
		return timing.Poll
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return min(timing.HintedPoll, max(timing.Poll, timing.Head-time.Since(h.lastSent)))
}

// hint hears that the log has reached head. Of a room that did not exist the row has to be read: its
// epoch is another than the proposed one.
func (h *hub) hint(head int64) {
	if h.sleeping.Load() {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if head <= h.committed {
		return
	}
	h.srv.metrics.hintsHeard.Inc()
	if h.exists {
		signal(h.dirty)
	} else {
		signal(h.look)
	}
}

// tell tells the other processes of a commit; with its ops, if they take them, when these have been read.
func (h *hub) tell(head int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if head > h.told {
		h.told, h.away.head = head, head
		if h.relayed >= head || !h.srv.cluster.carriesOps() {
			h.srv.cluster.add(h)
		}
	}
}

// tellOps tells what waited for the ops to be read, whether they were or not.
func (h *hub) tellOps() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.away.head > 0 {
		h.srv.cluster.add(h)
	}
}

// relay takes what was committed since the last time into the tail and wakes the sockets.
func (h *hub) relay(ctx context.Context) {
	ctx, end := h.srv.tracing.relay(ctx, h)
	defer end()
	defer h.tellOps()
	for {
		after, history := h.position()
		limit := h.chunk.n
		ops, err := h.readOps(ctx, after, limit)
		if compacted(err) && h.skip(ctx, after) {
			continue
		}
		if err != nil {
			if !errors.Is(err, wire.ErrUnknownRoom) && ctx.Err() == nil {
				_ = h.srv.storeError(h.log, "read ops", err) // logged there; the next poll tries again
			}
			return
		}
		if !contiguous(ops, after) {
			h.log.Error("the log has a hole", "after", after)
			return
		}
		h.chunk.adapt(ops)
		h.extend(history, ops)
		if len(ops) < limit {
			return
		}
	}
}

// compacted reports whether a store no longer has the ops asked for.
func compacted(err error) bool {
	refused, ok := errors.AsType[*wire.Error](err)
	return ok && refused.Code == wire.CodeCompacted
}

// skip goes on behind ops that were folded before they were relayed from here. Whoever has not got them
// by then finds out from the log that it has to take a snapshot. It reports whether that was the case.
func (h *hub) skip(ctx context.Context, after int64) bool {
	if _, err := h.refresh(ctx); err != nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.relayed != after || h.minSeq <= after {
		return false
	}
	h.log.Warn("ops were folded before they were relayed", "from", after+1, "to", h.minSeq)
	h.tail.clear()
	h.relayed = h.minSeq
	h.wakeAll()
	return true
}

func (h *hub) readOps(ctx context.Context, after int64, limit int) ([]moveop.Op, error) {
	ctx, cancel := h.srv.storeContext(ctx)
	defer cancel()
	return h.srv.cfg.Store.OpsAfter(ctx, h.room, after, limit)
}

// position is up to where a history was relayed, and which one that is.
func (h *hub) position() (seq int64, history int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.relayed, h.history
}

// extend takes ops that were read of a history into the tail, unless another one was adopted in between.
func (h *hub) extend(history int, ops []moveop.Op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.history == history {
		h.take(ops)
	}
}

// take puts those ops into the tail that come right after what is there, and returns how many these are.
// Others may have come meanwhile, from another process. The caller holds mu.
func (h *hub) take(ops []moveop.Op) (taken int) {
	for len(ops) > 0 && ops[0].Seq <= h.relayed {
		ops = ops[1:]
	}
	if len(ops) == 0 || ops[0].Seq != h.relayed+1 {
		return 0
	}
	taken = len(ops)
	h.srv.metrics.relayed.Add(float64(taken))
	for len(ops) > 0 {
		var f *opsFrame
		f, ops = takeFrame(ops, h.srv.cfg.Limits.MaxFrame)
		h.tail.push(f)
		h.relayed = f.to
	}
	h.exists = true
	h.committed = max(h.committed, h.relayed)
	h.lastSent = time.Now()
	h.wakeAll()
	return taken
}

// poll looks at the room's row, which is how other processes' commits and a replaced history are
// found, and hands out the head where nothing happened for a while.
func (h *hub) poll(ctx context.Context) {
	if h.sleeping.Load() {
		return
	}
	room, err := h.refresh(ctx)
	if err != nil {
		return
	}
	if room.Head > h.seq() {
		h.relay(ctx)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.presence.expire(h)
	idle := time.Since(h.lastSent) >= h.srv.cfg.Timing.Head
	if !idle || room.Head != h.relayed || room.Epoch != h.epoch {
		return // the digest belongs to room.Head and to nothing else
	}
	h.head = newFrame(wire.Head{Head: room.Head, Digest: room.Digest})
	h.headVer++
	h.lastSent = time.Now()
	h.wakeAll()
}

// refresh reads the room's row and adopts it. A room that does not exist gives the proposed one.
func (h *hub) refresh(ctx context.Context) (wire.Room, error) {
	ctx, cancel := h.srv.storeContext(ctx)
	defer cancel()
	before := h.seq()
	room, err := h.srv.cfg.Store.Room(ctx, h.room)
	if errors.Is(err, wire.ErrUnknownRoom) {
		h.mu.Lock()
		defer h.mu.Unlock()
		return wire.Room{Name: h.room, Epoch: h.epoch}, nil
	}
	if err != nil {
		return wire.Room{}, h.srv.storeError(h.log, "read room", err)
	}
	h.adopt(room, before)
	return room, nil
}

// reach has the room's row read where a cursor is ahead of what is known here: another process may have
// told the socket more. Sockets that come together, from a process that has ended, have it read once.
func (h *hub) reach(ctx context.Context, seq int64) error {
	for range 2 { // a read that was under way may have begun before what this socket knows was committed
		if h.reached(seq) {
			return nil
		}
		_, err, shared := h.looks.Do("", func() (any, error) {
			return h.refresh(context.WithoutCancel(ctx)) // whoever asked first may be gone before the others
		})
		if err != nil || !shared {
			return err
		}
	}
	return nil
}

func (h *hub) reached(seq int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return seq <= h.committed
}

// adopt takes over what the room's row says. before is what was relayed when the reading began: a
// head behind that is a history cut short, whatever its epoch says.
func (h *hub) adopt(room wire.Room, before int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.exists, h.minSeq = true, room.MinSeq
	if room.Epoch == h.epoch && room.Head >= before {
		if room.Head > h.committed {
			h.committed = room.Head
			signal(h.dirty)
		}
		return
	}
	h.log.Warn("the room's history was replaced", "epoch", room.Epoch, "head", room.Head)
	h.history++
	h.epoch, h.committed, h.relayed, h.told = room.Epoch, room.Head, room.Head, room.Head
	h.away.spread = room.Head
	h.tail.clear()
	for s := range h.members {
		h.unsync(s, wire.ResyncEpoch)
	}
	h.wakeAll()
}

// unsync takes a socket's cursor away and has it told why. The caller holds mu.
func (h *hub) unsync(s *session, reason string) {
	h.srv.metrics.resyncs.WithLabelValues(reason).Inc()
	s.place.synced = false
	s.place.generation++
	s.place.resync = &wire.Resync{Reason: reason, Epoch: h.epoch, Head: h.committed}
}

// seek moves a socket's cursor, or has it told that it cannot be served. The caller holds mu.
func (h *hub) seek(s *session, epoch string, seq int64) {
	switch {
	case seq == 0 && h.minSeq == 0: // everything, whatever history the socket thought of
	case seq != 0 && (epoch != h.epoch || seq > h.committed):
		h.unsync(s, wire.ResyncEpoch)
		return
	case seq < h.minSeq:
		h.unsync(s, wire.ResyncCompacted)
		return
	}
	s.place.synced, s.place.cursor, s.place.epoch = true, seq, h.epoch
	s.place.resync, s.place.wasLive = nil, false
	s.place.generation++
}

// known reports whether the room exists.
func (h *hub) known() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.exists
}

// admit returns what a token allows in the room.
func (h *hub) admit(ctx context.Context, token string) (Grant, error) {
	grant, err := h.srv.authorize(ctx, token, h.room)
	if err != nil {
		return Grant{}, err
	}
	return grant, h.allow(ctx, grant)
}

// mustExist looks again where the room was not there: another process may have made it.
func (h *hub) mustExist(ctx context.Context) error {
	if h.known() {
		return nil
	}
	if _, err := h.refresh(ctx); err != nil {
		return err
	}
	if !h.known() {
		return wire.UnknownRoom()
	}
	return nil
}

func (h *hub) seq() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.relayed
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

// leave may be called again, and for a session that never joined.
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

// membersChanged has the list of members told, here and elsewhere. The caller holds mu.
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

// wakeAll has every socket look at what there is for it. The caller holds mu.
func (h *hub) wakeAll() {
	for s := range h.members {
		signal(s.wake)
	}
}

// signal makes a pending wake-up of a channel with one slot.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// chunk is how many ops to read at a time: few where they are large, since a store bounds its answer
// in ops and memory is bounded in bytes.
type chunk struct {
	n, max int
	bytes  int // aim
}

func newChunk(limits Limits) chunk {
	return chunk{n: min(128, limits.MaxOps), max: limits.MaxOps, bytes: int(limits.MaxFrame)}
}

func (c *chunk) adapt(ops []moveop.Op) {
	size := 0
	for i := range ops {
		size += opSize(&ops[i])
	}
	switch {
	case size > 2*c.bytes:
		c.n = max(1, len(ops)*c.bytes/size)
	case len(ops) == c.n:
		c.n = min(c.max, 2*c.n)
	}
}
