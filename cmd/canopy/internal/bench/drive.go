package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// run is a drive under way.
type run struct {
	drive
	ops    []moveop.Op
	start  time.Time
	rooms  map[*crowdRoom]*span
	traces []trace // by socket; each is of the socket's reader, until the run is over
	acked  []time.Duration
	acks   atomic.Int64  // still to come
	left   atomic.Int64  // sockets that have not got everything
	ended  chan struct{} // has something when both are 0
}

// span is the operations of one room.
type span struct {
	tick int64 // of the first one
	ops  []int // their places in run.ops
}

// trace is what one socket has received of a run.
type trace struct {
	left      int // operations still to come
	frames    int
	samples   []sample
	witnessed [][]byte
	last      time.Duration
}

type sample struct {
	op   int
	took time.Duration
}

// drive runs one drive to its end.
func (c *crowd) drive(ctx context.Context, d drive) (o outcome, err error) {
	r := c.plan(d)
	upload, err := prepareUpload(ctx, d.Upload)
	if err != nil {
		return o, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var working sync.WaitGroup
	defer working.Wait()
	defer cancel()
	r.start = time.Now().Add(50 * time.Millisecond)
	c.run.Store(r)
	for w := range d.Writers {
		working.Go(func() {
			if err := c.sockets[w].write(ctx, r); err != nil {
				c.fail(err)
			}
		})
	}
	uploaded := make(chan time.Duration, 1)
	working.Go(func() {
		took, err := upload(ctx, r.start)
		if err != nil {
			c.fail(err)
		}
		uploaded <- took
	})
	if _, err = await(ctx, c, r.ended); err != nil {
		return o, err
	}
	if o.Uploaded, err = await(ctx, c, uploaded); err != nil {
		return o, err
	}
	c.collect(r, &o)
	return o, nil
}

// await waits for something from a channel, or the first fault of a socket.
func await[T any](ctx context.Context, c *crowd, from <-chan T) (v T, err error) {
	select {
	case v = <-from:
		return v, nil
	case err := <-c.failed:
		return v, err
	case <-ctx.Done():
		return v, ctx.Err()
	}
}

// plan says what is to be sent, and what each socket has to wait for.
func (c *crowd) plan(d drive) *run {
	r := &run{
		drive: d, ended: make(chan struct{}, 1), rooms: map[*crowdRoom]*span{},
		traces: make([]trace, len(c.sockets)), acked: make([]time.Duration, d.Ops),
	}
	for i := range d.Ops {
		w := i % d.Writers
		room := c.rooms[w%len(c.rooms)]
		s := r.rooms[room]
		if s == nil {
			s = &span{tick: room.tick + 1}
			if c.Bare {
				s.tick = d.Tick
			}
			r.rooms[room] = s
		}
		s.ops = append(s.ops, i)
		if !c.Bare {
			op := room.mixed()
			op.TS = moveop.NewTimestamp(room.tick, 0, c.replica(w))
			r.ops = append(r.ops, op)
		}
	}
	r.acks.Store(int64(len(r.ops)))
	for i, s := range c.sockets {
		if span := r.rooms[s.room]; span != nil {
			r.traces[i].left = len(span.ops)
			r.left.Add(1)
		}
	}
	return r
}

// due is when an operation is to be sent.
func (r *run) due(op int) time.Time {
	if r.Rate == 0 {
		return r.start
	}
	return r.start.Add(time.Duration(float64(op) / r.Rate * float64(time.Second)))
}

// write sends what the socket has to send, each when it is due, or as soon after as the server takes it.
func (s *socket) write(ctx context.Context, r *run) error {
	if s.Bare {
		return s.writeFrames(ctx, r)
	}
	for i := s.index; i < len(r.ops); i += r.Writers {
		if err := sleepUntil(ctx, r.due(i)); err != nil {
			return err
		}
		r.ops[i].Known = s.room.head.Load()
		if err := s.send(wire.Push{ID: strconv.Itoa(i), Ops: r.ops[i : i+1]}); err != nil {
			return fmt.Errorf("push: %w", err)
		}
	}
	return nil
}

// writeFrames sends each frame when the first operation in it is due.
func (s *socket) writeFrames(ctx context.Context, r *run) error {
	op := 0
	for _, frame := range r.Frames {
		if err := sleepUntil(ctx, r.due(op)); err != nil {
			return err
		}
		if err := s.conn.WriteMessage(websocket.BinaryMessage, frame); err != nil {
			return fmt.Errorf("send frame: %w", err)
		}
		from, to, err := opsRange(frame)
		if err != nil {
			return err
		}
		op += int(to - from + 1)
	}
	return nil
}

func sleepUntil(ctx context.Context, t time.Time) error {
	wait := time.Until(t)
	if wait <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// takeOps notes the arrival of operations.
func (s *socket) takeOps(frame []byte, now time.Time) error {
	from, to, err := opsRange(frame)
	if err != nil {
		return err
	}
	for head := s.room.head.Load(); head < to && !s.room.head.CompareAndSwap(head, to); head = s.room.head.Load() {
	}
	r := s.run.Load()
	if r == nil || r.traces[s.index].left == 0 {
		return nil
	}
	t := &r.traces[s.index]
	t.frames++
	if s.index == len(s.sockets)-1 && !s.Bare {
		t.witnessed = append(t.witnessed, slices.Clone(frame))
	}
	own := int(to - from + 1)
	if r.Times || r.Upload != nil {
		if own, err = s.note(r, frame, now); err != nil {
			return err
		}
	}
	if t.left -= own; t.left > 0 {
		return nil
	}
	t.last = now.Sub(r.start)
	r.left.Add(-1)
	r.finish()
	return nil
}

// note looks at each operation of a frame, and counts those of the run.
func (s *socket) note(r *run, frame []byte, now time.Time) (own int, err error) {
	msg, err := wire.Binary.Decode(frame)
	if err != nil {
		return 0, err
	}
	span := r.rooms[s.room]
	for _, op := range msg.(wire.Ops).Ops {
		k := op.TS.Millis() - span.tick
		if k < 0 || k >= int64(len(span.ops)) {
			continue // of an upload
		}
		own++
		i := span.ops[k]
		if r.Times && i%r.Writers != s.index {
			r.traces[s.index].samples = append(r.traces[s.index].samples, sample{i, now.Sub(r.due(i))})
		}
	}
	return own, nil
}

func (s *socket) takeAck(frame []byte, now time.Time) error {
	msg, err := wire.Binary.Decode(frame)
	if err != nil {
		return err
	}
	i, err := strconv.Atoi(msg.(wire.Ack).ID)
	r := s.run.Load()
	if err != nil || r == nil || i >= len(r.acked) {
		return fmt.Errorf("an ack of %q", msg.(wire.Ack).ID)
	}
	r.acked[i] = now.Sub(r.due(i))
	r.acks.Add(-1)
	r.finish()
	return nil
}

// finish is called whenever something that was to come has come; the last one ends the run.
func (r *run) finish() {
	if r.acks.Load() == 0 && r.left.Load() == 0 {
		select {
		case r.ended <- struct{}{}:
		default:
		}
	}
}

// collect is called when nothing of the run is to come any more.
func (c *crowd) collect(r *run, o *outcome) {
	o.Acked = r.acked
	for i := range r.ops {
		o.Stamps = append(o.Stamps, r.ops[i].TS)
		o.AckedAll = max(o.AckedAll, r.due(i).Sub(r.start)+r.acked[i])
	}
	if r.Times {
		o.Delivered = make([][]time.Duration, r.Ops)
	}
	for i := range r.traces {
		t := &r.traces[i]
		o.Took = max(o.Took, t.last)
		o.Frames += t.frames
		for _, sample := range t.samples {
			o.Delivered[sample.op] = append(o.Delivered[sample.op], sample.took)
		}
	}
	o.Witnessed = r.traces[len(r.traces)-1].witnessed
}

// prepareUpload makes a replica of the room, edited offline, and returns what brings it in step.
func prepareUpload(ctx context.Context, u *upload) (run func(context.Context, time.Time) (time.Duration, error), err error) {
	if u == nil {
		return func(context.Context, time.Time) (time.Duration, error) { return 0, nil }, nil
	}
	path := filepath.Join(u.Dir, "upload-"+strconv.FormatInt(time.Now().UnixNano(), 16))
	if _, err := u.sync(ctx, path); err != nil {
		return nil, err
	}
	if err := u.edit(ctx, path); err != nil {
		return nil, err
	}
	return func(ctx context.Context, start time.Time) (time.Duration, error) {
		if err := sleepUntil(ctx, start); err != nil {
			return 0, err
		}
		return u.sync(ctx, path)
	}, nil
}

// sync brings the replica in step, and says how long that took.
func (u *upload) sync(ctx context.Context, path string) (took time.Duration, err error) {
	begin := time.Now()
	c, err := client.Open(ctx, path, client.Options{Room: u.Room, RealtimeURL: u.URL})
	if err != nil {
		return 0, fmt.Errorf("open replica: %w", err)
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	err = c.WaitSynced(ctx)
	return time.Since(begin), err
}

// edit makes the operations, offline.
func (u *upload) edit(ctx context.Context, path string) (err error) {
	c, err := client.Open(ctx, path, client.Options{Room: u.Room})
	if err != nil {
		return fmt.Errorf("open replica: %w", err)
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	const step = 1000
	for made := 0; made < u.Ops && err == nil; made += step {
		err = c.Edit(ctx, func(tx *client.Tx) error {
			return repeat(min(step, u.Ops-made), func() error {
				_, err := tx.Create(moveop.Root, client.Last)
				return err
			})
		})
	}
	return err
}
