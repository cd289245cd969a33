// Package socket is a client's side of a room's WebSocket: the messages of package wire over a connection
// to the realtime service.
package socket

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

const (
	handshakeTimeout = 15 * time.Second
	writeTimeout     = 15 * time.Second
	goodbye          = time.Second // for leaving in good order

	// silence is how long the server may send nothing before it counts as gone. It pings every 20 s.
	silence = time.Minute
)

// ErrProtocol is wrapped by Dial's error if the server speaks no version of the protocol that this program
// knows.
var ErrProtocol = errors.New("this program knows none of the server's protocol versions: update it")

// Conn is a connection to a room. One goroutine may receive while another one sends; any goroutine may call
// Close and Expire at any time.
type Conn struct {
	Codec wire.Codec // the negotiated encoding

	ws *websocket.Conn
}

// Dial connects to target, the http or https URL of a room's socket, with the proxy, dialer and TLS settings
// of via if that is an *http.Transport. It negotiates the binary form if the server has it. If the service
// refuses the connection, the error wraps its *wire.Error, ErrProtocol, or both.
func Dial(ctx context.Context, target string, header http.Header, via http.RoundTripper) (*Conn, error) {
	ws, resp, err := dialer(via).DialContext(ctx, "ws"+strings.TrimPrefix(target, "http"), header)
	if err != nil {
		return nil, refusal(resp, err)
	}
	codec, ok := wire.CodecFor(ws.Subprotocol())
	if !ok {
		_ = ws.Close()
		return nil, fmt.Errorf("%w: neither %s nor %s", ErrProtocol, wire.SubprotocolBinary, wire.SubprotocolJSON)
	}
	ws.SetReadLimit(wire.MaxFrame)
	c := &Conn{Codec: codec, ws: ws}
	answerPing := ws.PingHandler()
	ws.SetPingHandler(func(data string) error {
		c.hear()
		return answerPing(data)
	})
	return c, nil
}

func dialer(via http.RoundTripper) *websocket.Dialer {
	d := &websocket.Dialer{
		Proxy:            http.ProxyFromEnvironment,
		HandshakeTimeout: handshakeTimeout,
		Subprotocols:     []string{wire.SubprotocolBinary, wire.SubprotocolJSON},
	}
	if shared, ok := via.(*http.Transport); ok {
		transport := shared.Clone() // in turn with a first request, which sets its TLSClientConfig
		d.Proxy, d.NetDialContext = transport.Proxy, transport.DialContext
		if transport.TLSClientConfig != nil {
			d.TLSClientConfig = transport.TLSClientConfig
			d.TLSClientConfig.NextProtos = nil // WebSocket goes over HTTP/1.1
		}
	}
	return d
}

// refusal prefers what the service says to what the library makes of it.
func refusal(resp *http.Response, err error) error {
	if resp == nil || !errors.Is(err, websocket.ErrBadHandshake) {
		return err
	}
	if err = wire.ReadError(resp); resp.StatusCode == http.StatusUpgradeRequired {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return err
}

// Send writes a message. After an error other than that of encoding, nothing more can be sent.
func (c *Conn) Send(msg wire.Message) error {
	frame, err := c.Codec.Encode(msg)
	if err != nil {
		return err
	}
	return c.Write(frame)
}

// Write writes a frame that Codec encoded.
func (c *Conn) Write(frame []byte) error {
	kind := websocket.TextMessage
	if c.Codec.Binary() {
		kind = websocket.BinaryMessage
	}
	err := c.ws.SetWriteDeadline(time.Now().Add(writeTimeout))
	if err == nil {
		err = c.ws.WriteMessage(kind, frame)
	}
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// Receive returns the next message of a known type and skips others, which later versions may send. After an
// error nothing more can be received; it wraps a *websocket.CloseError if the server closed the connection.
func (c *Conn) Receive() (wire.Message, error) {
	for {
		c.hear()
		_, frame, err := c.ws.ReadMessage()
		if err != nil {
			return nil, fmt.Errorf("read: %w", err)
		}
		msg, err := c.Codec.Decode(frame)
		if errors.Is(err, wire.ErrUnknownType) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("decode message: %w", err)
		}
		return msg, nil
	}
}

func (c *Conn) hear() { _ = c.ws.SetReadDeadline(time.Now().Add(silence)) }

// Expire gives sends and receives under way one more second.
func (c *Conn) Expire() { _ = c.ws.NetConn().SetDeadline(time.Now().Add(goodbye)) }

// Close ends the connection and any Receive. It says goodbye if that takes no more than a second, so that the
// others in the room learn of it at once.
func (c *Conn) Close() {
	text := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	_ = c.ws.WriteControl(websocket.CloseMessage, text, time.Now().Add(goodbye))
	_ = c.ws.Close()
}
