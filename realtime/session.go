package realtime

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// session is one socket. Its reader (serve) receives messages; only its writer (write) sends data. Each has a
// goroutine of its own. They share the fields under mu and, for the room's data, place, under the hub's mu.
//
// A session ends in one way: close sets a close code; the writer sends all outstanding replies, also to pushes in
// flight, and then the code; the reader meanwhile discards input, and ends when the peer has answered or its time is
// up. A broken connection just ends both.
type session struct {
	srv   *Server
	at    string // the room's name
	hub   *hub   // once it is inside
	conn  *websocket.Conn
	codec wire.Codec
	log   *slog.Logger

	// Set by the first hello, before join; only read afterwards.
	replica moveop.ReplicaID
	name    string
	since   int64 // when it joined; set by join, see member
	// grant is changed by auth, under the hub's mu.
	grant    Grant
	admitted bool        // by a token in the Authorization header; otherwise hello brings it
	late     *time.Timer // closes the session where hello does not come
	access   *time.Timer // has the grant looked at again

	counted   origin     // for the limit of sockets; of the reader alone
	allowance *allowance // of ops
	messages  *allowance // of frames that are no pushes, pings and pongs too

	inside atomic.Bool   // it has the room's hub, which nobody gets without showing a token
	wake   chan struct{} // there may be something to write
	room   chan struct{} // there may be room for more replies
	probes chan struct{} // a pong came
	heard  atomic.Int64  // when the peer was last heard of, since srv.started
	jobs   sync.WaitGroup

	proving sync.Mutex // held while a sign of life is waited for

	place  place // guarded by hub.mu
	probed bool  // another process waits for a sign of life; guarded by hub.mu

	mu       sync.Mutex // guards what follows
	replies  [][]byte
	answers  []*answer // of pushes, in their order, from the first that is not there yet
	queued   int       // bytes in replies and answers
	inFlight int       // pushes not answered yet
	closing  *closeFrame
}

// place is a socket's position in its room. The socket is sent everything ahead of it.
type place struct {
	greeted    bool // welcome is on its way; nothing may overtake it
	synced     bool // the cursor is good; otherwise no ops are sent until hello or pull
	wasLive    bool // the cursor has been at the head since it was set
	cursor     int64
	epoch      string // what the cursor belongs to
	generation int    // counts the times that the cursor was set or taken away
	resync     *wire.Resync
	peers      int64 // version
	presence   int64 // change
	joinedAt   int64 // the newest change of presence at hello
	head       int64 // version
}

// answer is an ack or nack; nil until it is there.
type answer struct{ data []byte }

type closeFrame struct {
	code   int
	reason string
}

// errClosed ends a reader whose session is closing.
var errClosed = errors.New("session closed")

func newSession(srv *Server, conn *websocket.Conn, codec wire.Codec, room string, log *slog.Logger) *session {
	s := &session{
		srv: srv, at: room, conn: conn, codec: codec, log: log.With("remote", conn.RemoteAddr().String()),
		allowance: newAllowance(srv.cfg.Limits.OpsPerSecond), messages: newAllowance(srv.cfg.Limits.MessagesPerSecond),
		wake: make(chan struct{}, 1), room: make(chan struct{}, 1), probes: make(chan struct{}, 1),
	}
	conn.SetReadLimit(srv.cfg.Limits.MaxFrame)
	// The peer's close is answered here rather than by the reader, so that both close the same way.
	conn.SetCloseHandler(func(code int, text string) error {
		s.close(websocket.CloseNormalClosure, "")
		return nil
	})
	s.hear()
	return s
}

// hearControls takes pings and pongs in. They reach the reader between frames and within one.
func (s *session) hearControls(ctx context.Context) {
	s.conn.SetPongHandler(func(string) error {
		s.hear()
		signal(s.probes)
		s.messages.spend(1)
		return s.slowDown(ctx)
	})
	answerPing := s.conn.PingHandler()
	s.conn.SetPingHandler(func(data string) error {
		s.hear()
		s.messages.spend(1)
		return cmp.Or(s.slowDown(ctx), answerPing(data))
	})
}

