package bench

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/canopysync/canopy/moveop"
)

const (
	relaySockets  = 200
	fanOutSockets = 1000
	relayRate     = 100 // operations a second of one writer
	fanOutWriters = 10
)

// Relay measures how what one pushes reaches the others in the room.
func Relay(ctx context.Context, cfg Config) (Section, error) {
	return withService(ctx, cfg, "relay", relayLatency, relayFanOut, relaySlow)
}

type serviceMeasure func(context.Context, *Config, *service) ([]Result, error)

// withService makes a section of measures of one service.
func withService(ctx context.Context, cfg Config, name string, measures ...serviceMeasure) (s Section, err error) {
	cfg = cfg.withDefaults()
	s = Section{Name: name}
	svc, err := openService(ctx, &cfg)
	if err != nil {
		return s, fmt.Errorf("measure %s: %w", name, err)
	}
	defer func() {
		if e := svc.close(ctx); err == nil && e != nil {
			err = fmt.Errorf("measure %s: %w", name, e)
		}
	}()
	s.Engine = "PostgreSQL " + svc.version
	for _, measure := range measures {
		results, err := measure(ctx, &cfg, svc)
		if err != nil {
			return s, fmt.Errorf("measure %s: %w", name, err)
		}
		s.Results = append(s.Results, results...)
	}
	return s, nil
}

// turn is how long one turn of a measure with a rate is.
func (c *Config) turn() time.Duration { return 2 * c.Time / minRounds }

// opsAt is how many operations a turn has at a rate.
func (c *Config) opsAt(rate float64) int { return max(10, int(rate*c.turn().Seconds())) }

// crowds has so many sockets in one room, and as many at a bare broadcast.
func (s *service) crowds(ctx context.Context, c *Config, sockets int) (crowd, bare int, err error) {
	j, err := s.rooms(ctx, c, 1)
	if err != nil {
		return 0, 0, err
	}
	j.Sockets = sockets
	if crowd, err = s.join(j); err != nil {
		return 0, 0, err
	}
	bare, err = s.bareCrowd(sockets)
	return crowd, bare, err
}

// relayLatency has one write at a steady rate while the others listen.
func relayLatency(ctx context.Context, c *Config, s *service) (results []Result, err error) {
	sockets := c.sockets(relaySockets)
	crowd, bare, err := s.crowds(ctx, c, sockets)
	if err != nil {
		return nil, err
	}
	var last outcome
	var above series
	relayed := func(context.Context) (float64, time.Duration, error) {
		s.calls.take()
		last, err = s.drive(drive{Crowd: crowd, Writers: 1, Ops: c.opsAt(relayRate), Rate: relayRate, Times: true})
		if err != nil {
			return 0, 0, err
		}
		above.add(percentile(beyondCommit(last, s.calls.take()), 99))
		return percentile(slices.Concat(last.Delivered...), 99), last.Took, nil
	}
	limit := func(context.Context) (float64, time.Duration, error) {
		o, err := s.drive(last.again(bare, relayRate))
		return percentile(slices.Concat(o.Delivered...), 99), o.Took, err
	}
	name := fmt.Sprintf("push to everybody else, 99 %% of it, %s sockets, one writer at %d ops/s", count(sockets), relayRate)
	medians, rounds, err := c.alternate(ctx, name, relayed, limit)
	if err != nil {
		return nil, err
	}
	results = []Result{
		absolute(name+", beyond the commit itself", nanoseconds, float64(25*time.Millisecond), above.median(), rounds),
		comparison("the same, with the commit", "a bare broadcast", 0, []float64{medians[1], medians[0]}, rounds),
	}
	results[1].Unit = nanoseconds
	return results, leaveAll(s, crowd, bare)
}

// again is a drive of a bare broadcast with the frames that were witnessed.
func (o *outcome) again(crowd int, rate float64) drive {
	return drive{
		Crowd: crowd, Writers: 1, Ops: len(o.Stamps), Rate: rate, Times: rate > 0,
		Frames: o.Witnessed, Tick: o.Stamps[0].Millis(),
	}
}

// beyondCommit is what it took to reach each socket beside the operation's own commit.
func beyondCommit(o outcome, calls []call) (beyond []time.Duration) {
	commit := map[moveop.Timestamp]time.Duration{}
	for _, c := range calls {
		for i := range c.ops {
			commit[c.ops[i].TS] = c.took
		}
	}
	for i, took := range o.Delivered {
		for _, t := range took {
			beyond = append(beyond, t-commit[o.Stamps[i]])
		}
	}
	return beyond
}

