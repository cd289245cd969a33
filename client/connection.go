package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/canopysync/canopy/realtime/wire"
	"github.com/canopysync/canopy/realtime/wire/socket"
)

// errToken means that Options.Token failed.
var errToken = errors.New("no token")

const (
	pingInterval = 20 * time.Second
	// readAhead is how many frames wait to be handled; the rest waits in the network.
	readAhead = 16
)

// connection is one socket with its reader goroutine.
type connection struct {
	*socket.Conn
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

func connect(ctx context.Context, opts *Options) (*connection, error) {
	header, err := opts.authorization(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := socket.Dial(ctx, endpoint(opts.RealtimeURL, opts.Room, "ws"), header, opts.HTTPClient.Transport)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	token := strings.TrimPrefix(header.Get("Authorization"), "Bearer ")
	return &connection{Conn: conn, token: token, in: make(chan wire.Message, readAhead), done: make(chan struct{})}, nil
}

// read delivers messages until the connection ends.
func (c *connection) read() {
	defer close(c.in)
	for {
		msg, err := c.Receive()
		if err != nil {
			c.err = err
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

// close ends the connection and waits for the reader.
func (c *connection) close() {
	c.Close()
	close(c.done)
	for range c.in {
	}
}
