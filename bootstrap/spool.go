package bootstrap

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/realtime/wire"
)

var (
	// errSpoolFull means that a snapshot does not fit into the spool space.
	errSpoolFull = errors.New("no space left for spooled snapshots")
	// errNoPlace means that no snapshot may start now.
	errNoPlace = wire.NewError(wire.CodeBusy, "too many snapshots at a time: try again later")
)

// spools holds snapshots in files. Each is written at the speed of the database and read from its start by any number of
// clients, each at its own speed. A file is removed when it is too old, when another needs its space, and when the
// process ends. Safe for concurrent use.
type spools struct {
	dir      string
	maxBytes int64
	maxAge   time.Duration
	running  sync.WaitGroup // one per snapshot being written

	mu        sync.Mutex // guards the fields below, and those of every spool that say so
	closed    bool
	used      int64 // bytes in files
	files     []*spool
	unspooled map[spoolKey]time.Time // what did not fit, and when to try again
}

// spoolKey identifies what a spool contains.
type spoolKey struct {
	room   string
	coding coding
}

// spool is one snapshot as it goes over the wire, perhaps still incomplete.
type spool struct {
	owner  *spools
	key    spoolKey
	etag   string // strong: unique to this spool, whose bytes never change
	file   *os.File
	remove bool // the file still has a name
	cancel context.CancelFunc

	// Guarded by owner.mu.
	header  format.Header
	begun   bool  // header is known
	size    int64 // bytes written
	done    bool  // nothing more will be written, because of err if that is not nil
	err     error
	grown   chan struct{} // closed and replaced when any of the above changes
	readers int
	dropped bool // no longer found; the last reader closes the file
	expiry  *time.Timer
}

// extent is how much of a spool there is; it has changed when grown is closed.
type extent struct {
	size  int64
	done  bool
	err   error
	grown <-chan struct{}
}

// acquire returns the newest spool that matches. If there is none, it creates one, and write fills it in a goroutine of
// its own. The caller must call release.
func (c *spools) acquire(ctx context.Context, key spoolKey, match func(*spool) bool,
	write func(ctx context.Context, sp *spool) error) (*spool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if sp := c.find(key, match); sp != nil {
		return sp, nil
	}
	if c.closed {
		return nil, errNoPlace
	}
	sp, err := c.create(key)
	if err != nil {
		c.avoid(key)
		return nil, err
	}
	sp.readers = 1
	c.files = append(c.files, sp)
	ctx, sp.cancel = context.WithCancel(context.WithoutCancel(ctx))
	c.running.Go(func() {
		defer sp.cancel()
		sp.finish(write(ctx, sp))
	})
	return sp, nil
}

// tagged returns the spool with that ETag, nil if it is gone. If not nil, the caller must call release.
func (c *spools) tagged(key spoolKey, etag string) *spool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.find(key, func(sp *spool) bool { return sp.etag == etag })
}

func (c *spools) find(key spoolKey, match func(*spool) bool) *spool {
	for _, sp := range slices.Backward(c.files) {
		if sp.key == key && sp.err == nil && match(sp) {
			sp.readers++
			return sp
		}
	}
	return nil
}

// fits reports whether spooling a snapshot is worth trying: not if there recently was too little space for it.
func (c *spools) fits(key spoolKey) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	until, failed := c.unspooled[key]
	if failed && !time.Now().Before(until) {
		delete(c.unspooled, key)
		failed = false
	}
	return !failed
}

// create makes a file without a name, if the system allows that, so that no crash leaves it behind.
func (c *spools) create(key spoolKey) (*spool, error) {
	file, err := os.CreateTemp(c.dir, "canopy-snapshot-*")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errSpoolFull, err)
	}
	return &spool{
		owner: c, key: key, etag: `"` + rand.Text() + `"`, file: file,
		remove: os.Remove(file.Name()) != nil, grown: make(chan struct{}),
	}, nil
}

// reserve accounts for n more bytes, removing older files that nobody reads if needed.
func (c *spools) reserve(n int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.used+n > c.maxBytes {
		i := slices.IndexFunc(c.files, func(sp *spool) bool { return sp.done && sp.readers == 0 })
		if i < 0 {
			return false
		}
		c.drop(c.files[i])
	}
	c.used += n
	return true
}

