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
// A room that does not exist yet has a hub too, with a proposed epoch. The first push creates the room with it; if
// another process was first with another epoch, all sockets get a resync.
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
	head      *frame // the newest idle head, at headSeq; headVer counts them
	headSeq   int64
	headVer   int64
	lastSent  time.Time    // when ops or a head were last handed out
	traces    []trace.Link // of commits that are yet to be relayed
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

// start runs the goroutines until the hub ends, not just until the first request ends.
func (h *hub) start(ctx context.Context) {
	ctx, h.abort = context.WithCancel(context.WithoutCancel(ctx))
	h.srv.metrics.rooms.Inc()
	h.srv.running.Go(func() {
		defer h.srv.metrics.rooms.Dec()
		h.run(ctx)
	})
	h.srv.running.Go(func() { h.commitLoop(ctx) })
}

// end is called when nobody uses the hub, and nobody will again.
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

// wakeAll has every socket check for something to send. The caller holds mu.
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
