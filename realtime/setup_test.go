package realtime_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/pgfuncs/pgtest"
	"github.com/canopysync/canopy/realtime"
	"github.com/canopysync/canopy/realtime/wire"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// service is a running server with what a test needs to talk to it.
type service struct {
	t     testing.TB
	store *fakeStore
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)
	host  string
	http  *http.Client
	stop  func() error // like SIGTERM; waits for Serve to return
}

// setup serves on a loopback socket until the test ends; Serve must then return nil.
func setup(t testing.TB, configure ...func(*realtime.Config)) *service {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return start(t, l, (&net.Dialer{}).DialContext, configure...)
}

// setupPipe is setup for a synctest bubble, where only in-memory connections let time pass.
func setupPipe(t testing.TB, configure ...func(*realtime.Config)) *service {
	t.Helper()
	l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	return start(t, l, l.dial, configure...)
}

func start(t testing.TB, l net.Listener, dial func(context.Context, string, string) (net.Conn, error), configure ...func(*realtime.Config)) *service {
	t.Helper()
	store := newFakeStore()
	s := startWith(t, store, l, dial, configure...)
	s.store = store
	return s
}

func startWith(t testing.TB, store realtime.Store, l net.Listener, dial func(context.Context, string, string) (net.Conn, error), configure ...func(*realtime.Config)) *service {
	t.Helper()
	cfg := realtime.Config{Store: store}
	for _, c := range configure {
		c(&cfg)
	}
	srv, err := realtime.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- srv.Serve(ctx, l)
		close(served)
	}()
	transport := &http.Transport{DialContext: dial}
	s := &service{t: t, dial: dial, host: l.Addr().String(), http: &http.Client{Transport: transport}}
	s.stop = func() error {
		cancel()
		return <-served
	}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		if err := s.stop(); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s
}

// pipeListener accepts in-memory connections.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l *pipeListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return nil, errors.New("listener closed")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// peer is one client socket. Its reading methods wait as long as the test may take.
type peer struct {
	t       testing.TB
	codec   wire.Codec
	conn    *websocket.Conn
	replica moveop.ReplicaID
	counter uint16
	cursor  int64
	log     []moveop.Op // received, in order
}