// serve runs the session to its end.
func (s *session) serve(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	s.hearControls(ctx)
	writer := make(chan struct{})
	go func() {
		defer close(writer)
		if !s.srv.guard(s.log, func() { s.write(ctx) }) {
			_ = s.conn.Close()
		}
	}()
	s.late = time.AfterFunc(s.srv.cfg.Timing.Hello, func() { s.close(wire.CloseHelloTimeout, "no hello in time") })
	defer s.late.Stop()
	s.access = time.AfterFunc(time.Duration(math.MaxInt64), func() { s.recheck(ctx) }) // hello sets it
	defer s.access.Stop()
	if !s.srv.guard(s.log, func() { s.read(ctx) }) {
		s.close(wire.CloseOverloaded, "internal error")
	}
	if s.inside.Load() {
		s.hub.leave(s)
	}
	s.srv.sockets.give(s.counted)
	s.finish(cancel, writer)
	s.jobs.Wait()
}

// finish lets the writer send the close frame that it may still owe, and closes the connection.
func (s *session) finish(cancel context.CancelFunc, writer <-chan struct{}) {
	if s.closeFrame() != nil {
		select {
		case <-writer:
		case <-time.After(s.srv.cfg.Timing.Close):
		}
	}
	cancel()
	_ = s.conn.Close()
	<-writer
}

// read takes messages in until the connection ends.
func (s *session) read(ctx context.Context) {
	for {
		if s.awaitRoom(ctx) != nil || s.slowDown(ctx) != nil {
			return
		}
		s.hear()
		kind, data, err := s.conn.ReadMessage()
		if err != nil {
			s.readFailed(err)
			return
		}
		if s.closeFrame() != nil {
			continue
		}
		s.messages.spend(1)
		if kind != frameType(s.codec) {
			s.refuse(wire.NewError(wire.CodeBadRequest, "wrong type of frame (text or binary) for %s", s.codec.Subprotocol()))
			continue
		}
		if s.greeted() {
			s.handle(ctx, data)
		} else {
			s.handleApart(ctx, data)
		}
	}
}

// handleApart handles a frame on a stack of its own. Hello calls down to the database, and the reader's stack would
// stay that large for as long as the socket is open, though most sockets are idle.
func (s *session) handleApart(ctx context.Context, data []byte) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if !s.srv.guard(s.log, func() { s.handle(ctx, data) }) {
			s.close(wire.CloseOverloaded, "internal error")
		}
	}()
	<-done
}

// readFailed distinguishes a frame that is too large from the end of the connection or a silent peer. After such a
// frame, the connection must be read to its end for the close frame to reach the peer.
func (s *session) readFailed(err error) {
	if !errors.Is(err, websocket.ErrReadLimit) {
		return
	}
	s.close(wire.CloseTooLarge, "") // which websocket has sent already
	_ = s.conn.SetReadDeadline(time.Now().Add(s.srv.cfg.Timing.Close))
	discard(s.conn.NetConn())
}

// discard reads until the deadline or the end, so that closing does not reset the connection.
func discard(conn net.Conn) {
	buf := make([]byte, 4096)
	for {
		if _, err := conn.Read(buf); err != nil {
			return
		}
	}
}

// awaitRoom delays the reader while too many replies are unsent or too many pushes in flight. A peer that never
// receives its replies is cut off by the writer's deadline.
func (s *session) awaitRoom(ctx context.Context) error {
	for {
		s.mu.Lock()
		full := s.closing == nil && (s.queued > s.srv.cfg.Limits.ReplyBytes || s.inFlight >= s.srv.cfg.Limits.Pushes)
		s.mu.Unlock()
		if !full {
			return nil
		}
		select {
		case <-s.room:
		case <-ctx.Done():
			return errClosed
		}
	}
}