// drop makes the spool unfindable.
func (c *spools) drop(sp *spool) {
	if sp.dropped {
		return
	}
	sp.dropped = true
	if sp.expiry != nil {
		sp.expiry.Stop()
	}
	c.files = slices.DeleteFunc(c.files, func(other *spool) bool { return other == sp })
	c.discard(sp)
}

// discard closes the file of a dropped spool that nobody reads or writes.
func (c *spools) discard(sp *spool) {
	if !sp.dropped || !sp.done || sp.readers > 0 {
		return
	}
	_ = sp.file.Close() // it is no longer needed, whatever is wrong with it
	if sp.remove {
		_ = os.Remove(sp.file.Name())
	}
	c.used -= sp.size
}

// close aborts what is being written, waits for that, and removes all files that nobody reads.
func (c *spools) close() {
	c.mu.Lock()
	c.closed = true
	for _, sp := range c.files {
		sp.cancel()
	}
	c.mu.Unlock()
	c.running.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, sp := range slices.Clone(c.files) {
		c.drop(sp)
	}
}

// release ends the use of a spool. If it has no bytes yet and nobody is waiting for them, it is cancelled; otherwise it
// is worth finishing, because clients that were cut off come back.
func (sp *spool) release() {
	sp.owner.mu.Lock()
	defer sp.owner.mu.Unlock()
	sp.readers--
	switch {
	case sp.dropped:
		sp.owner.discard(sp)
	case sp.readers == 0 && !sp.done && sp.size == 0:
		sp.cancel()
		sp.owner.drop(sp)
	}
}

// begin sets the header.
func (sp *spool) begin(h format.Header) {
	sp.owner.mu.Lock()
	defer sp.owner.mu.Unlock()
	sp.header, sp.begun = h, true
}

// Write appends to the file. Its errors are errSpoolFull, or wrap it.
func (sp *spool) Write(p []byte) (int, error) {
	if !sp.owner.reserve(int64(len(p))) {
		return 0, errSpoolFull
	}
	n, err := sp.file.Write(p)
	sp.owner.mu.Lock()
	defer sp.owner.mu.Unlock()
	sp.owner.used -= int64(len(p) - n)
	sp.size += int64(n)
	sp.announce()
	if err != nil {
		err = fmt.Errorf("%w: %w", errSpoolFull, err)
	}
	return n, err
}

func (sp *spool) announce() {
	close(sp.grown)
	sp.grown = make(chan struct{})
}

// finish ends the writing. A failed spool is not found again.
func (sp *spool) finish(err error) {
	c := sp.owner
	c.mu.Lock()
	defer c.mu.Unlock()
	sp.done, sp.err = true, err
	sp.announce()
	if errors.Is(err, errSpoolFull) {
		c.avoid(sp.key)
	}
	switch {
	case sp.dropped:
		c.discard(sp)
	case err != nil:
		c.drop(sp)
	default:
		sp.expiry = time.AfterFunc(c.maxAge, sp.expire)
	}
}

// avoid prevents another attempt for some time after a lack of space.
func (c *spools) avoid(key spoolKey) {
	if c.unspooled == nil {
		c.unspooled = map[spoolKey]time.Time{}
	}
	c.unspooled[key] = time.Now().Add(c.maxAge)
}

func (sp *spool) expire() {
	sp.owner.mu.Lock()
	defer sp.owner.mu.Unlock()
	sp.owner.drop(sp)
}

func (sp *spool) extent() extent {
	sp.owner.mu.Lock()
	defer sp.owner.mu.Unlock()
	return extent{sp.size, sp.done, sp.err, sp.grown}
}

// wait waits until everything is written.
func (sp *spool) wait(ctx context.Context) (size int64, err error) {
	for {
		e := sp.extent()
		if e.done {
			return e.size, e.err
		}
		select {
		case <-e.grown:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// follow copies the spool to w while it is written. Idle is called before every wait.
func (sp *spool) follow(ctx context.Context, w io.Writer, idle func() error) error {
	buf := make([]byte, 64<<10)
	for at := int64(0); ; {
		e := sp.extent()
		if at < e.size {
			n, err := sp.file.ReadAt(buf[:min(int64(len(buf)), e.size-at)], at)
			if err != nil {
				return fmt.Errorf("read spooled snapshot: %w", err)
			}
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			at += int64(n)
			continue
		}
		if e.done {
			return e.err
		}
		if at > 0 {
			if err := idle(); err != nil {
				return err
			}
		}
		select {
		case <-e.grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
