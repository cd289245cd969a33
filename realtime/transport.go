package realtime

import (
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/canopysync/canopy/realtime/wire"
)

// Transport carries messages between the processes that serve one database. A message lost, duplicated or
// delayed costs latency or shows people who are not there, but never an operation: the log is authoritative.
// pgfuncs.Transport is one over Postgres, and package nats has one over NATS.
type Transport interface {
	// Send sends one message to each room of batch; the room "" reaches all processes, whatever rooms they
	// follow. After an error, nobody or only some may have received it.
	Send(ctx context.Context, batch map[string][]byte) error
	// Listen calls hear for each message of any process, perhaps including this one, until ctx is done. It
	// calls live with true when messages begin to arrive (earlier ones may have been lost), and with false
	// when they no longer do. It calls both from one goroutine; they must not retain data.
	Listen(ctx context.Context, hear func(room string, data []byte), live func(bool))
	// Follow subscribes to a room's messages until unfollow is called, once. Neither blocks.
	Follow(room string) (unfollow func())
	// CarriesOps reports whether messages may carry committed ops, to spare other processes reading them from
	// the log. That is safe only if nobody can send who may not write to the log.
	CarriesOps() bool
}

// cluster is the server's side of its transport: it knows the other processes, sends the hubs' letters, and hands the
// others' letters to the hubs.
//
// Nothing is queued. The hubs keep their news as marks and latest states; the sender collects them when the last batch
// is on its way. So a slow transport makes batches fuller, not more.
//
// Processes that are silent for three heartbeats are gone, and so are all their members.
type cluster struct {
	srv       *Server
	transport Transport // nil: there is none, and nothing of this happens
	id        string
	versions  atomic.Int64 // of the lists of members that were told
	presence  *allowance   // bytes of presence
	wake      chan struct{}

	mu        sync.Mutex           // guards what follows; no other lock is taken under it
	processes map[string]time.Time // the others, and when they were last heard of
	due       map[*hub]struct{}    // have something to say
	asks      map[string]struct{}  // rooms to ask about
	absent    map[string]struct{}  // rooms that were asked about and have nobody here
	greets    bool                 // all are to hear of us
}

// What one process may cost another.
const (
	opsBytes     = 32 << 10 // of ops in a letter; more are read from the log
	maxProcesses = 256
	maxAsked     = 10_000    // rooms asked about and not answered yet
	askedAtOnce  = 500       // rooms in one letter
	batchBytes   = 256 << 10 // after which a batch takes no more letters
)

func newCluster(srv *Server, transport Transport) *cluster {
	return &cluster{
		srv: srv, transport: transport, id: uuid.NewString(),
		presence:  newAllowance(srv.cfg.Limits.TransportPresence),
		wake:      make(chan struct{}, 1),
		processes: map[string]time.Time{},
		due:       map[*hub]struct{}{},
		asks:      map[string]struct{}{},
		absent:    map[string]struct{}{},
	}
}

// start runs the cluster until stop, which waits for the end, is called.
func (c *cluster) start(ctx context.Context) (stop func()) {
	if c.transport == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { c.send(ctx) })
	running.Go(func() {
		c.transport.Listen(ctx, func(room string, data []byte) {
			c.srv.guard(c.srv.cfg.Logger, func() { c.hear(ctx, room, data) })
		}, c.live)
	})
	return func() {
		cancel()
		running.Wait()
	}
}

// live changes how often rooms are polled. Either way each is polled soon, to find commits made while messages did not
// arrive. Members must be asked for, and told, again: processes that could hear before we could may have asked us in
// vain.
func (c *cluster) live(live bool) {
	c.srv.hinted.Store(live)
	c.srv.metrics.hintsLive.Set(0)
	if live {
		c.srv.metrics.hintsLive.Set(1)
		c.greet()
	}
	for _, h := range c.srv.allHubs() {
		signal(h.pace)
		if live {
			c.ask(h.room)
			h.answer()
		}
	}
}

// send sends what there is to say, at most once per Timing.Transport, until ctx is done; then it says
// good-bye.
func (c *cluster) send(ctx context.Context) {
	beat := time.NewTicker(c.srv.cfg.Timing.Heartbeat)
	defer beat.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-beat.C:
			c.beat()
		case <-c.wake:
			c.sendBatch(ctx)
			pause(ctx, c.srv.cfg.Timing.Transport)
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	for c.sendBatch(last) && last.Err() == nil {
	}
	if bye, err := json.Marshal(letter{From: c.id, Bye: true}); err == nil {
		_ = c.transport.Send(last, map[string][]byte{"": bye}) // silence tells, too
	}
}

// beat sends a heartbeat, for the process and for each room with members, and forgets processes that sent none.
func (c *cluster) beat() {
	c.greet()
	hubs := c.srv.allHubs()
	for _, h := range hubs {
		h.beat()
	}
	limit := time.Now().Add(-3 * c.srv.cfg.Timing.Heartbeat)
	c.mu.Lock()
	for id, at := range c.processes {
		if at.Before(limit) {
			delete(c.processes, id)
		}
	}
	c.countProcesses()
	c.mu.Unlock()
	for _, h := range hubs {
		h.forgetSilent(limit)
	}
}

// sendBatch sends one batch; it reports whether there was something to send and it went.
func (c *cluster) sendBatch(ctx context.Context) bool {
	batch, hubs := c.gather()
	if len(batch) == 0 {
		return false
	}
	sending, cancel := context.WithTimeout(ctx, c.srv.cfg.Timing.Heartbeat)
	defer cancel()
	if err := c.transport.Send(sending, batch); err != nil {
		c.sendFailed(ctx, hubs, err)
		return false
	}
	for _, data := range batch {
		c.srv.metrics.transportSent.Add(float64(len(data)))
	}
	return true
}