// handle answers one frame. Whatever is wrong with it, the socket stays usable.
func (s *session) handle(ctx context.Context, data []byte) {
	msg, err := s.codec.Decode(data)
	if push, ok := msg.(wire.Push); ok && err != nil && s.greeted() {
		s.answerTo(push.ID)(wire.Applied{}, err)
		return
	}
	if err != nil {
		s.refuse(wire.AsError(err))
		return
	}
	if hello, ok := msg.(wire.Hello); ok {
		s.hello(ctx, hello)
		return
	}
	if !s.greeted() {
		s.refuse(wire.NewError(wire.CodeBadRequest, "the first message must be hello"))
		s.close(wire.CloseBadRequest, "the first message must be hello")
		return
	}
	switch msg := msg.(type) {
	case wire.Push:
		s.push(ctx, msg)
	case wire.Pull:
		s.pull(ctx, msg)
	case wire.Presence:
		s.presence(msg)
	case wire.Ping:
		s.ping()
	case wire.Auth:
		s.auth(ctx, msg)
	default:
		s.refuse(wire.NewError(wire.CodeBadRequest, "clients do not send %s messages", msg.Type()))
	}
}

func (s *session) push(ctx context.Context, push wire.Push) {
	answer := s.answerTo(push.ID)
	epoch, err := s.mayPush()
	if err == nil {
		err = s.srv.checkPush(s.replica, push.Ops)
	}
	if err != nil {
		answer(wire.Applied{}, err)
		return
	}
	s.messages.spend(-1) // its ops count instead
	s.allowance.spend(len(push.Ops))
	if !s.begin() {
		answer(wire.Applied{}, wire.NewError(wire.CodeBusy, "the session is closing"))
		return
	}
	j := &job{ops: push.Ops, epoch: epoch, done: func(applied wire.Applied, err error) {
		answer(applied, err)
		s.end()
	}}
	if err := s.hub.submit(s.srv.tracing.arrived(ctx, push), j); err != nil {
		j.done(wire.Applied{}, err)
	}
}

// answerTo reserves the next place among the answers, and returns the function that fills it: pushes are answered in
// order, though some are refused at once while others are with the store.
func (s *session) answerTo(id string) func(applied wire.Applied, err error) {
	a := &answer{}
	s.mu.Lock()
	s.answers = append(s.answers, a)
	s.mu.Unlock()
	return func(applied wire.Applied, err error) {
		data := s.encode(s.srv.answerPush(id, applied, err))
		s.mu.Lock()
		defer s.mu.Unlock()
		a.data = data
		s.queued += len(data)
		there := 0
		for ; there < len(s.answers) && s.answers[there].data != nil; there++ {
			s.replies = append(s.replies, s.answers[there].data)
		}
		s.answers = slices.Delete(s.answers, 0, there)
		signal(s.wake)
	}
}

// mayPush returns the epoch of the socket's ops, or an error if it may not push.
func (s *session) mayPush() (epoch string, err error) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if !s.grant.Write {
		return "", wire.NewError(wire.CodeForbidden, "the token does not allow writing")
	}
	if !s.place.synced {
		return "", wire.NewError(wire.CodeBusy, "the cursor could not be served: load a snapshot, send hello, then push again")
	}
	return s.place.epoch, nil
}

// begin counts a push in flight; the close frame waits for its answer. It reports false once the session is closing:
// the close frame may have been sent, so a push accepted then would be committed but never acknowledged.
func (s *session) begin() (ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing != nil {
		return false
	}
	s.inFlight++
	s.jobs.Add(1)
	return true
}

func (s *session) end() {
	s.mu.Lock()
	s.inFlight--
	s.mu.Unlock()
	signal(s.room)
	signal(s.wake)
	s.jobs.Done()
}

// pull moves the cursor of a receiver that found a gap.
func (s *session) pull(ctx context.Context, pull wire.Pull) {
	if pull.After < 0 {
		s.refuse(wire.NewError(wire.CodeBadRequest, "after is negative"))
		return
	}
	if err := s.hub.reach(ctx, "", pull.After); err != nil {
		s.refuse(wire.AsError(err))
		return
	}
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	epoch := s.place.epoch
	if !s.place.synced {
		epoch = "" // after a resync only hello says what the cursor belongs to
	}
	s.hub.seek(s, epoch, pull.After)
	signal(s.wake)
}

