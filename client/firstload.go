package client

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/canopysync/canopy/moveop"
)

// firstLoad loads the room into a replica that has nothing of it yet, or only parts fetched ahead. One goroutine
// loads the snapshot, another one fetches ahead, and the sync loop connects meanwhile, as soon as there is a
// cursor.
type firstLoad struct {
	s    *syncer
	done chan struct{} // closed when the snapshot is in, or the room turned out not to be there yet
}

// errNoSnapshot means that the realtime service has the room, but the bootstrap service does not.
var errNoSnapshot = errors.New("the room has no snapshot yet")

// sightPause is the least time between two pages that are fetched because of what others do.
const sightPause = 200 * time.Millisecond

// start begins; the goroutines end with ctx, at the latest.
func (f *firstLoad) start(ctx context.Context, running *sync.WaitGroup) {
	running.Go(func() { f.load(ctx) })
	if f.s.c.opts.PreviewTimeout > 0 {
		running.Go(func() { f.fetch(ctx) })
	}
}

// load loads the snapshot, as often as it takes.
func (f *firstLoad) load(ctx context.Context) {
	pause := newBackoff(&f.s.c.opts)
	for {
		err := f.s.bootstrap(ctx)
		if err == nil {
			err = f.end(ctx)
		}
		if err == nil {
			close(f.done)
			return
		}
		if ctx.Err() != nil {
			return
		}
		delay := pause.NextBackOff()
		f.s.log.Info("bootstrap ended", "error", err, "retry_in", delay)
		if !sleep(ctx, delay, f.s.c.reloads, nil) {
			return
		}
	}
}

// end ends fetching ahead. The room may have been created, and seen, after the bootstrap service was asked for
// it.
func (f *firstLoad) end(ctx context.Context) error {
	return f.s.c.store.update(ctx, Preview, func(t *txn) error {
		if t.meta.partial {
			return errNoSnapshot
		}
		t.store.whole.Store(true)
		return nil
	})
}

// fetch fetches Root's first children, and later the pages that must be fetched again because of others' edits.
func (f *firstLoad) fetch(ctx context.Context) {
	for {
		fetched, err := f.s.c.fetchNext(ctx)
		delay, wake := f.s.c.opts.RetryMax, f.s.c.store.sights
		if err != nil {
			delay = f.s.c.opts.RetryMin
		} else if fetched {
			delay, wake = sightPause, nil
		}
		if !sleep(ctx, delay, wake, f.done) {
			return
		}
	}
}

// sleep waits for the delay, or until woken; false is for good.
func sleep(ctx context.Context, delay time.Duration, wake, done <-chan struct{}) bool {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-wake:
	case <-done:
		return false
	case <-ctx.Done():
		return false
	}
	return true
}

// fetchNext fetches the first page of all, or one that is stale.
func (c *Client) fetchNext(ctx context.Context) (fetched bool, err error) {
	m, p, wanted := c.store.meta.Load(), childPage{parent: moveop.Root}, true
	if m.epoch != "" {
		err = c.store.view(ctx, func(s *session) (err error) {
			p, wanted, err = s.stalePage()
			return err
		})
	}
	if err != nil || !wanted {
		return false, err
	}
	page, err := c.fetchPage(ctx, p, maxPreviewPage)
	if err != nil {
		return false, err
	}
	return true, c.takePage(ctx, p, page)
}

// awaitBegun waits until there is a cursor to connect with.
func (s *syncer) awaitBegun(ctx context.Context) error {
	for {
		select {
		case <-s.first.done:
			s.endFirst()
			return nil
		default:
		}
		if s.c.store.meta.Load().partial {
			return nil
		}
		select {
		case <-s.first.done:
		case <-s.c.store.begun:
		case done := <-s.c.repairs:
			s.repairing = append(s.repairing, done)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// endFirst goes on without the first load, which is done.
func (s *syncer) endFirst() {
	s.first, s.needSnapshot, s.suspect = nil, false, false
	s.repaired(nil)
}

// loaded has the connection continue from the snapshot, whose cursor may be behind the state shown so far.
func (l *link) loaded() error {
	l.endFirst()
	m := l.c.store.meta.Load()
	if !l.welcomed || m.epoch != l.epoch {
		return errLoaded
	}
	l.c.setProgress(func(p *progress) {
		p.head = max(p.head, l.target)
		p.from, l.target = m.seq, p.head
	})
	l.caughtUp, l.pulled = false, false
	l.reached(m.seq)
	if l.caughtUp {
		return nil
	}
	return l.pull(m.seq)
}

// loading is nil when nothing is being loaded for the first time.
func (s *syncer) loading() <-chan struct{} {
	if s.first == nil {
		return nil
	}
	return s.first.done
}