func (s *service) socket(room string, codec wire.Codec, header http.Header) (*peer, *http.Response, error) {
	s.t.Helper()
	dialer := websocket.Dialer{NetDialContext: s.dial, Subprotocols: []string{codec.Subprotocol()}}
	conn, resp, err := dialer.Dial("ws://"+s.host+"/v1/rooms/"+room+"/ws", header)
	if err != nil {
		return nil, resp, err
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	if conn.Subprotocol() != codec.Subprotocol() {
		s.t.Fatalf("subprotocol %q", conn.Subprotocol())
	}
	return &peer{t: s.t, codec: codec, conn: conn}, resp, nil
}

// connect opens a socket that has not said hello.
func (s *service) connect(room string) *peer {
	s.t.Helper()
	p, _, err := s.socket(room, wire.JSON, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

// join opens a socket and says hello with nothing yet.
func (s *service) join(room string, replica moveop.ReplicaID) *peer {
	s.t.Helper()
	p := s.connect(room)
	p.hello(replica, nil, 0)
	return p
}

func (p *peer) hello(replica moveop.ReplicaID, epoch *string, seq int64) wire.Welcome {
	p.t.Helper()
	p.replica, p.cursor = replica, seq
	p.send(wire.Hello{Replica: replica, Epoch: epoch, Seq: seq, Name: "replica " + replica.String()})
	return expect[wire.Welcome](p)
}

func (p *peer) send(msg wire.Message) {
	p.t.Helper()
	data, err := p.codec.Encode(msg)
	if err != nil {
		p.t.Fatal(err)
	}
	p.raw(data)
}

func (p *peer) raw(data []byte) {
	p.t.Helper()
	kind := websocket.TextMessage
	if p.codec.Binary() {
		kind = websocket.BinaryMessage
	}
	if err := p.conn.WriteMessage(kind, data); err != nil {
		p.t.Fatal(err)
	}
}

// next reads one message; ops are checked to be contiguous and kept.
func (p *peer) next() wire.Message {
	p.t.Helper()
	_, data, err := p.conn.ReadMessage()
	if err != nil {
		p.t.Fatalf("read: %v", err)
	}
	msg, err := p.codec.Decode(data)
	if err != nil {
		p.t.Fatalf("decode %s: %v", data, err)
	}
	if ops, ok := msg.(wire.Ops); ok {
		p.take(ops)
	}
	return msg
}

func (p *peer) take(ops wire.Ops) {
	p.t.Helper()
	if ops.From != p.cursor+1 || ops.To != ops.From+int64(len(ops.Ops))-1 {
		p.t.Fatalf("ops %d…%d (%d) at cursor %d", ops.From, ops.To, len(ops.Ops), p.cursor)
	}
	for i, op := range ops.Ops {
		if op.Seq != ops.From+int64(i) {
			p.t.Fatalf("op %d of %d…%d has seq %d", i, ops.From, ops.To, op.Seq)
		}
	}
	p.cursor = ops.To
	p.log = append(p.log, ops.Ops...)
}

// expect reads until a message of type M comes.
func expect[M wire.Message](p *peer) M {
	p.t.Helper()
	for {
		msg := p.next()
		if m, ok := msg.(M); ok {
			return m
		}
		switch msg.(type) {
		case *wire.Error, wire.Nack:
			p.t.Fatalf("got %+v, want %T", msg, *new(M))
		}
	}
}

// expectClose reads until the server closes, and returns how.
func (p *peer) expectClose() *websocket.CloseError {
	p.t.Helper()
	for {
		_, _, err := p.conn.ReadMessage()
		if closed, ok := errors.AsType[*websocket.CloseError](err); ok {
			return closed
		}
		if err != nil {
			p.t.Fatalf("the connection ended without a close frame: %v", err)
		}
	}
}

// readTo reads until the ops up to seq are there.
func (p *peer) readTo(seq int64) {
	p.t.Helper()
	for p.cursor < seq {
		p.next()
	}
}

// move makes the next op of the peer's replica, in the past of a synctest bubble's clock too.
func (p *peer) move() moveop.Op {
	p.counter++
	return moveBy(p.replica, p.counter)
}

func moveBy(replica moveop.ReplicaID, counter uint16) moveop.Op {
	return moveop.Op{
		Kind: moveop.Move, TS: moveop.NewTimestamp(900_000_000_000, counter, replica),
		Node: moveop.NodeID{0: byte(replica), 1: byte(counter >> 8), 2: byte(counter), 15: 9}, Parent: moveop.Root, OrderKey: "a0",
	}
}

// push pushes n new ops and returns the ack.
func (p *peer) push(n int) wire.Ack {
	p.t.Helper()
	var ops []moveop.Op
	for range n {
		ops = append(ops, p.move())
	}
	p.send(wire.Push{ID: "p", Ops: ops})
	return expect[wire.Ack](p)
}

func (s *service) url(path string) string { return "http://" + s.host + path }

// get fetches a path and returns the status and the body decoded into a T.
func get[T any](s *service, path string) (int, T) {
	s.t.Helper()
	resp, err := s.http.Get(s.url(path))
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var body T
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		s.t.Fatalf("GET %s: %d: %v", path, resp.StatusCode, err)
	}
	return resp.StatusCode, body
}

// metric reads one value of /metrics, empty if it is not there.
func (s *service) metric(name string) string {
	s.t.Helper()
	resp, err := s.http.Get(s.url("/metrics"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return value
		}
	}
	return ""
}

// seed makes a room with n ops of a replica that is not connected.
func (s *service) seed(room string, n int) wire.Room {
	s.t.Helper()
	ctx := context.Background()
	s.store.set(func(f *fakeStore) { f.create(room, "00000000-0000-4000-8000-000000000001") })
	s.commit(room, 0x5eed, 1, n)
	r, err := s.store.Room(ctx, room)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// commit puts ops into the log as another process would.
func (s *service) commit(room string, replica moveop.ReplicaID, from, n int) {
	s.t.Helper()
	var ops []moveop.Op
	for i := range n {
		ops = append(ops, moveBy(replica, uint16(from+i)))
	}
	if _, err := s.store.Apply(context.Background(), room, ops); err != nil {
		s.t.Fatal(err)
	}
}

func sameOps(a, b []moveop.Op) bool {
	return slices.EqualFunc(a, b, func(a, b moveop.Op) bool { return a.Seq == b.Seq && a.SameBody(b) })
}

// reads counts how often rooms' rows and logs were read.
func (s *service) reads() (n int) {
	s.store.set(func(f *fakeStore) { n = f.reads })
	return n
}

// stored is a room's log.
func (s *service) stored(room string) []moveop.Op {
	s.t.Helper()
	ops, err := s.store.OpsAfter(context.Background(), room, 0, 1<<20)
	if err != nil {
		s.t.Fatal(err)
	}
	return ops
}

// fast has the timings of tests that run in real time.
func fast(cfg *realtime.Config) {
	cfg.Timing.Presence = time.Millisecond
	cfg.Timing.Poll = 20 * time.Millisecond
	cfg.Timing.Probe = 5 * time.Second
}