func (s *session) presence(msg wire.Presence) {
	if limit := s.srv.cfg.Limits.PresenceBytes; len(msg.State) > limit {
		s.refuse(wire.NewError(wire.CodeTooLarge, "the presence has %d bytes, the limit is %d", len(msg.State), limit))
		return
	}
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if s.hub.byReplica[s.replica] == s {
		s.hub.presence.set(s.replica, "", msg.State)
		signal(s.hub.stir)
	}
}

// pingSockets is the number of sockets listed in the answer to a ping that cost as much as one message. However many
// they are, a ping costs half of what a second gives at most: a socket that seldom asks is not held back.
const pingSockets = 10

func (s *session) ping() {
	s.hub.mu.Lock()
	status := wire.ServerStatus{Status: wire.Ready, Head: s.hub.committed}
	peers := wire.Connections{Clients: s.hub.clients()}
	s.hub.mu.Unlock()
	s.messages.spend(min(len(peers.Clients)/pingSockets, s.srv.cfg.Limits.MessagesPerSecond/2))
	s.reply(status)
	s.reply(peers)
}

// auth accepts a fresh token. A token that does not allow being here ends the session. If that cannot be determined
// now, the current token stays.
func (s *session) auth(ctx context.Context, msg wire.Auth) {
	grant, err := s.hub.admit(ctx, msg.Token)
	if err != nil {
		if e := wire.AsError(err); e.Retryable {
			s.refuse(e)
		} else {
			s.turnAway(e)
		}
		return
	}
	s.hub.mu.Lock()
	s.grant = grant
	s.hub.membersChanged() // the user may be another
	s.hub.mu.Unlock()
	s.recheck(ctx)
}

// turnAway sends the error and closes with the code for it.
func (s *session) turnAway(err error) {
	e := wire.AsError(err)
	s.refuse(e)
	switch e.Code {
	case wire.CodeUnauthorized:
		s.close(wire.CloseUnauthorized, e.Message)
	case wire.CodeForbidden:
		s.close(wire.CloseForbidden, e.Message)
	case wire.CodeReplicaInUse:
		s.close(wire.CloseReplicaInUse, e.Message)
	case wire.CodeBadRequest:
		s.close(wire.CloseBadRequest, e.Message)
	default:
		s.close(wire.CloseOverloaded, e.Message)
	}
}

func (s *session) refuse(e *wire.Error) { s.reply(e) }

// encode returns the frame of a reply, or closes the session and returns nil if it cannot be encoded.
func (s *session) encode(msg wire.Message) []byte {
	data, err := s.codec.Encode(msg)
	if err != nil {
		s.log.Error("encode reply", "error", err)
		s.close(wire.CloseOverloaded, "internal error")
		return nil
	}
	return data
}

// reply queues an answer. The queue is bounded because input is: see awaitRoom.
func (s *session) reply(msg wire.Message) {
	data := s.encode(msg)
	if data == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replies = append(s.replies, data)
	s.queued += len(data)
	signal(s.wake)
}

// close ends the session with a close code; only the first one counts. The peer must receive a frame under way within
// Timing.Close from now on.
func (s *session) close(code int, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing != nil {
		return
	}
	s.closing = &closeFrame{code, reason}
	_ = s.conn.NetConn().SetWriteDeadline(time.Now().Add(s.srv.cfg.Timing.Close))
	signal(s.wake)
	signal(s.room)
}

func (s *session) closeFrame() *closeFrame {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

// hear notes a sign of life and gives the peer time for the next one. Once the session is closing,
// the writer has set the last deadline.
func (s *session) hear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing == nil {
		s.heard.Store(int64(time.Since(s.srv.started)))
		_ = s.conn.SetReadDeadline(time.Now().Add(3 * s.srv.cfg.Timing.Ping))
	}
}

func (s *session) quietFor() time.Duration {
	return time.Since(s.srv.started) - time.Duration(s.heard.Load())
}

// goIn takes the session into its room.
func (s *session) goIn(h *hub) {
	s.hub = h
	s.inside.Store(true)
}

// goOut takes it out again.
func (s *session) goOut() {
	if s.inside.Load() {
		s.srv.release(s.hub)
	}
}

func (s *session) greeted() bool {
	if !s.inside.Load() {
		return false
	}
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	return s.place.greeted
}
