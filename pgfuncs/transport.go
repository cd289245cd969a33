package pgfuncs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// notifySQL sends payloads in one transaction. It has nothing to flush to disk, so it holds the server-wide lock that
// NOTIFY takes at commit only briefly.
//
// A payload is a Transport's heartbeat ("*id") or a part of a parcel. Anybody who may connect to the database may
// listen and notify, if they know the channel's name, which only realtime's role may read. The name may leak, for
// instance into a log of statements, so payloads must be treated as hints only.
const notifySQL = `
	select pg_notify((select name from canopy.notify_channel), payload)
	  from unnest($1::text[]) as payload`

// TransportConfig configures DB.Transport; zero fields take their default.
type TransportConfig struct {
	// Logger receives a message when the listening connection is lost and found. Defaults to none.
	Logger *slog.Logger
	// Heartbeat is how often Transport notifies itself to check that notifications arrive. It gives up a
	// connection that was silent for three heartbeats. Defaults to 5 s.
	Heartbeat time.Duration
	// RetryMin and RetryMax bound the backoff between attempts to connect, which doubles each time.
	// Default to 100 ms and 10 s.
	RetryMin, RetryMax time.Duration
}

// Transport carries messages between the processes on one database, over LISTEN and NOTIFY. It implements
// realtime.Transport. There is one channel: every process hears everything.
//
// NOTIFY takes a lock on the whole database server at commit, so Transport never sends in a transaction that
// applies a batch: Send uses transactions of its own, on connections of the pool. LISTEN has a connection of
// its own. Messages sent while that is lost are not heard.
//
// Behind a pooler that shares connections between transactions, LISTEN hears nothing. Then the heartbeat does
// not arrive, and Listen reports that it is not live.
type Transport struct {
	db   *DB
	cfg  TransportConfig
	id   string        // identifies our own heartbeat
	beat chan struct{} // requests a heartbeat

	mu      sync.Mutex // guards parcels
	parcels uint64     // sent so far
}

// Transport returns a transport between processes. It does nothing until it is used.
func (db *DB) Transport(cfg TransportConfig) *Transport {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&cfg.Heartbeat, 5*time.Second)
	setDefault(&cfg.RetryMin, 100*time.Millisecond)
	setDefault(&cfg.RetryMax, 10*time.Second)
	return &Transport{db: db, cfg: cfg, id: uuid.NewString(), beat: make(chan struct{}, 1)}
}

func setDefault(field *time.Duration, value time.Duration) {
	if *field == 0 {
		*field = value
	}
}

// Send sends a batch of messages by room to all processes, in one transaction.
func (t *Transport) Send(ctx context.Context, batch map[string][]byte) error {
	t.mu.Lock()
	t.parcels++
	number := t.parcels
	t.mu.Unlock()
	return t.notify(ctx, pack(t.id, number, batch)...)
}

func (t *Transport) notify(ctx context.Context, payloads ...string) error {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Heartbeat) // the connection may be dead
	defer cancel()
	if _, err := t.db.pool.Exec(ctx, notifySQL, payloads); err != nil {
		return fmt.Errorf("notify: %w", err)
	}
	return nil
}

// Listen calls hear for each message of any process, including this one, until ctx is done. It calls live
// with true when messages begin to arrive (earlier ones may have been lost), and with false when they stop
// arriving. Neither function may block; both are called from one goroutine.
func (t *Transport) Listen(ctx context.Context, hear func(room string, data []byte), live func(bool)) {
	var heart sync.WaitGroup
	heart.Go(func() { t.keepBeating(ctx) })
	defer heart.Wait()
	retry := backoff.NewExponentialBackOff()
	retry.InitialInterval, retry.MaxInterval, retry.Multiplier = t.cfg.RetryMin, t.cfg.RetryMax, 2
	retry.Reset()
	for ctx.Err() == nil {
		alive := false
		err := t.listenOnce(ctx, hear, func() {
			alive = true
			retry.Reset()
			t.cfg.Logger.Info("messages of other processes arrive")
			live(true)
		})
		if alive {
			live(false)
		}
		if ctx.Err() != nil {
			return
		}
		delay := retry.NextBackOff()
		t.cfg.Logger.Warn("messages of other processes do not arrive, polling instead", "error", err, "retry_in", delay)
		pause(ctx, delay)
	}
}

// Follow does nothing: every process hears everything.
func (t *Transport) Follow(string) (unfollow func()) { return func() {} }

// CarriesOps returns false: operations must not rest on the name of a channel being secret.
func (t *Transport) CarriesOps() bool { return false }

// keepBeating sends a heartbeat periodically and on request. If that fails, listenOnce notices the silence.
func (t *Transport) keepBeating(ctx context.Context) {
	heartbeat := time.NewTicker(t.cfg.Heartbeat)
	defer heartbeat.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-heartbeat.C:
		case <-t.beat:
		}
		_ = t.notify(ctx, "*"+t.id)
	}
}

// errSilent ends a connection that does not deliver our own heartbeats.
var errSilent = errors.New("no notification arrived for three heartbeats")

// listenOnce listens on one connection until it fails. It calls alive once, on receiving our own heartbeat, which shows
// that the whole path works.
func (t *Transport) listenOnce(ctx context.Context, hear func(string, []byte), alive func()) error {
	conn, err := t.connect(ctx)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer closeConn(ctx, conn)
	select {
	case t.beat <- struct{}{}:
	default:
	}
	heard, parts := false, unpacker{}
	for {
		payload, err := t.wait(ctx, conn)
		if err != nil {
			return fmt.Errorf("wait for notifications: %w", err)
		}
		if beat, ok := strings.CutPrefix(payload, "*"); ok {
			if !heard && beat == t.id {
				heard = true
				alive()
			}
			continue
		}
		parts.add(payload, hear)
	}
}

func (t *Transport) connect(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*t.cfg.Heartbeat)
	defer cancel()
	config := t.db.pool.Config().ConnConfig
	config.RuntimeParams["application_name"] = "canopy listen"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	var channel string
	err = conn.QueryRow(ctx, `select name from canopy.notify_channel`).Scan(&channel)
	if err == nil {
		_, err = conn.Exec(ctx, "listen "+pgx.Identifier{channel}.Sanitize())
	}
	if err != nil {
		closeConn(ctx, conn)
		return nil, err
	}
	return conn, nil
}

func (t *Transport) wait(ctx context.Context, conn *pgx.Conn) (payload string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 3*t.cfg.Heartbeat, errSilent)
	defer cancel()
	n, err := conn.WaitForNotification(ctx)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return "", cause
		}
		return "", err
	}
	return n.Payload, nil
}

func closeConn(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // if that fails, the server notices by itself
}

// pause waits for d or until ctx is done.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
