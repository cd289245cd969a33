package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// MaxName is the maximum length of Options.Name in bytes: the realtime service's default limit. With a
// longer name the service would refuse every connection.
const MaxName = 128

// Options configures Open and sync. Only Room is required, and only for a new file.
type Options struct {
	// Room is the room's name. It may be empty for an existing file, which holds the name.
	Room string

	// RealtimeURL is the realtime service, like https://host:8420. Empty means to stay offline.
	RealtimeURL string
	// BootstrapURL is the bootstrap service, which sends the whole room to a replica that is new or was
	// away for too long. Empty means to rely on the operations that the realtime service still has.
	BootstrapURL string
	// Name is shown to the others in the room. It is UTF-8, at most MaxName bytes.
	Name string
	// Token returns a token for the services. It is called for every connection and request, and before
	// a JSON Web Token in use expires, so that the connection can go on; several goroutines may call it
	// at once. It must not call Close, which waits for it. Nil means to send no token.
	Token func(ctx context.Context) (string, error)

	// WaitForFile makes Open wait, until its ctx is done, for another Client, in this or another process,
	// to close the file. Without it, Open returns ErrLocked at once.
	WaitForFile bool
	// Synchronous says what an edit survives. Defaults to SynchronousFull.
	Synchronous Synchronous

	// UndoLimit bounds the undo history, in changes: each node placed and each property written by a
	// step counts once. The oldest steps are dropped first, a sixteenth of the history at a time; an
	// edit with more changes than the limit cannot be undone, and empties the history. Defaults to
	// 10,000; negative means to keep no history.
	UndoLimit int
	// UndoPause joins edits that follow each other within this time into one undo step, except those that
	// call Tx.IsolateUndo. Zero makes each Edit a step.
	UndoPause time.Duration

	// FlushTimeout is how long Close waits for the server to acknowledge pending operations, if there is
	// a connection. Defaults to 2 s; negative means not to wait.
	FlushTimeout time.Duration

	// PreviewTimeout is how long a read or an edit may wait for children that are not here yet during the
	// first load; then it makes do with those that are here. Defaults to 3 s; negative means to fetch
	// none. See "The first load" in the package comment.
	PreviewTimeout time.Duration

	// RetryMin and RetryMax bound the backoff between attempts to connect: it starts at RetryMin and
	// doubles with every failure up to RetryMax. Default to 500 ms and 30 s.
	RetryMin, RetryMax time.Duration
	// HTTPClient fetches snapshots. If its Transport is an *http.Transport, sockets are dialled with its
	// proxy, dial function and TLS configuration. Defaults to one with http.DefaultTransport.
	HTTPClient *http.Client

	// Logger receives the log of sync. Defaults to none.
	Logger *slog.Logger
	// Now is the wall clock. Defaults to time.Now.
	Now func() time.Time
	// Random is the source of ids and order keys. Defaults to crypto/rand.Reader.
	Random io.Reader
}

