package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/websocket"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// feed is the least realtime service that a client can be fed by: it says welcome to one client, sends
// it what it is given, and answers pings. What it sends is numbered from 1.
type feed struct {
	url    string
	server *http.Server
	joined chan struct{} // closed when the client has been welcomed
	served chan struct{} // closed when the server has stopped

	mu    sync.Mutex // guards what follows, and writing
	conn  *websocket.Conn
	codec wire.Codec
	head  int64
}

func startFeed(ctx context.Context) (*feed, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start feed: %w", err)
	}
	f := &feed{url: "http://" + ln.Addr().String(), joined: make(chan struct{}), served: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/rooms/{room}/ws", f.serve)
	f.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(f.served)
		_ = f.server.Serve(ln) // ends with close
	}()
	return f, nil
}

func (f *feed) close() error {
	f.mu.Lock()
	if f.conn != nil {
		_ = f.conn.Close() // it is hijacked: the server does not know it any more
	}
	f.mu.Unlock()
	err := f.server.Close()
	<-f.served
	return err
}

func (f *feed) serve(w http.ResponseWriter, r *http.Request) {
	upgrader := websocket.Upgrader{Subprotocols: []string{wire.SubprotocolBinary}}
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer conn.Close()
	codec, ok := wire.CodecFor(conn.Subprotocol())
	if !ok {
		return
	}
	f.mu.Lock()
	if f.conn != nil {
		f.mu.Unlock()
		return // it was fed half: nothing can be measured any more, and the wait for it ends with an error
	}
	f.conn, f.codec = conn, codec
	f.mu.Unlock()
	for {
		_, frame, err := conn.ReadMessage()
		if err != nil {
			return
		}
		msg, err := codec.Decode(frame)
		if err != nil || f.answer(msg) != nil {
			return
		}
	}
}

func (f *feed) answer(msg wire.Message) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch msg.(type) {
	case wire.Hello:
		defer close(f.joined)
		return f.write(wire.Welcome{
			Epoch: uuid.NewString(), Status: wire.Ready, ServerTime: time.Now().UnixMilli(),
			Limits: wire.Limits{MaxOps: wire.DefaultLimit, MaxFrame: 1 << 20},
		})
	case wire.Ping:
		return f.write(wire.ServerStatus{Status: wire.Ready, Head: f.head})
	}
	return nil
}

// write needs mu.
func (f *feed) write(msg wire.Message) error {
	frame, err := f.codec.Encode(msg)
	if err != nil {
		return err
	}
	return f.conn.WriteMessage(websocket.BinaryMessage, frame)
}

// frame encodes the next operations to be sent.
func (f *feed) frame(ops []moveop.Op) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range ops {
		ops[i].Seq = f.head + 1 + int64(i)
	}
	msg := wire.Ops{From: f.head + 1, To: f.head + int64(len(ops)), Ops: ops}
	f.head = msg.To
	return f.codec.Encode(msg)
}

func (f *feed) send(frame []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.conn.WriteMessage(websocket.BinaryMessage, frame)
}

// errUnfed means that the client did not take what it was sent.
var errUnfed = errors.New("the client does not follow the feed")

// unfedAfter is how long a batch may take.
const unfedAfter = time.Minute
