package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sync/errgroup"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// crowd is the sockets of one join.
type crowd struct {
	join
	rooms   []*crowdRoom
	sockets []*socket
	readers sync.WaitGroup
	failed  chan error  // the first fault of a socket
	closing atomic.Bool // sockets end because they are closed
	closed  chan struct{}
	run     atomic.Pointer[run] // the drive under way
}

// crowdRoom is a room and who writes it.
type crowdRoom struct {
	*author
	sockets int
	welcome sync.WaitGroup // until every socket knows of all others
	head    atomic.Int64   // the newest seq that a socket was sent
}

// socket is one connection, with a goroutine that reads.
type socket struct {
	*crowd
	room    *crowdRoom
	index   int
	conn    *websocket.Conn
	heard   atomic.Bool // something came since everybody had joined
	settled bool        // it knows of all others; of the reader alone
	buf     []byte
}

// pongWait is how long the answer to a ping may take: a machine under load is slow.
const pongWait = time.Minute

// dialling is how many sockets are opened at a time.
const dialling = 32

// perAddress is how many sockets are opened from one address: less than there are ports to open them from.
const perAddress = 8000

func newCrowd(ctx context.Context, j join) (c *crowd, err error) {
	c = &crowd{join: j, failed: make(chan error, 1), closed: make(chan struct{}), sockets: make([]*socket, j.Sockets)}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	for range j.Rooms {
		c.rooms = append(c.rooms, &crowdRoom{author: newAuthorAt(j.Nodes, j.Tick)})
	}
	for i := range c.sockets {
		room := c.rooms[i%len(c.rooms)]
		room.sockets++
		room.welcome.Add(1)
	}
	dials, dialCtx := errgroup.WithContext(ctx)
	dials.SetLimit(dialling)
	for i := range c.sockets {
		dials.Go(func() (err error) {
			c.sockets[i], err = c.open(dialCtx, i)
			return err
		})
	}
	if err := dials.Wait(); err != nil {
		return nil, err
	}
	for _, s := range c.sockets {
		if j.Slow {
			c.readers.Go(s.crawl)
		} else {
			c.readers.Go(s.read)
		}
	}
	if j.Slow {
		return c, nil
	}
	return c, c.settle(ctx)
}

// newAuthorAt goes on where the one who made so many nodes stopped.
func newAuthorAt(nodes int, tick int64) *author {
	a := newAuthor(flat)
	a.nodes, a.tick = nodes, tick
	return a
}

func (c *crowd) open(ctx context.Context, i int) (*socket, error) {
	dialer := websocket.Dialer{
		NetDialContext:  c.dialFrom(i),
		Subprotocols:    []string{wire.SubprotocolBinary},
		ReadBufferSize:  1024,
		WriteBufferPool: &writeBuffers,
	}
	room := c.Rooms[i%len(c.Rooms)]
	conn, _, err := dialer.DialContext(ctx, "ws"+c.URL[len("http"):]+"/v1/rooms/"+room.Name+"/ws", nil)
	if err != nil {
		return nil, fmt.Errorf("open socket %d: %w", i, err)
	}
	conn.SetPingHandler(func(data string) error { // the default gives up after a second
		return conn.WriteControl(websocket.PongMessage, []byte(data), time.Now().Add(pongWait))
	})
	s := &socket{crowd: c, room: c.rooms[i%len(c.rooms)], index: i, conn: conn}
	if c.Bare {
		return s, nil
	}
	hello := wire.Hello{Replica: c.replica(i), Name: fmt.Sprintf("socket %d", i)}
	if !c.Slow {
		hello.Epoch, hello.Seq = &room.Epoch, room.Head
	}
	s.room.head.Store(room.Head)
	return s, s.send(hello)
}

var writeBuffers sync.Pool

// replica tells the sockets of a room, and those of slow clients, apart.
func (c *crowd) replica(i int) moveop.ReplicaID {
	if c.Slow {
		return 1<<40 + moveop.ReplicaID(i)
	}
	return 1<<32 + moveop.ReplicaID(i)
}

