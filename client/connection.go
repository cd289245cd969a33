package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"github.com/canopysync/canopy/realtime/wire"
)

// errToken means that Options.Token failed.
var errToken = errors.New("no token")

// errOutdated means that the server does not speak our version of the protocol.
var errOutdated = errors.New("the server's protocol is not one that this program knows")

const (
	handshakeTimeout = 15 * time.Second
	writeTimeout     = 15 * time.Second
	pingInterval     = 20 * time.Second
	goodbye          = time.Second // for leaving in good order
	// silence is how long the server may say nothing, though it is pinged, before it counts as gone.
	silence = 3 * pingInterval
	// readAhead is how many frames wait to be handled; the rest waits in the network.
	readAhead = 16
)

// connection is one socket with its reader goroutine.
type connection struct {
	conn  *websocket.Conn
	codec wire.Codec
	token string            // what it was opened with
	in    chan wire.Message // closed at the end; then err says why
	err   error
	done  chan struct{} // closed by close: the reader need not deliver any more
}

// authorization returns the header that carries the token, empty if there is none.
func (o *Options) authorization(ctx context.Context) (http.Header, error) {
	header := http.Header{}
	if o.Token == nil {
		return header, nil
	}
	token, err := o.Token(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errToken, err)
	}
	header.Set("Authorization", "Bearer "+token)
	return header, nil
}

// dialer dials as HTTPClient does, as far as that can be told.
func (o *Options) dialer() *websocket.Dialer {
	dialer := &websocket.Dialer{
		Proxy:            http.ProxyFromEnvironment,
		HandshakeTimeout: handshakeTimeout,
		Subprotocols:     []string{wire.SubprotocolBinary, wire.SubprotocolJSON},
	}
	if shared, ok := o.HTTPClient.Transport.(*http.Transport); ok {
		transport := shared.Clone() // in turn with a first request, which sets its TLSClientConfig
		dialer.Proxy, dialer.NetDialContext = transport.Proxy, transport.DialContext
		if transport.TLSClientConfig != nil {
			dialer.TLSClientConfig = transport.TLSClientConfig
			dialer.TLSClientConfig.NextProtos = nil // WebSocket goes over HTTP/1.1
		}
	}
	return dialer
}

func connect(ctx context.Context, opts *Options) (*connection, error) {
	header, err := opts.authorization(ctx)
	if err != nil {
		return nil, err
	}
	dialer := opts.dialer()
	target := "ws" + strings.TrimPrefix(endpoint(opts.RealtimeURL, opts.Room, "ws"), "http")
	conn, resp, err := dialer.DialContext(ctx, target, header)
	if err != nil {
		if errors.Is(err, websocket.ErrBadHandshake) && resp != nil {
			err = wire.ReadError(resp)
			if resp.StatusCode == http.StatusUpgradeRequired {
				err = fmt.Errorf("%w: %w", errOutdated, err)
			}
		}
		return nil, fmt.Errorf("connect: %w", err)
	}
	codec, ok := wire.CodecFor(conn.Subprotocol())
	if !ok {
		_ = conn.Close()
		return nil, fmt.Errorf("connect: %w: neither %s nor %s", errOutdated, wire.SubprotocolBinary, wire.SubprotocolJSON)
	}
	conn.SetReadLimit(wire.MaxFrame)
	token := strings.TrimPrefix(header.Get("Authorization"), "Bearer ")
	return &connection{conn: conn, codec: codec, token: token, in: make(chan wire.Message, readAhead), done: make(chan struct{})}, nil
}

// read delivers messages until the connection ends.
func (c *connection) read() {
	defer close(c.in)
	answerPing := c.conn.PingHandler()
	c.conn.SetPingHandler(func(data string) error {
		c.hear()
		return answerPing(data)
	})
	for {
		c.hear()
		_, frame, err := c.conn.ReadMessage()
		if err != nil {
			c.err = fmt.Errorf("read: %w", err)
			return
		}
		msg, err := c.codec.Decode(frame)
		if errors.Is(err, wire.ErrUnknownType) {
			continue // a later version's; what we need comes as what we know
		}
		if err != nil {
			c.err = fmt.Errorf("decode message: %w", err)
			return
		}
		select {
		case c.in <- msg:
		case <-c.done:
			c.err = errors.New("closed")
			return
		}
	}
}

func (c *connection) hear() { _ = c.conn.SetReadDeadline(time.Now().Add(silence)) }

// send writes a message.
func (c *connection) send(msg wire.Message) error {
	frame, err := c.codec.Encode(msg)
	if err != nil {
		return err
	}
	return c.write(frame)
}

func (c *connection) write(frame []byte) error {
	kind := websocket.TextMessage
	if c.codec.Binary() {
		kind = websocket.BinaryMessage
	}
	if err := c.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if err := c.conn.WriteMessage(kind, frame); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// close ends the connection and waits for the reader. Leaving in good order tells the others at once.
func (c *connection) close() {
	text := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	_ = c.conn.WriteControl(websocket.CloseMessage, text, time.Now().Add(goodbye))
	close(c.done)
	_ = c.conn.Close()
	for range c.in {
	}
}