// sendFailed has hubs repeat a batch that did not get through. If ctx has ended it is no failure: stopping cuts off the
// batch under way.
func (c *cluster) sendFailed(ctx context.Context, hubs []*hub, err error) {
	if ctx.Err() == nil {
		c.srv.metrics.transportFails.Inc()
		if c.srv.faults.allow() {
			c.srv.cfg.Logger.Warn("tell other processes", "error", err)
		}
	}
	pause(ctx, 100*time.Millisecond)
	for _, h := range hubs {
		h.sayAgain()
	}
}

// gather collects letters, up to one batch.
func (c *cluster) gather() (batch map[string][]byte, hubs []*hub) {
	c.mu.Lock()
	due := c.due
	c.due = map[*hub]struct{}{}
	batch = c.gatherOwn()
	c.mu.Unlock()
	size := 0
	for h := range due {
		if size > batchBytes {
			c.add(h)
			continue
		}
		l, ok := h.say()
		if !ok {
			continue
		}
		data, err := json.Marshal(l)
		if err != nil {
			h.log.Error("encode letter", "error", err)
			continue
		}
		size += len(data)
		batch[h.room] = data
		hubs = append(hubs, h)
	}
	return batch, hubs
}

// gatherOwn collects letters to all processes, and about rooms that are not in use here. The caller holds mu.
func (c *cluster) gatherOwn() map[string][]byte {
	batch := map[string][]byte{}
	l := letter{From: c.id}
	for room := range c.asks {
		if len(l.Asks) == askedAtOnce {
			signal(c.wake)
			break
		}
		l.Asks = append(l.Asks, room)
		delete(c.asks, room)
	}
	if c.greets || len(l.Asks) > 0 {
		c.greets = false
		batch[""], _ = json.Marshal(l) // names and strings only
	}
	nobody, _ := json.Marshal(letter{From: c.id})
	for room := range c.absent {
		if len(batch) > askedAtOnce {
			signal(c.wake)
			break
		}
		batch[room] = nobody
		delete(c.absent, room)
	}
	return batch
}

// follow has what is said in a room come in.
func (c *cluster) follow(room string) (unfollow func()) {
	if c.transport == nil {
		return func() {}
	}
	return c.transport.Follow(room)
}

// carriesOps reports whether letters hold ops.
func (c *cluster) carriesOps() bool { return c.transport != nil && c.transport.CarriesOps() }

// add has a hub say what it has to say.
func (c *cluster) add(h *hub) {
	if c.transport == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.due[h] = struct{}{}
	signal(c.wake)
}

// ask has the other processes say who is in a room.
func (c *cluster) ask(room string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.asks) < maxAsked {
		c.asks[room] = struct{}{}
		signal(c.wake)
	}
}

func (c *cluster) greet() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.greets = true
	signal(c.wake)
}

// nobodyIn says that there is nobody in a room here.
func (c *cluster) nobodyIn(room string) {
	if c.transport == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.absent) < maxAsked {
		c.absent[room] = struct{}{}
		signal(c.wake)
	}
}

// others lists the processes that may answer, none if the answer would not be heard.
func (c *cluster) others() map[string]struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	ids := map[string]struct{}{}
	if c.srv.hinted.Load() {
		for id := range c.processes {
			ids[id] = struct{}{}
		}
	}
	return ids
}

// alone reports whether there is nobody to tell who is here.
func (c *cluster) alone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.processes) == 0
}

// hear takes what came for a room, from whichever process.
func (c *cluster) hear(ctx context.Context, room string, data []byte) {
	var h *hub
	if room != "" {
		if h = c.srv.hub(room); h == nil {
			return
		}
	}
	var l letter
	if err := json.Unmarshal(data, &l); err != nil || l.From == "" || l.From == c.id {
		return // our own, or nothing that we understand
	}
	c.srv.metrics.transportHeard.Add(float64(len(data)))
	if !c.meet(l.From, l.Bye) {
		return
	}
	if h != nil {
		h.listen(ctx, &l)
	}
	for _, asked := range l.Asks {
		if h := c.srv.hub(asked); h != nil {
			h.answer()
		} else if wire.ValidRoom(asked) == nil {
			c.nobodyIn(asked)
		}
	}
}

// meet notes a sign of life of a process. One that is new hears of us, and of the rooms that have
// somebody in them, at once.
func (c *cluster) meet(id string, bye bool) (ok bool) {
	c.mu.Lock()
	_, known := c.processes[id]
	ok = known || len(c.processes) < maxProcesses
	if ok {
		c.processes[id] = time.Now()
	}
	if bye {
		delete(c.processes, id)
	}
	c.countProcesses()
	c.mu.Unlock()
	switch {
	case bye:
		for _, h := range c.srv.allHubs() {
			h.forget(id)
		}
	case ok && !known:
		c.greet()
		for _, h := range c.srv.allHubs() {
			h.beat()
		}
	}
	return ok && !bye
}

// lose forgets processes that did not answer, until they are heard of again.
func (c *cluster) lose(ids map[string]struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range ids {
		delete(c.processes, id)
	}
	c.countProcesses()
}

// countProcesses has the metric follow. The caller holds mu.
func (c *cluster) countProcesses() { c.srv.metrics.processes.Set(float64(len(c.processes))) }

// pause waits, or until ctx is done.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
