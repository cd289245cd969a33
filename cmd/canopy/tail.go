package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/gorilla/websocket"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
	"github.com/canopysync/canopy/realtime/wire/socket"
)

type tailCmd struct {
	Room  string `arg:"" help:"Name of the room."`
	After *int64 `placeholder:"SEQ" help:"Start after this sequence number (0: from the beginning) instead of now."`
	Limit int64  `short:"n" placeholder:"N" help:"Stop after this many operations."`
	realtimeFlag
	tokenFlag
	jsonFlag
}

// Help is the command's long help.
func (*tailCmd) Help() string {
	return `Prints every operation, corrections included, once the server has committed it, each once and in order. After a lost connection it reconnects and misses nothing. Stop it with Ctrl-C.

With --json, each line is an operation in the protocol's JSON form.

Examples:

    canopy tail notes
    canopy tail notes --after 0 --json | jq -c 'select(.kind=="set") | [.node, .key, .value]'`
}

// tailer follows the log of one room.
type tailer struct {
	cmd     *tailCmd
	env     *Env
	service service
	replica moveop.ReplicaID
	epoch   string
	seq     int64 // the last one printed
	printed int64
	retry   *backoff.ExponentialBackOff
}

// errTailed means that the limit was reached.
var errTailed = errors.New("limit reached")

func (c *tailCmd) Run(ctx context.Context, env *Env) error {
	t, err := c.tailer(ctx, env)
	if err != nil {
		return err
	}
	for first := true; ; first = false {
		err := t.connect(ctx, first)
		switch {
		case ctx.Err() != nil, errors.Is(err, errTailed):
			return nil // that is how it ends
		case !worthRetrying(err):
			return err
		}
		delay := t.retryIn(err)
		fmt.Fprintf(env.Stderr, "canopy: %s; connecting again in %s\n", inert(err.Error(), lines), delay.Round(time.Millisecond))
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
	}
}

func (c *tailCmd) tailer(ctx context.Context, env *Env) (*tailer, error) {
	if c.Limit < 0 || c.After != nil && *c.After < 0 {
		return nil, usagef("neither --after nor --limit may be negative")
	}
	s, err := c.service(c.tokenFlag)
	if err != nil {
		return nil, err
	}
	at, err := s.position(ctx, c.Room)
	if err != nil {
		return nil, err
	}
	replica, err := moveop.NewReplicaID(rand.Reader)
	if err != nil {
		return nil, err
	}
	t := &tailer{cmd: c, env: env, service: s, replica: replica, epoch: at.Epoch, seq: at.Head, retry: backoff.NewExponentialBackOff()}
	if c.After != nil {
		t.seq = *c.After
	}
	return t, nil
}

// refusedError ends the tail: the server would refuse the same request again.
type refusedError struct{ err error }

func (e *refusedError) Error() string { return e.err.Error() }
func (e *refusedError) Unwrap() error { return e.err }

func worthRetrying(err error) bool {
	_, refused := errors.AsType[*refusedError](err)
	return !refused
}

// retryIn is how long to wait before connecting again: at least as long as a stopping server asks for, plus jitter,
// since others wait for it too.
func (t *tailer) retryIn(err error) time.Duration {
	delay := t.retry.NextBackOff()
	if e, ok := errors.AsType[*websocket.CloseError](err); ok && e.Code == wire.CloseRestart {
		after, _ := wire.ParseRestartReason(e.Text)
		delay += after
	}
	return delay
}

// connect follows the log over one connection, until that ends.
func (t *tailer) connect(ctx context.Context, first bool) error {
	conn, err := t.dial(ctx)
	if err != nil {
		if first {
			err = &refusedError{unavailable(err)} // never there: most likely the wrong address
		}
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, conn.Close)()
	hello := wire.Hello{Replica: t.replica, Epoch: &t.epoch, Seq: t.seq, Name: "canopy tail"}
	if err := conn.Send(hello); err != nil {
		return err
	}
	for {
		msg, err := conn.Receive()
		if err != nil {
			return err
		}
		if err := t.handle(conn, msg); err != nil {
			return err
		}
	}
}

func (t *tailer) dial(ctx context.Context) (*socket.Conn, error) {
	header := http.Header{}
	t.service.authorize(header)
	conn, err := socket.Dial(ctx, t.service.base+"/v1/rooms/"+t.cmd.Room+"/ws", header, t.service.http.Transport)
	refusal, refused := errors.AsType[*wire.Error](err)
	if refused && !refusal.Retryable || errors.Is(err, socket.ErrProtocol) {
		err = &refusedError{err}
	}
	return conn, err
}

// handle does what a message asks for.
func (t *tailer) handle(conn *socket.Conn, msg wire.Message) error {
	switch msg := msg.(type) {
	case wire.Welcome:
		t.retry.Reset()
	case wire.Ops:
		if msg.From > t.seq+1 {
			return conn.Send(wire.Pull{After: t.seq})
		}
		return t.print(msg.Ops)
	case wire.Head:
		if msg.Head > t.seq {
			return conn.Send(wire.Pull{After: t.seq})
		}
	case wire.Resync:
		return t.resync(msg)
	case *wire.Error:
		if !msg.Retryable {
			return &refusedError{msg}
		}
		return msg
	}
	return nil
}

// resync continues at the head, and says so, because the log cannot be followed from the last position.
func (t *tailer) resync(msg wire.Resync) error {
	fmt.Fprintf(t.env.Stderr, "canopy: cannot get the operations after %d (%s); going on after %d\n", t.seq, visible(msg.Reason), msg.Head)
	t.epoch, t.seq = msg.Epoch, msg.Head
	return errors.New("the log cannot be followed from here")
}

func (t *tailer) print(ops []moveop.Op) error {
	for _, op := range ops {
		if op.Seq <= t.seq {
			continue // pulled once more than needed
		}
		err := t.cmd.print(t.env, op, func() { fmt.Fprintln(t.env.Stdout, opLine(op)) })
		if err != nil {
			return &refusedError{err}
		}
		t.seq = op.Seq
		if t.printed++; t.printed == t.cmd.Limit {
			return errTailed
		}
	}
	return nil
}
