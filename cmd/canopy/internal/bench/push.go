package bench

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/canopysync/canopy/moveop"
)

const (
	pushWriters  = 50
	pushOps      = 100 // of each writer in a turn, for each second of it
	uploadOps    = 10_000
	uploadBeside = 20 // writers
	uploadRate   = 5  // operations a second of each of them
)

// Push measures how many operations are committed, and how long that takes.
func Push(ctx context.Context, cfg Config) (Section, error) {
	return withService(ctx, cfg, "push", pushOneRoom, pushManyRooms, pushBesideUpload)
}

func pushOneRoom(ctx context.Context, c *Config, s *service) ([]Result, error) {
	writers := c.sockets(pushWriters)
	return pushAll(ctx, c, s, fmt.Sprintf("committed through the socket, %d writers in one room", writers), writers, 1)
}

func pushManyRooms(ctx context.Context, c *Config, s *service) ([]Result, error) {
	writers := c.sockets(pushWriters)
	return pushAll(ctx, c, s, fmt.Sprintf("committed through the socket, %d writers in %d rooms", writers, writers), writers, writers)
}

// pushAll has writers push as fast as they are let; the limit is the function alone, with the very
// batches that came together, in rooms that are the same.
func pushAll(ctx context.Context, c *Config, s *service, name string, writers, rooms int) ([]Result, error) {
	j, err := s.rooms(ctx, c, rooms)
	if err != nil {
		return nil, err
	}
	twins, err := s.rooms(ctx, c, rooms)
	if err != nil {
		return nil, err
	}
	twin := map[string]string{}
	for i := range rooms {
		twin[j.Rooms[i].Name] = twins.Rooms[i].Name
	}
	j.Sockets = writers
	crowd, err := s.join(j)
	if err != nil {
		return nil, err
	}
	ops := max(writers, int(pushOps*c.turn().Seconds())*writers/2)
	var calls []call
	var batch series
	pushed := func(context.Context) (float64, time.Duration, error) {
		s.calls.take()
		o, err := s.drive(drive{Crowd: crowd, Writers: writers, Ops: ops})
		if err != nil {
			return 0, 0, err
		}
		calls = s.calls.take()
		batch.add(float64(ops) / float64(len(calls)))
		return perSecond(ops, o.AckedAll), o.AckedAll, nil
	}
	applied := func(ctx context.Context) (float64, time.Duration, error) {
		begin := time.Now()
		err := s.applyAgain(ctx, calls, twin)
		return perSecond(ops, time.Since(begin)), time.Since(begin), err
	}
	medians, rounds, err := c.alternate(ctx, name, pushed, applied)
	if err != nil {
		return nil, err
	}
	name += fmt.Sprintf(", %.1f a batch", batch.median())
	return []Result{rate(name, "ops/s", "the function alone, same batches", 0.7, medians[1], medians[0], rounds)}, leaveAll(s, crowd)
}

// applyAgain applies the calls to other rooms, in the same order in each, all rooms at once.
func (s *service) applyAgain(ctx context.Context, calls []call, twin map[string]string) error {
	byRoom := map[string][][]moveop.Op{}
	for _, c := range calls {
		byRoom[c.room] = append(byRoom[c.room], c.ops)
	}
	applying, ctx := errgroup.WithContext(ctx)
	for room, batches := range byRoom {
		applying.Go(func() error {
			for _, ops := range batches {
				if _, err := s.db.Apply(ctx, twin[room], ops); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return applying.Wait()
}

// pushBesideUpload has some write at a steady rate, alone and while a client that was offline for long
// pushes what it has.
func pushBesideUpload(ctx context.Context, c *Config, s *service) ([]Result, error) {
	writers := c.sockets(uploadBeside)
	most := max(100, uploadOps*c.Sockets/defaultSockets)
	perSecond := float64(writers * uploadRate)
	var took series
	measure := func(ctx context.Context, ops int) (figure float64, spent time.Duration, err error) {
		j, err := s.rooms(ctx, c, 1)
		if err != nil {
			return 0, 0, err
		}
		j.Sockets = writers
		crowd, err := s.join(j)
		if err != nil {
			return 0, 0, err
		}
		d := drive{Crowd: crowd, Writers: writers, Ops: 2 * c.opsAt(perSecond), Rate: perSecond}
		if ops > 0 {
			d.Upload = &upload{URL: s.url, Room: j.Rooms[0].Name, Dir: s.dir, Ops: ops}
		}
		o, err := s.drive(d)
		if err != nil {
			return 0, 0, err
		}
		if ops > 0 {
			took.add(o.Uploaded.Seconds())
			o.Acked = o.Acked[:min(len(o.Acked), 1+int(o.Uploaded.Seconds()*perSecond))]
		}
		return percentile(slices.Clone(o.Acked), 99), o.AckedAll, s.leave(crowd)
	}
	name := fmt.Sprintf("acknowledgement, 99 %% of them, %d writers at %d ops/s, beside an upload of %s operations", writers, uploadRate, count(most))
	medians, rounds, err := c.alternate(ctx, name,
		func(ctx context.Context) (float64, time.Duration, error) { return measure(ctx, 0) },
		func(ctx context.Context) (float64, time.Duration, error) { return measure(ctx, most) })
	if err != nil {
		return nil, err
	}
	name += fmt.Sprintf(", which took %.1f s", took.median())
	r := comparison(name, "the same without it", 3, medians, rounds)
	r.Unit = nanoseconds
	return []Result{r}, nil
}
