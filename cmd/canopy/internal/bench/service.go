package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/realtime"
	"github.com/canopysync/canopy/realtime/wire"
)

// service is the realtime service as `serve realtime` runs it, on the database, in this process; a bare
// broadcast beside it; and the load, in a process of its own.
type service struct {
	*database
	*load
	calls *recorder
	bare  *broadcast
	url   string
	stop  func() error
}

func openService(ctx context.Context, c *Config) (s *service, err error) {
	s = &service{stop: func() error { return nil }}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close(ctx))
		}
	}()
	if s.database, err = openDatabase(ctx, c); err != nil {
		return s, err
	}
	s.calls = &recorder{DB: s.db}
	if err = s.serve(ctx); err != nil {
		return s, err
	}
	if s.bare, err = startBroadcast(ctx); err != nil {
		return s, err
	}
	s.load, err = startLoad(ctx, c)
	return s, err
}

func (s *service) serve(ctx context.Context) error {
	server, err := realtime.New(realtime.Config{Store: s.calls, Transport: s.db.Transport(pgfuncs.TransportConfig{})})
	if err != nil {
		return err
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("start service: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, ln) }()
	s.url = "http://" + ln.Addr().String()
	s.stop = func() error {
		cancel()
		return <-served
	}
	return nil
}

func (s *service) close(ctx context.Context) error {
	var errs []error
	if s.load != nil {
		errs = append(errs, s.load.close())
	}
	errs = append(errs, s.stop())
	if s.bare != nil {
		errs = append(errs, s.bare.close())
	}
	if s.database != nil {
		errs = append(errs, s.database.close(ctx))
	}
	return errors.Join(errs...)
}

// roomNodes is the size of the rooms that are written to.
const roomNodes = 1000

// rooms makes so many rooms of roomNodes nodes, and says how to join them.
func (s *service) rooms(ctx context.Context, c *Config, n int) (j join, err error) {
	j = join{URL: s.url}
	for range n {
		r, err := s.newRoom(ctx, c, folders, roomNodes)
		if err != nil {
			return j, err
		}
		room, err := s.db.Room(ctx, r.name)
		if err != nil {
			return j, err
		}
		j.Rooms, j.Nodes, j.Tick = append(j.Rooms, room), r.nodes, r.tick
	}
	return j, nil
}

// bareCrowd opens so many sockets to the bare broadcast.
func (s *service) bareCrowd(sockets int) (crowd int, err error) {
	return s.join(join{URL: s.bare.url, Rooms: []wire.Room{{Name: "bare"}}, Sockets: sockets, Bare: true})
}

// awaitConnections waits until the service has just so many members in a room.
func (s *service) awaitConnections(ctx context.Context, room string, n int) error {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/v1/rooms/"+room+"/stats", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return fmt.Errorf("read stats: %w", err)
		}
		var stats wire.Stats
		err = json.NewDecoder(resp.Body).Decode(&stats)
		_ = resp.Body.Close()
		if err != nil || stats.Connections == int64(n) {
			return err
		}
		if err := sleepUntil(ctx, time.Now().Add(10*time.Millisecond)); err != nil {
			return err
		}
	}
}

// recorder is the store of the service, which notes what batches come together.
type recorder struct {
	*pgfuncs.DB

	mu    sync.Mutex // guards what follows
	calls []call
}

// call is one batch, and how long its commit took.
type call struct {
	room string
	ops  []moveop.Op
	took time.Duration
}

// Apply is the store's.
func (r *recorder) Apply(ctx context.Context, room string, ops []moveop.Op) (wire.Applied, error) {
	begin := time.Now()
	applied, err := r.DB.Apply(ctx, room, ops)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, call{room, ops, time.Since(begin)})
	return applied, err
}

// take returns the calls since the last time.
func (r *recorder) take() []call {
	r.mu.Lock()
	defer r.mu.Unlock()
	calls := r.calls
	r.calls = nil
	return calls
}

// broadcast is the limit: whatever a socket sends goes to all sockets, by gorilla/websocket and nothing
// else. Each frame is prepared once, and as many goroutines as there are processors write it to their
// share of the sockets: there is no queue, no deadline, and nobody is woken.
type broadcast struct {
	url    string
	server *http.Server
	served chan struct{}

	mu    sync.Mutex // guards what follows, and writing
	conns []*websocket.Conn
}

func startBroadcast(ctx context.Context) (*broadcast, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start broadcast: %w", err)
	}
	b := &broadcast{url: "http://" + ln.Addr().String(), served: make(chan struct{})}
	b.server = &http.Server{Handler: b, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(b.served)
		_ = b.server.Serve(ln) // ends with close
	}()
	return b, nil
}

// ServeHTTP is the whole service.
func (b *broadcast) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	upgrader := websocket.Upgrader{Subprotocols: []string{wire.SubprotocolBinary}}
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer conn.Close()
	b.mu.Lock()
	b.conns = append(b.conns, conn)
	err = conn.WriteMessage(websocket.BinaryMessage, nil) // it is in
	b.mu.Unlock()
	for err == nil {
		var frame []byte
		if _, frame, err = conn.ReadMessage(); err == nil {
			err = b.send(frame)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conns = slices.DeleteFunc(b.conns, func(c *websocket.Conn) bool { return c == conn })
}

func (b *broadcast) send(frame []byte) error {
	message, err := websocket.NewPreparedMessage(websocket.BinaryMessage, frame)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var writing sync.WaitGroup
	for share := range slices.Chunk(b.conns, len(b.conns)/runtime.GOMAXPROCS(0)+1) {
		writing.Go(func() {
			for _, conn := range share {
				_ = conn.WritePreparedMessage(message) // its reader notices too
			}
		})
	}
	writing.Wait()
	return nil
}

func (b *broadcast) close() error {
	err := b.server.Close()
	b.mu.Lock()
	for _, conn := range b.conns {
		_ = conn.Close() // it is hijacked: the server does not know it any more
	}
	b.mu.Unlock()
	<-b.served
	return err
}