func (o Options) withDefaults() Options {
	if o.Synchronous == "" {
		o.Synchronous = SynchronousFull
	}
	if o.UndoLimit == 0 {
		o.UndoLimit = 10_000
	}
	if o.FlushTimeout == 0 {
		o.FlushTimeout = 2 * time.Second
	}
	if o.PreviewTimeout == 0 {
		o.PreviewTimeout = 3 * time.Second
	}
	if o.RetryMin <= 0 {
		o.RetryMin = 500 * time.Millisecond
	}
	if o.RetryMax <= 0 {
		o.RetryMax = 30 * time.Second
	}
	if o.HTTPClient == nil {
		o.HTTPClient = &http.Client{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	return o
}

func (o Options) check() error {
	if o.Room != "" {
		if err := wire.ValidRoom(o.Room); err != nil {
			return err
		}
	}
	if len(o.Name) > MaxName {
		return fmt.Errorf("name has %d bytes, the limit is %d", len(o.Name), MaxName)
	}
	if !utf8.ValidString(o.Name) {
		return fmt.Errorf("name %q is not UTF-8", o.Name)
	}
	if o.Synchronous != SynchronousFull && o.Synchronous != SynchronousNormal {
		return fmt.Errorf("synchronous is %q, must be FULL or NORMAL", o.Synchronous)
	}
	for _, service := range []string{o.RealtimeURL, o.BootstrapURL} {
		if service == "" {
			continue
		}
		if u, err := url.Parse(service); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("service URL %q is not of the form http(s)://host[:port]", service)
		}
	}
	return nil
}

// endpoint is a service's URL for something of a room.
func endpoint(service, room, what string) string {
	return strings.TrimRight(service, "/") + "/v1/rooms/" + room + "/" + what
}

// Client is an open replica. It is safe for concurrent use.
type Client struct {
	opts     Options
	store    *store
	events   watchers[Event]
	statuses watchers[Status]
	presence presence
	progress progress
	rounds   rounds
	wakeups  chan struct{} // there may be something to send
	preview  preview
	retries  chan struct{}   // see Reconnect
	reloads  chan struct{}   // the same for the first load
	repairs  chan chan error // see Repair; what is sent gets the outcome, and holds one

	stop    context.CancelFunc
	running sync.WaitGroup
	closing sync.Once
	closed  error // of Close
}

// Open opens the replica in the file at path, creates it if it does not exist, and starts to sync if
// Options name services. The directory must exist. Open needs no network: the file's content can be read
// and edited at once.
// Ctx is for opening only. The errors to expect are ErrLocked, ErrNotCanopyFile, ErrNewerVersion,
// ErrOtherRoom, ErrReadOnly, ErrDiskFull and ErrCorrupt.
//
// SQLite keeps files beside the file that are named after it; "path-lock" is the lock. The lock file is
// never removed, even if the file turns out to be something else: another process may have opened it
// meanwhile, and would hold a lock that the next one does not see. Path may be a symbolic link. A hard
// link has a lock of its own, and must not be used while the file is open. Nor may an open file be moved
// or removed.
//
// New files can be read by their owner only, whatever the umask is; change the mode of one to share it.
//
// Edits may be in "path-wal" until Close, and after a crash until the next Open. When you replace a file
// by a backup after a crash, remove path-wal first, or the backup is read with those edits on top.
func Open(ctx context.Context, path string, opts Options) (*Client, error) {
	opts = opts.withDefaults()
	if err := opts.check(); err != nil {
		return nil, fmt.Errorf("open replica: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	st, err := openStore(ctx, path, opts)
	if err != nil {
		return nil, fmt.Errorf("open replica: %w", err)
	}
	opts.Room = st.meta.Load().room
	c := &Client{opts: opts, store: st, wakeups: make(chan struct{}, 1), retries: make(chan struct{}, 1)}
	c.reloads, c.repairs = make(chan struct{}, 1), make(chan chan error)
	c.rounds.changed = make(chan struct{})
	st.publish = func(e Event) { c.events.publish(e, sendEvent) }
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	c.stop = stop
	if opts.RealtimeURL != "" {
		c.running.Go(func() { newSyncer(c).run(running) })
	}
	return c, nil
}

func openStore(ctx context.Context, path string, opts Options) (*store, error) {
	fresh, err := freshMeta(opts.Room, opts.Random)
	if err != nil {
		return nil, err
	}
	file, err := openFile(ctx, path, fresh, opts)
	if err != nil {
		return nil, err
	}
	st := &store{
		file: file, now: opts.Now, random: opts.Random, undo: undoOptions{opts.UndoLimit, opts.UndoPause},
		writing: make(chan struct{}, 1), closed: make(chan struct{}),
		begun: make(chan struct{}, 1), sights: make(chan struct{}, 1),
	}
	m := &meta{}
	if err := m.load(file.writer); err != nil {
		return nil, errors.Join(err, file.close())
	}
	if opts.Room != "" && m.room != opts.Room {
		return nil, errors.Join(fmt.Errorf("%w: %s", ErrOtherRoom, m.room), file.close())
	}
	if err := dropDrafts(file.writer); err != nil {
		return nil, errors.Join(err, file.close())
	}
	st.meta.Store(m)
	st.previewed = m.seq
	st.unsure.Store(true)
	st.startClock(m)
	st.release()
	// The history may have been kept under a higher limit.
	if err := st.update(context.WithoutCancel(ctx), Local, (*txn).trim); err != nil {
		return nil, errors.Join(err, file.close())
	}
	return st, nil
}

// Close stops sync, waits for running transactions and closes the file. If there is a connection, it
// first gives pending operations up to Options.FlushTimeout to be pushed. Operations still pending then
// stay in the file and are pushed after the next Open; to wait for all of them, call WaitSynced first.
// Close may be called more than once, but not from inside Edit or View.
func (c *Client) Close() error {
	c.closing.Do(func() {
		c.flush()
		c.stop()
		close(c.store.closed)
		c.running.Wait()
		c.events.close()
		c.statuses.close()
		c.presence.watchers.close()
		<-c.store.writing
		c.closed = c.store.file.close()
	})
	return c.closed
}

// flush waits until nothing is left to push, as long as that seems possible.
func (c *Client) flush() {
	if c.opts.RealtimeURL == "" || c.opts.FlushTimeout < 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.opts.FlushTimeout)
	defer cancel()
	for s := range c.WatchStatus(ctx) {
		if s.Pending == s.Refused || s.State != StateCatchingUp {
			return // nothing to push, or no connection
		}
	}
}

// Room is the name of the room.
func (c *Client) Room() string { return c.opts.Room }

// Replica is the id under which this replica makes operations. It changes when the file turns out to
// be a copy of another file in use.
func (c *Client) Replica() moveop.ReplicaID { return c.store.meta.Load().replica }

// Pending is the number of operations that the server has not acknowledged.
func (c *Client) Pending() int64 { return c.store.meta.Load().pending }

// wake has the sync loop look for something to send.
func (c *Client) wake() {
	signal(c.wakeups)
	c.statusChanged()
}

// Reconnect ends the backoff and tries to connect at once. Call it when the network is back, or when
// there is a new token. Do not call it from Options.Token: then there would be no backoff at all.
func (c *Client) Reconnect() {
	c.preview.again()
	for _, waiting := range []chan struct{}{c.retries, c.reloads, c.store.sights} {
		signal(waiting)
	}
}

// signal sends to a channel with room for one; a signal that nobody took yet is enough.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
