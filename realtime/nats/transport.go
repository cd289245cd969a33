// Package nats is a transport between realtime processes over NATS. Use it to spare Postgres the load of NOTIFY.
//
// Messages of a room are published under "PREFIX.room.NAME", with ':' in place of the dots of the name, and
// reach the processes that have the room in use. Messages to all are published under "PREFIX.all". It uses
// core NATS only: nothing is stored, and a lost message costs latency.
//
// Anybody who may publish there could show sockets operations that are not in the log, until replicas next
// compare digests. So only the realtime processes of one database may publish or subscribe under a prefix.
//
// A Transport is safe for concurrent use.
package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// Config configures Open. Only URL is required.
type Config struct {
	// URL is one or more servers ("nats://host:4222", "tls://…"), separated by commas; the client discovers
	// the rest of their cluster. It may contain user:password@ or token@.
	URL string
	// Credentials is a file with a user's JWT and seed, as written by nsc.
	Credentials string
	// CA is a file with the CA certificates for the servers; Cert and Key are files with a client certificate
	// and its key. Default to the system's CAs and no client certificate.
	CA, Cert, Key string
	// Prefix begins all subjects. Each database needs its own. Defaults to "canopy".
	Prefix string
	// Logger receives a message when the connection is lost and found. Defaults to none.
	Logger *slog.Logger
}

// inboxMessages is how many messages may wait to be processed, each of at most 32 KiB except for lists of members.
// Further ones are lost, and Listen reports that.
const inboxMessages = 1024

// The server is pinged every pingInterval, and given up after two unanswered pings.
const pingInterval = 5 * time.Second

// Transport carries messages between realtime processes.
type Transport struct {
	cfg   Config
	conn  *nats.Conn
	inbox chan *nats.Msg
	stir  chan struct{} // the connection is a new one, or messages were lost
	up    atomic.Bool   // there is a connection, with all its subscriptions
	lost  atomic.Bool   // some messages were lost
}

// Open connects to the server. If the server cannot be reached, the transport keeps trying until Close; Open
// fails only for errors in the configuration.
func Open(cfg Config) (*Transport, error) {
	if cfg.Prefix == "" {
		cfg.Prefix = "canopy"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if err := checkPrefix(cfg.Prefix); err != nil {
		return nil, err
	}
	t := &Transport{cfg: cfg, inbox: make(chan *nats.Msg, inboxMessages), stir: make(chan struct{}, 1)}
	var err error
	if t.conn, err = nats.Connect(cfg.URL, t.options()...); err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	if _, err := t.conn.ChanSubscribe(t.subject(""), t.inbox); err != nil {
		t.conn.Close()
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	return t, nil
}

// checkPrefix refuses a prefix that is not a single valid subject.
func checkPrefix(prefix string) error {
	for token := range strings.SplitSeq(prefix, ".") {
		if token == "" || strings.ContainsAny(token, "*> \t\r\n\x00") {
			return fmt.Errorf("NATS prefix %q is not of the form name[.name…]", prefix)
		}
	}
	return nil
}

func (t *Transport) options() []nats.Option {
	options := []nats.Option{
		nats.Name("canopy realtime"),
		nats.NoEcho(),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(), // credentials may be corrected while we run
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectBufSize(-1), // what cannot be sent now is composed anew later
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(2),
		nats.FlusherTimeout(pingInterval),
		nats.ConnectHandler(t.connected),
		nats.ReconnectHandler(t.connected),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			t.up.Store(false)
			t.loses("disconnected from NATS: polling", err)
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { t.loses("NATS", err) }),
	}
	if t.cfg.Credentials != "" {
		options = append(options, nats.UserCredentials(t.cfg.Credentials))
	}
	if t.cfg.CA != "" {
		options = append(options, nats.RootCAs(t.cfg.CA))
	}
	if t.cfg.Cert != "" || t.cfg.Key != "" {
		options = append(options, nats.ClientCert(t.cfg.Cert, t.cfg.Key))
	}
	return options
}

func (t *Transport) connected(conn *nats.Conn) {
	t.cfg.Logger.Info("connected to NATS", "server", conn.ConnectedUrlRedacted())
	t.up.Store(true)
	t.signal()
}

// loses records that messages may have been lost.
func (t *Transport) loses(what string, err error) {
	t.lost.Store(true)
	t.signal()
	t.cfg.Logger.Warn(what, "error", err)
}

func (t *Transport) signal() {
	select {
	case t.stir <- struct{}{}:
	default:
	}
}

// Close ends the connection.
func (t *Transport) Close() { t.conn.Close() }

// roomSubject precedes the names of rooms.
const roomSubject = ".room."

func (t *Transport) subject(room string) string {
	if room == "" {
		return t.cfg.Prefix + ".all"
	}
	return t.cfg.Prefix + roomSubject + strings.ReplaceAll(room, ".", ":")
}

func (t *Transport) room(subject string) string {
	room, _ := strings.CutPrefix(subject, t.cfg.Prefix+roomSubject)
	if room == subject {
		return ""
	}
	return strings.ReplaceAll(room, ":", ".")
}

// Send publishes one message to each room of batch.
func (t *Transport) Send(ctx context.Context, batch map[string][]byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !t.conn.IsConnected() {
		return nats.ErrDisconnected
	}
	for room, data := range batch {
		err := t.conn.Publish(t.subject(room), data)
		if errors.Is(err, nats.ErrMaxPayload) { // sending it again would not help
			t.cfg.Logger.Warn("message too long for the NATS server", "room", room, "bytes", len(data), "limit", t.conn.MaxPayload())
			continue
		}
		if err != nil {
			return fmt.Errorf("publish: %w", err)
		}
	}
	return nil
}

// Listen calls hear for other processes' messages to followed rooms and to all, until ctx is done. It calls live
// with true when there is a connection, and with false when there is none or messages were lost. Neither may
// block; both are called from one goroutine.
func (t *Transport) Listen(ctx context.Context, hear func(room string, data []byte), live func(bool)) {
	alive := false
	set := func(v bool) {
		if alive != v {
			alive = v
			live(v)
		}
	}
	for {
		select {
		case <-ctx.Done():
			set(false)
			return
		case msg := <-t.inbox:
			hear(t.room(msg.Subject), msg.Data)
		case <-t.stir:
			up := t.up.Load()
			if t.lost.Swap(false) || !up {
				set(false)
			}
			set(up && t.conn.FlushTimeout(pingInterval) == nil) // the server has processed our subscriptions
		}
	}
}

// Follow subscribes to a room's messages until unfollow is called.
func (t *Transport) Follow(room string) (unfollow func()) {
	sub, err := t.conn.ChanSubscribe(t.subject(room), t.inbox)
	if err != nil { // closed: nothing more arrives
		return func() {}
	}
	return func() { _ = sub.Unsubscribe() }
}

// CarriesOps returns true: only processes that may write to the log may use the prefix.
func (t *Transport) CarriesOps() bool { return true }