// dialFrom opens connections from several addresses of this machine, where it has them: from one there
// are no more than some 28,000 to a server. A slow client's receives little ahead of being read.
func (c *crowd) dialFrom(i int) func(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	if runtime.GOOS == "linux" {
		d.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+i/perAddress))}
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := d.DialContext(ctx, network, addr)
		if err == nil && c.Slow {
			err = conn.(*net.TCPConn).SetReadBuffer(4 * slowBytes)
		}
		return conn, err
	}
}

func (s *socket) send(msg wire.Message) error {
	frame, err := wire.Binary.Encode(msg)
	if err != nil {
		return err
	}
	return s.conn.WriteMessage(websocket.BinaryMessage, frame)
}

// settle waits until the sockets of each room know of each other: after that nothing is sent to them
// on account of their coming.
func (c *crowd) settle(ctx context.Context) error {
	all := make(chan struct{})
	go func() {
		defer close(all)
		for _, r := range c.rooms {
			r.welcome.Wait()
		}
	}()
	select {
	case <-all:
		return nil
	case err := <-c.failed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// heard is the number of sockets that something came over since everybody had joined.
func (c *crowd) heard() (n int) {
	for _, s := range c.sockets {
		if s.heard.Load() {
			n++
		}
	}
	return n
}

func (c *crowd) close() {
	if c.closing.Swap(true) {
		return
	}
	close(c.closed)
	for _, s := range c.sockets {
		if s != nil {
			_ = s.conn.Close()
		}
	}
	c.readers.Wait()
}

func (c *crowd) fail(err error) {
	if c.closing.Load() {
		return
	}
	select {
	case c.failed <- err:
	default:
	}
}

// read takes in what comes until the connection ends.
func (s *socket) read() {
	for {
		_, r, err := s.conn.NextReader()
		if err == nil {
			s.buf, err = readInto(s.buf[:0], r)
		}
		if err == nil {
			err = s.take(s.buf, time.Now())
		}
		if err != nil {
			s.heard.Store(false)
			s.fail(fmt.Errorf("socket %d: %w", s.index, err))
			return
		}
	}
}

// readInto is io.ReadAll into a buffer that is used again.
func readInto(buf []byte, r io.Reader) ([]byte, error) {
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if errors.Is(err, io.EOF) {
			return buf, nil
		}
		if err != nil {
			return buf, err
		}
	}
}

// Types of binary frames that are many: see wire.Binary.
const (
	frameOps = 0x04
	frameAck = 0x06
)

// take handles a frame. Those with operations and acknowledgements are many.
func (s *socket) take(frame []byte, now time.Time) error {
	if len(frame) < 2 {
		return s.settleFor(1) // of a bare broadcast: it has us
	}
	switch frame[1] {
	case frameOps:
		return s.takeOps(frame, now)
	case frameAck:
		return s.takeAck(frame, now)
	}
	msg, err := wire.Binary.Decode(frame)
	if err != nil {
		return err
	}
	switch msg := msg.(type) {
	case *wire.Error, wire.Nack, wire.Resync:
		return fmt.Errorf("got %s: %v", msg.Type(), msg)
	case wire.Welcome:
		return s.settleFor(len(msg.Clients))
	case wire.Connections:
		return s.settleFor(len(msg.Clients))
	}
	s.heard.Store(true)
	return nil
}

// settleFor hears how many sockets there are in the room.
func (s *socket) settleFor(known int) error {
	if !s.settled && (s.Bare || known >= s.room.sockets) {
		s.settled = true
		s.room.welcome.Done()
	}
	return nil
}

// opsRange reads which operations a frame has.
func opsRange(frame []byte) (from, to int64, err error) {
	first, n := binary.Uvarint(frame[2:])
	if n <= 0 {
		return 0, 0, io.ErrUnexpectedEOF
	}
	last, n := binary.Uvarint(frame[2+n:])
	if n <= 0 {
		return 0, 0, io.ErrUnexpectedEOF
	}
	return int64(first), int64(last), nil
}

// crawl reads as slowly as a slow client does, until the connection ends.
func (s *socket) crawl() {
	conn, buf := s.conn.NetConn(), make([]byte, slowBytes)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if _, err := conn.Read(buf); err != nil {
			s.fail(fmt.Errorf("slow socket: %w", err))
			return
		}
		select {
		case <-tick.C:
		case <-s.closed:
			return
		}
	}
}
