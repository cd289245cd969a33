//go:build unix

package chaos_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// The two realtime services are restarted one after the other, again and again, while writers push through
// whichever takes them. A service that is told to stop commits nothing without saying so: each operation is
// acknowledged once, as applied, and none as a duplicate, as it would be when pushed again because its ack
// was lost. (On a machine so busy that a writer takes two seconds to answer a close frame, the service does not
// wait for it: after a session that was cut off like that, and only then, there may be a duplicate.) People whose clients come and go along with it lose nothing either.
func TestRollingRestartLosesNoAck(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.play(t, 2, func(r *round) {
		balancer := newProxy(r, r.dialEither)
		for _, p := range r.people {
			p.realtime.setDial(r.dialEither)
			p.realtime.cut()
			p.send(order{Do: "edit", N: 400, Size: 100, Pause: 20 * time.Millisecond})
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		var writing sync.WaitGroup
		writers := make([]*writer, 10)
		for i := range writers {
			writers[i] = &writer{room: r.room, addr: balancer.addr, replica: moveop.ReplicaID(i + 1), ended: make(chan struct{})}
			writing.Go(func() { writers[i].run(ctx) })
		}
		for range 2 {
			for _, s := range r.world.realtime {
				r.underLoad(writers)
				if code, err := s.terminate(); code != 0 || err != nil {
					r.Errorf("%s ends with code %d, %v\n%s", s.name, code, err, tail(s.log))
				}
				r.restart(s)
			}
		}
		cancel()
		writing.Wait()
		balancer.close()
		var acked int64
		var restarts, cuts int
		for _, w := range writers {
			if w.err != nil {
				r.Errorf("writer %d: %v", w.replica, w.err)
			}
			acked += w.acked.Load()
			restarts += w.restarts
			cuts += w.cuts
		}
		if restarts == 0 {
			r.Error("nobody was told of a restart")
		}
		const writtenSQL = `
			select count(*)
			  from canopy.ops join canopy.rooms using (room_id)
			 where name = $1
			   and order_key = 'b00'`
		if logged := r.number(r, writtenSQL, r.room); logged != acked {
			r.Errorf("%d operations are acknowledged, %d in the log", acked, logged)
		}
		r.Logf("%d operations acknowledged; %d sessions ended by a restart, %d otherwise", acked, restarts, cuts)
	})
}

// dialEither reaches one of the realtime services, as what balances load in front of them would.
func (r *round) dialEither() (conn net.Conn, err error) {
	first := r.turns.Add(1)
	for i := range int64(2) {
		if conn, err = r.world.realtime[(first+i)%2].dial(); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// underLoad waits until every writer has got some more acks.
func (r *round) underLoad(writers []*writer) {
	r.Helper()
	const some = 20
	goals := map[*writer]int64{}
	for _, w := range writers {
		goals[w] = w.acked.Load() + some
	}
	for w, goal := range goals {
		await(r, "writers write", func() bool {
			select {
			case <-w.ended:
				r.Fatalf("writer %d: %v", w.replica, w.err)
			default:
			}
			return w.acked.Load() >= goal
		})
	}
}

// writer pushes two operations at a time, and again what was not answered.
type writer struct {
	room, addr string
	replica    moveop.ReplicaID
	acked      atomic.Int64 // operations, from its first on
	cut        bool         // the last session did not end with the close frame, before which all acks come
	cuts       int
	restarts   int
	ended      chan struct{}
	err        error // once it has ended
}

func (w *writer) run(ctx context.Context) {
	defer close(w.ended)
	for ctx.Err() == nil && w.err == nil {
		w.session(ctx)
	}
}

// op is a writer's nth operation, recognisable by its order key.
func (w *writer) op(n int64) moveop.Op {
	return moveop.Op{
		Kind: moveop.Move, TS: moveop.NewTimestamp(900_000_000_000+n, 0, w.replica),
		Node: moveop.NodeID{0: byte(w.replica), 1: byte(n >> 8), 2: byte(n), 15: 9}, Parent: moveop.Root, OrderKey: "b00",
	}
}

// session pushes until the socket ends, and reads it to its end.
func (w *writer) session(ctx context.Context) {
	dialer := websocket.Dialer{Subprotocols: []string{wire.SubprotocolJSON}}
	conn, resp, err := dialer.Dial("ws://"+w.addr+"/v1/rooms/"+w.room+"/ws", nil)
	if err != nil {
		return // both have just stopped
	}
	_ = resp.Body.Close()
	defer conn.Close()
	send := func(msg wire.Message) {
		data, _ := wire.JSON.Encode(msg)
		_ = conn.WriteMessage(websocket.TextMessage, data) // reading tells
	}
	send(wire.Hello{Replica: w.replica})
	for sent := w.acked.Load(); ; {
		if sent == w.acked.Load() {
			if ctx.Err() != nil {
				return // everything is answered, and there is no more
			}
			send(wire.Push{ID: fmt.Sprint(sent), Ops: []moveop.Op{w.op(sent), w.op(sent + 1)}})
			sent += 2
		}
		_, data, err := conn.ReadMessage()
		if err != nil {
			closed, ok := errors.AsType[*websocket.CloseError](err)
			if w.cut = !ok || closed.Code != wire.CloseRestart; w.cut {
				w.cuts++
			} else {
				w.restarts++
			}
			return
		}
		if !w.hear(data) {
			return
		}
	}
}

// hear is false where the session is of no more use.
func (w *writer) hear(data []byte) bool {
	msg, err := wire.JSON.Decode(data)
	if err != nil {
		w.err = err
		return false
	}
	switch msg := msg.(type) {
	case wire.Ack:
		for _, result := range msg.Results {
			excused := w.cut && result.Status == wire.StatusDuplicate
			if want := w.op(w.acked.Load()).TS; result.Status != wire.StatusApplied && !excused || result.TS != want {
				w.err = fmt.Errorf("%s of %s, want %s", result.Status, result.TS, want)
			}
			w.acked.Add(1)
		}
		w.cut = false
	case wire.Nack:
		if !msg.Retryable {
			w.err = &msg.Error
		}
		return false
	case *wire.Error:
		if !msg.Retryable {
			w.err = msg
		}
	}
	return w.err == nil
}
