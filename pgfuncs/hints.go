package pgfuncs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/canopysync/canopy/realtime/wire"
)

// hintChannel is the NOTIFY channel of hints. A payload is "room head", or "*id" for the heartbeat of
// one Hints; room names have no '*'. Whoever may connect to the database may notify, so a payload is a
// hint and nothing more: it says where to look, never what is there.
const hintChannel = "canopy_hints"

// notifySQL sends many hints in one transaction.
const notifySQL = `select pg_notify('` + hintChannel + `', payload) from unnest($1::text[]) as payload`

// HintsConfig is what DB.Hints needs; zero fields get their default.
type HintsConfig struct {
	// Logger is told when the connection that listens is lost and found. Defaults to none.
	Logger *slog.Logger
	// Interval is the least time between two transactions that notify; hints of the same room in
	// between become one. The first one after a pause goes out at once. Defaults to 5 ms.
	Interval time.Duration
	// Heartbeat is how often Hints notifies itself, which is how it knows that it hears. A connection
	// over which nothing came for three times that is given up. Defaults to 5 s.
	Heartbeat time.Duration
	// RetryMin and RetryMax bound the delay, which doubles, before the next attempt to connect.
	// Default to 100 ms and 10 s.
	RetryMin, RetryMax time.Duration
}

// Hints carries word of commits between the processes of one database, over LISTEN and NOTIFY. It
// satisfies realtime's interface of that name.
//
// A NOTIFY takes a lock of the whole server at commit, so hints are never sent in a transaction that
// applies a batch: they have transactions of their own, on connections of the pool, one at a time.
// LISTEN has a connection of its own. A hint may be lost; whoever listens must look for itself, too.
//
// Behind a pooler that shares connections between transactions LISTEN hears nothing. Then the
// heartbeat does not come through, and Hints says that it is not live.
type Hints struct {
	db  *DB
	cfg HintsConfig
	id  string        // tells our own heartbeat
	due chan struct{} // there is something to send

	mu      sync.Mutex // guards what follows
	pending map[string]int64
	beat    bool // a heartbeat is to be sent
}

// Hints returns a transport for hints; it does nothing until Run.
func (db *DB) Hints(cfg HintsConfig) *Hints {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&cfg.Interval, 5*time.Millisecond)
	setDefault(&cfg.Heartbeat, 5*time.Second)
	setDefault(&cfg.RetryMin, 100*time.Millisecond)
	setDefault(&cfg.RetryMax, 10*time.Second)
	return &Hints{
		db: db, cfg: cfg, id: uuid.NewString(),
		due: make(chan struct{}, 1), pending: map[string]int64{},
	}
}

func setDefault(field *time.Duration, value time.Duration) {
	if *field == 0 {
		*field = value
	}
}

// Publish says that a room's log has reached head. It does not block.
func (h *Hints) Publish(room string, head int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pending[room] = max(head, h.pending[room])
	h.wake()
}

// wake has the sender look. The caller holds mu.
func (h *Hints) wake() {
	select {
	case h.due <- struct{}{}:
	default:
	}
}

// Run sends what is published and calls hear for what anybody published, our own hints among them,
// until ctx is done; then it sends what is left and returns. It calls live with true when hints begin
// to come through, of which those from before may have been lost, and with false when they cease to.
// Neither may block; they are called from one goroutine.
func (h *Hints) Run(ctx context.Context, hear func(room string, head int64), live func(bool)) {
	var sender sync.WaitGroup
	sender.Go(func() { h.send(ctx) })
	defer sender.Wait()
	h.listen(ctx, hear, live)
}

// send sends what is pending, at most once per Interval, until ctx is done, and then once more.
func (h *Hints) send(ctx context.Context) {
	heartbeat := time.NewTicker(h.cfg.Heartbeat)
	defer heartbeat.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-heartbeat.C:
			h.askBeat()
		case <-h.due:
			if !h.flush(ctx) {
				pause(ctx, h.cfg.RetryMin)
			}
			pause(ctx, h.cfg.Interval)
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	h.flush(last)
}

func (h *Hints) askBeat() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.beat = true
	h.wake()
}

// flush notifies of all that is pending. What could not be sent is pending again.
func (h *Hints) flush(ctx context.Context) (ok bool) {
	h.mu.Lock()
	pending, beat := h.pending, h.beat
	h.pending, h.beat = map[string]int64{}, false
	h.mu.Unlock()
	payloads := make([]string, 0, len(pending)+1)
	for room, head := range pending {
		payloads = append(payloads, room+" "+strconv.FormatInt(head, 10))
	}
	if beat {
		payloads = append(payloads, "*"+h.id)
	}
	if len(payloads) == 0 {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, h.cfg.Heartbeat) // this connection may be dead as well
	defer cancel()
	if _, err := h.db.pool.Exec(ctx, notifySQL, payloads); err == nil {
		return true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for room, head := range pending {
		h.pending[room] = max(head, h.pending[room])
	}
	h.beat = h.beat || beat
	h.wake()
	return false
}

// listen keeps a connection that listens, until ctx is done.
func (h *Hints) listen(ctx context.Context, hear func(string, int64), live func(bool)) {
	retry := backoff.NewExponentialBackOff()
	retry.InitialInterval, retry.MaxInterval, retry.Multiplier = h.cfg.RetryMin, h.cfg.RetryMax, 2
	retry.Reset()
	for ctx.Err() == nil {
		alive := false
		err := h.listenOnce(ctx, hear, func() {
			alive = true
			retry.Reset()
			h.cfg.Logger.Info("hints come through")
			live(true)
		})
		if alive {
			live(false)
		}
		if ctx.Err() != nil {
			return
		}
		delay := retry.NextBackOff()
		h.cfg.Logger.Warn("hints are lost: polling", "error", err, "retry_in", delay)
		pause(ctx, delay)
	}
}

// errSilent ends a connection over which our own heartbeats do not come.
var errSilent = errors.New("no notification came for three heartbeats")

// listenOnce listens over one connection until it fails. It calls alive once, when it has heard our
// own heartbeat: then the whole way works.
func (h *Hints) listenOnce(ctx context.Context, hear func(string, int64), alive func()) error {
	conn, err := h.connect(ctx)
	if err != nil {
		return fmt.Errorf("listen for hints: %w", err)
	}
	defer closeConn(ctx, conn)
	h.askBeat()
	heard := false
	for {
		payload, err := h.wait(ctx, conn)
		if err != nil {
			return fmt.Errorf("wait for hints: %w", err)
		}
		if strings.HasPrefix(payload, "*") {
			if !heard && payload[1:] == h.id {
				heard = true
				alive()
			}
			continue
		}
		if room, head, ok := parseHint(payload); ok {
			hear(room, head)
		}
	}
}

func (h *Hints) connect(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*h.cfg.Heartbeat)
	defer cancel()
	config := h.db.pool.Config().ConnConfig
	config.RuntimeParams["application_name"] = "canopy hints"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, "listen "+hintChannel); err != nil {
		closeConn(ctx, conn)
		return nil, err
	}
	return conn, nil
}

func (h *Hints) wait(ctx context.Context, conn *pgx.Conn) (payload string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 3*h.cfg.Heartbeat, errSilent)
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
	_ = conn.Close(ctx) // the server notices by itself, too
}

// parseHint reads "room head"; ok is false for anything else.
func parseHint(payload string) (room string, head int64, ok bool) {
	room, text, _ := strings.Cut(payload, " ")
	head, err := strconv.ParseInt(text, 10, 64)
	return room, head, err == nil && head > 0 && wire.ValidRoom(room) == nil
}

// pause waits, or until ctx is done.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