// relayFanOut offers as many operations a second as the bare broadcast can send on to so many sockets.
func relayFanOut(ctx context.Context, c *Config, s *service) (results []Result, err error) {
	sockets := c.sockets(fanOutSockets)
	crowd, bare, err := s.crowds(ctx, c, sockets)
	if err != nil {
		return nil, err
	}
	push := func(ops int, rate float64) (outcome, error) {
		return s.drive(drive{Crowd: crowd, Writers: min(fanOutWriters, sockets-1), Ops: ops, Rate: rate})
	}
	last, err := push(100, relayRate)
	if err != nil {
		return nil, err
	}
	limit := func(context.Context) (float64, time.Duration, error) {
		o, err := s.drive(last.again(bare, 0))
		return perSecond(o.Frames, o.Took), o.Took, err
	}
	most, _, err := limit(ctx)
	if err != nil {
		return nil, err
	}
	offered := most / float64(sockets)
	var together series
	relayed := func(context.Context) (float64, time.Duration, error) {
		if last, err = push(c.opsAt(offered), offered); err != nil {
			return 0, 0, err
		}
		together.add(float64(len(last.Stamps)) / float64(len(last.Witnessed)))
		return perSecond(last.Frames, last.Took), last.Took, nil
	}
	name := fmt.Sprintf("fan-out of small operations, one room, %s sockets", count(sockets))
	medians, rounds, err := c.alternate(ctx, name, relayed, limit)
	if err != nil {
		return nil, err
	}
	name += fmt.Sprintf(", %.1f a frame", together.median())
	return []Result{rate(name, "frames/s", "a bare broadcast of the same frames", 0.7, medians[1], medians[0], rounds)}, leaveAll(s, crowd, bare)
}

// slowBacklog is how much of the log a slow client is behind, so that it is slow from the beginning.
const (
	slowBacklog = 16 << 20
	slowValue   = 8 << 10
)

// relaySlow has a client in the room that reads hardly anything.
func relaySlow(ctx context.Context, c *Config, s *service) (results []Result, err error) {
	sockets := c.sockets(relaySockets)
	j, err := s.rooms(ctx, c, 1)
	if err != nil {
		return nil, err
	}
	if err := s.backlog(ctx, &j); err != nil {
		return nil, err
	}
	j.Sockets = sockets
	crowd, err := s.join(j)
	if err != nil {
		return nil, err
	}
	measure := func(context.Context) (float64, time.Duration, error) {
		o, err := s.drive(drive{Crowd: crowd, Writers: 1, Ops: c.opsAt(relayRate), Rate: relayRate, Times: true})
		return percentile(slices.Concat(o.Delivered...), 99), o.Took, err
	}
	var held series
	beside := func(ctx context.Context) (float64, time.Duration, error) {
		slow := j
		slow.Sockets, slow.Slow = 1, true
		slowly, err := s.join(slow)
		if err != nil {
			return 0, 0, err
		}
		figure, took, err := measure(ctx)
		if err != nil {
			return 0, 0, err
		}
		with := float64(heap())
		if err := s.leave(slowly); err != nil {
			return 0, 0, err
		}
		if err := s.awaitConnections(ctx, j.Rooms[0].Name, sockets); err != nil {
			return 0, 0, err
		}
		held.add(max(1, with-float64(heap())))
		return figure, took, nil
	}
	name := fmt.Sprintf("push to everybody else, 99 %% of it, %s sockets, one more reads 1 KB/s", count(sockets))
	medians, rounds, err := c.alternate(ctx, name, measure, beside)
	if err != nil {
		return nil, err
	}
	results = []Result{
		comparison(name, "the same without it", 1.2, medians, rounds),
		absolute("memory held for the one that reads 1 KB/s", "B", 4<<20, held.median(), rounds),
	}
	results[0].Unit = nanoseconds
	return results, leaveAll(s, crowd)
}

// backlog makes the log of a room long in bytes.
func (s *service) backlog(ctx context.Context, j *join) error {
	a := newAuthorAt(j.Nodes, j.Tick)
	text := slices.Concat([]byte{'"'}, slices.Repeat([]byte{'x'}, slowValue), []byte{'"'})
	for range slowBacklog / slowValue / 100 {
		batch := each(100, func() moveop.Op {
			a.tick++
			return moveop.Op{
				Kind: moveop.Set, TS: moveop.NewTimestamp(a.tick, 0, theAuthor),
				Node: nodeID(a.rng.IntN(a.nodes)), Key: "text", Value: text,
			}
		})
		applied, err := s.db.Apply(ctx, j.Rooms[0].Name, batch)
		if err != nil {
			return err
		}
		j.Rooms[0].Head = applied.Head
	}
	j.Tick = a.tick
	return s.settle(ctx) // or the commits that are measured wait for the disk to take this
}

func leaveAll(s *service, crowds ...int) error {
	for _, crowd := range crowds {
		if err := s.leave(crowd); err != nil {
			return err
		}
	}
	return nil
}

func perSecond(n int, took time.Duration) float64 { return float64(n) / took.Seconds() }

// percentile is the value that p of 100 do not exceed.
func percentile(values []time.Duration, p int) float64 {
	if len(values) == 0 {
		return 0
	}
	values = slices.Sorted(slices.Values(values))
	return float64(values[(len(values)*p+99)/100-1])
}

// series is further figures of each round, the first of which does not count.
type series []float64

func (s *series) add(v float64) { *s = append(*s, v) }

func (s series) median() float64 { return median(slices.Clone(s[1:])) }
