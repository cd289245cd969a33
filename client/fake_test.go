package client_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/klauspost/compress/zstd"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/bootstrap/format/formattest"
	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/proptest"
	"github.com/canopysync/canopy/realtime/wire"
)

// server is both services for one room, with the reference model for a database, in one process. It
// does what the protocol says, one message at a time, unless a test's hook interferes.
type server struct {
	t   testing.TB
	url string

	mu    sync.Mutex // guards what follows, and all writing
	epoch string
	room  *proptest.Server // nil before the first push
	peers map[*peer]bool
	hooks hooks
	seen  seen
	known struct { // what state computed last
		state proptest.State
		room  *proptest.Server
		ops   int
	}
}

// hooks are set under the server's mu and called under it. Nil ones do nothing.
type hooks struct {
	// hello may answer in place of the server.
	hello func(p *peer, h wire.Hello) (handled bool)
	// push may answer in place of the server.
	push func(p *peer, m wire.Push) (handled bool)
	// auth hears of fresh tokens.
	auth func(token string)
	// relay may drop or change a frame that goes out to everybody.
	relay func(p *peer, m wire.Ops) (wire.Ops, bool)
	// snapshot may change the bytes of a snapshot, or answer 404 with nil. It is called without the mu.
	snapshot func(stream []byte) []byte
	// buckets may answer a question about a span in place of the server, about its parts or its operations.
	buckets func(w http.ResponseWriter, span wire.Span, ops bool) (handled bool)
	// children may answer in place of the server.
	children func(w http.ResponseWriter, r *http.Request) (handled bool)
}

// seen counts what clients asked for.
type seen struct {
	hellos    []wire.Hello
	pushes    []int // operations of each
	pulls     int
	snapshots int
	fetched   int      // operations, to compare them
	children  []string // queries
	tokens    []string
}

// peer is a connected client.
type peer struct {
	s       *server
	conn    *websocket.Conn
	codec   wire.Codec
	replica moveop.ReplicaID
	name    string
	live    bool
}

func newServer(t testing.TB) *server {
	s := &server{t: t, epoch: "0193a0e0-0000-7000-8000-000000000001", peers: map[*peer]bool{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/rooms/garden/ws", s.socket)
	mux.HandleFunc("GET /v1/rooms/garden/snapshot", s.snapshot)
	mux.HandleFunc("GET /v1/rooms/garden/children", s.children)
	mux.HandleFunc("GET /v1/rooms/garden/stats", s.stats)
	mux.HandleFunc("GET /v1/rooms/garden/buckets", s.buckets)
	mux.HandleFunc("GET /v1/rooms/garden/buckets/ops", s.bucketOps)
	web := httptest.NewServer(mux)
	s.url = web.URL
	t.Cleanup(func() {
		s.hangUp()
		web.CloseClientConnections()
		web.Close()
	})
	return s
}

// options are those of a client of this server that is quick to try again.
func (s *server) options() client.Options {
	return client.Options{
		Room: "garden", RealtimeURL: s.url, BootstrapURL: s.url,
		RetryMin: time.Millisecond, RetryMax: 20 * time.Millisecond,
	}
}

// hook changes the hooks.
func (s *server) hook(change func(h *hooks)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.hooks)
}

func (s *server) counts() seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.seen
	c.hellos, c.pushes, c.tokens = slices.Clone(c.hellos), slices.Clone(c.pushes), slices.Clone(c.tokens)
	c.children = slices.Clone(c.children)
	return c
}

// hangUp breaks all connections.
func (s *server) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.peers {
		_ = p.conn.Close()
	}
}

// log and state need mu.
func (s *server) log() []moveop.Op {
	if s.room == nil {
		return nil
	}
	log, err := s.room.Log()
	if err != nil {
		s.t.Error(err)
	}
	return log
}

func (s *server) state() proptest.State {
	if s.room == nil {
		return proptest.State{}
	}
	if n := len(s.log()); s.known.room != s.room || s.known.ops != n {
		state, err := s.room.State()
		if err != nil {
			s.t.Error(err)
		}
		s.known.state, s.known.room, s.known.ops = state, s.room, n
	}
	return s.known.state
}

func (s *server) digest() moveop.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state().Digest
}

// apply makes operations as if other clients had pushed them, and relays them.
func (s *server) apply(ops ...moveop.Op) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.commit(ops)
	return err
}

// commit needs mu.
func (s *server) commit(ops []moveop.Op) ([]proptest.Result, error) {
	if s.room == nil {
		s.room = proptest.NewServer(proptest.RestoreMoveAndSet)
	}
	before := len(s.log())
	results, err := s.room.Apply(ops)
	if err != nil {
		return nil, err
	}
	for p := range s.peers {
		if p.live {
			p.sendOps(int64(before))
		}
	}
	return results, nil
}

func (s *server) socket(w http.ResponseWriter, r *http.Request) {
	upgrader := websocket.Upgrader{Subprotocols: []string{wire.SubprotocolBinary, wire.SubprotocolJSON}}
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	codec, _ := wire.CodecFor(conn.Subprotocol())
	p := &peer{s: s, conn: conn, codec: codec}
	s.mu.Lock()
	s.peers[p] = true
	s.seen.tokens = append(s.seen.tokens, r.Header.Get("Authorization"))
	s.mu.Unlock()
	defer p.leave()
	for {
		_, frame, err := conn.ReadMessage()
		if err != nil {
			return
		}
		msg, err := codec.Decode(frame)
		if err != nil {
			s.t.Errorf("client sent %q: %v", frame, err)
			return
		}
		s.mu.Lock()
		p.handle(msg)
		s.mu.Unlock()
	}
}

func (p *peer) leave() {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	delete(p.s.peers, p)
	_ = p.conn.Close()
	p.s.announce()
}

// announce needs mu.
func (s *server) announce() {
	for p := range s.peers {
		if p.live {
			p.send(wire.Connections{Clients: s.members()})
		}
	}
}

func (s *server) members() (members []wire.Peer) {
	for p := range s.peers {
		if p.live {
			members = append(members, wire.Peer{Replica: p.replica, Name: p.name})
		}
	}
	return members
}

func (p *peer) send(msg wire.Message) {
	frame, err := p.codec.Encode(msg)
	if err != nil {
		p.s.t.Error(err)
		return
	}
	kind := websocket.TextMessage
	if p.codec.Binary() {
		kind = websocket.BinaryMessage
	}
	_ = p.conn.WriteMessage(kind, frame)
}

// closeWith ends the connection with a close code.
func (p *peer) closeWith(code int, reason string) {
	_ = p.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, reason), time.Now().Add(time.Second))
}

func (p *peer) handle(msg wire.Message) {
	s := p.s
	switch msg := msg.(type) {
	case wire.Hello:
		s.seen.hellos = append(s.seen.hellos, msg)
		if s.hooks.hello == nil || !s.hooks.hello(p, msg) {
			p.hello(msg)
		}
	case wire.Push:
		s.seen.pushes = append(s.seen.pushes, len(msg.Ops))
		if s.hooks.push == nil || !s.hooks.push(p, msg) {
			p.push(msg)
		}
	case wire.Pull:
		s.seen.pulls++
		p.sendOps(msg.After)
	case wire.Ping:
		p.send(wire.ServerStatus{Status: wire.Ready, Head: int64(len(s.log()))})
	case wire.Auth:
		if s.hooks.auth != nil {
			s.hooks.auth(msg.Token)
		}
	case wire.Presence:
		for other := range s.peers {
			if other.live && other != p {
				other.send(wire.Presence{Updates: map[moveop.ReplicaID]json.RawMessage{p.replica: orNull(msg.State)}})
			}
		}
	default:
		s.t.Errorf("client sent %T", msg)
	}
}

func orNull(state json.RawMessage) json.RawMessage {
	if state == nil {
		return json.RawMessage("null")
	}
	return state
}

func (p *peer) hello(h wire.Hello) {
	s := p.s
	p.replica, p.name, p.live = h.Replica, h.Name, true
	head := int64(len(s.log()))
	w := wire.Welcome{
		Epoch: s.epoch, Head: head, ServerTime: time.Now().UnixMilli(), Status: wire.Ready,
		Limits: wire.Limits{MaxOps: 1000, MaxFrame: 1 << 20}, Clients: s.members(),
	}
	for _, op := range s.log() {
		if op.TS.Replica() == h.Replica && (w.LastTS == nil || w.LastTS.Before(op.TS)) {
			w.LastTS = &op.TS
		}
	}
	p.send(w)
	if h.Seq > 0 && (h.Epoch == nil || *h.Epoch != s.epoch || h.Seq > head) {
		p.send(wire.Resync{Reason: wire.ResyncEpoch, Epoch: s.epoch, Head: head})
		return
	}
	p.sendOps(h.Seq)
	s.announce()
}

// sendOps sends what is after a cursor, in frames of a hundred.
func (p *peer) sendOps(after int64) {
	for ops := range slices.Chunk(p.s.log()[after:], 100) {
		frame := wire.Ops{From: after + 1, To: after + int64(len(ops)), Ops: ops}
		after = frame.To
		if p.s.hooks.relay != nil {
			var ok bool
			if frame, ok = p.s.hooks.relay(p, frame); !ok {
				continue
			}
		}
		p.send(frame)
	}
}

func (p *peer) push(m wire.Push) {
	ack, err := p.s.answer(m)
	if err != nil {
		p.nack(m.ID, refusal(err))
		return
	}
	p.send(ack)
}

// answer commits a push and returns what acknowledges it. The caller holds mu.
func (s *server) answer(m wire.Push) (wire.Ack, error) {
	results, err := s.commit(m.Ops)
	ack := wire.Ack{ID: m.ID, Head: int64(len(s.log()))}
	for i, r := range results {
		ack.Results = append(ack.Results, wire.Result{TS: m.Ops[i].TS, Seq: r.Seq, Status: wire.Status(r.Status)})
	}
	return ack, err
}

func (p *peer) nack(id string, e *wire.Error) {
	e.ServerTime = time.Now().UnixMilli()
	p.send(wire.Nack{ID: id, Error: *e})
}

func refusal(err error) *wire.Error {
	for reason, code := range map[error]wire.Code{
		proptest.ErrConflict: wire.CodeConflict, proptest.ErrOutOfOrder: wire.CodeOutOfOrder, proptest.ErrInvalid: wire.CodeInvalidOp,
	} {
		if errors.Is(err, reason) {
			return wire.NewError(code, "%v", err)
		}
	}
	return wire.NewError(wire.CodeInternal, "%v", err)
}

func (s *server) snapshot(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.seen.snapshots++
	s.seen.tokens = append(s.seen.tokens, r.Header.Get("Authorization"))
	var stream []byte
	if s.room != nil {
		stream = formattest.Encode(s.takeSnapshot())
	}
	hook := s.hooks.snapshot
	s.mu.Unlock()
	if hook != nil {
		stream = hook(stream)
	}
	if stream == nil {
		wire.WriteError(w, http.StatusNotFound, wire.UnknownRoom())
		return
	}
	w.Header().Set("Content-Encoding", "zstd")
	encoder, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	if err != nil {
		s.t.Error(err)
		return
	}
	_, _ = encoder.Write(stream)
	_ = encoder.Close()
}

func (s *server) stats(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.room == nil {
		wire.WriteError(w, http.StatusNotFound, wire.UnknownRoom())
		return
	}
	stats := wire.Stats{Room: "garden", Epoch: s.epoch, Head: int64(len(s.log())), Digest: s.state().Digest}
	if err := json.NewEncoder(w).Encode(stats); err != nil {
		s.t.Error(err)
	}
}

func (s *server) buckets(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	span, tally := wire.Span(r.FormValue("prefix")), wire.Tally{}
	if s.hooks.buckets != nil && s.hooks.buckets(w, span, false) {
		return
	}
	for _, op := range s.log() {
		if span.Contains(op.TS) {
			tally.Add(wire.SpanOf(op.TS, len(span)+2), wire.Count{Ops: 1, Log: op.LogHash()})
		}
	}
	answer := wire.Buckets{Epoch: s.epoch, Seq: int64(len(s.log())), Buckets: tally.Buckets()}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		s.t.Error(err)
	}
}

func (s *server) bucketOps(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	span := wire.Span(r.FormValue("prefix"))
	if s.hooks.buckets != nil && s.hooks.buckets(w, span, true) {
		return
	}
	for _, op := range s.log() {
		if span.Contains(op.TS) {
			s.seen.fetched++
			if err := json.NewEncoder(w).Encode(op); err != nil {
				s.t.Error(err)
			}
		}
	}
}

// children is the route of that name.
func (s *server) children(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen.tokens = append(s.seen.tokens, r.Header.Get("Authorization"))
	s.seen.children = append(s.seen.children, r.URL.RawQuery)
	if s.hooks.children != nil && s.hooks.children(w, r) {
		return
	}
	if s.room == nil {
		wire.WriteError(w, http.StatusNotFound, wire.UnknownRoom())
		return
	}
	parent, err := moveop.ParseNodeID(r.FormValue("parent"))
	limit, limitErr := strconv.Atoi(r.FormValue("limit"))
	if err := errors.Join(err, limitErr); err != nil {
		s.t.Error(err)
	}
	_ = json.NewEncoder(w).Encode(s.page(parent, r.FormValue("after"), limit)) // the client may be gone
}

// page needs mu. A cursor is the position of the last node of the page before.
func (s *server) page(parent moveop.NodeID, after string, limit int) wire.Page {
	page := wire.Page{Nodes: []wire.Node{}, Seq: int64(len(s.log())), Epoch: s.epoch}
	state := s.state()
	counts := map[moveop.NodeID]int64{}
	position := func(n wire.Node) string { return n.OrderKey + " " + n.ID.String() }
	for id, p := range state.Nodes {
		counts[p.Parent]++
		n := wire.Node{ID: id, Parent: p.Parent, OrderKey: p.OrderKey, Props: map[string]json.RawMessage{}}
		if p.Parent == parent && (after == "" || position(n) > after) {
			page.Nodes = append(page.Nodes, n)
		}
	}
	slices.SortFunc(page.Nodes, func(a, b wire.Node) int { return strings.Compare(position(a), position(b)) })
	if len(page.Nodes) > limit {
		page.Nodes = page.Nodes[:limit]
		next := position(page.Nodes[limit-1])
		page.Next = &next
	}
	for i := range page.Nodes {
		page.Nodes[i].Children = counts[page.Nodes[i].ID]
	}
	for property, w := range state.Values {
		i := slices.IndexFunc(page.Nodes, func(n wire.Node) bool { return n.ID == property.Node })
		if i >= 0 && w.JSON != "null" {
			page.Nodes[i].Props[property.Key] = json.RawMessage(w.JSON)
		}
	}
	return page
}

// takeSnapshot needs mu.
func (s *server) takeSnapshot() *formattest.Snapshot {
	state := s.state()
	snap := &formattest.Snapshot{Room: "garden", Epoch: s.epoch, Seq: int64(len(s.log())), Created: time.Now()}
	current := map[moveop.Timestamp]bool{}
	for _, p := range state.Nodes {
		current[p.TS] = true
	}
	for _, w := range state.Values {
		current[w.TS] = true
	}
	for _, op := range s.log() {
		switch {
		case !current[op.TS]:
			snap.Ops = append(snap.Ops, format.OpRow{
				Seq: op.Seq, TS: op.TS, Kind: op.Kind, Node: op.Node, Parent: op.Parent, OrderKey: []byte(op.OrderKey),
				Key: []byte(op.Key), Value: op.Value, Known: op.Known, Cause: op.Cause, Effective: state.Effective[op.TS],
			})
		case op.Kind == moveop.Move:
			snap.Nodes = append(snap.Nodes, format.NodeRow{
				Node: op.Node, Parent: op.Parent, OrderKey: []byte(op.OrderKey), TS: op.TS, Seq: op.Seq, Known: op.Known, Cause: op.Cause,
			})
		default:
			snap.Values = append(snap.Values, format.ValueRow{
				Node: op.Node, Key: []byte(op.Key), Value: op.Value, TS: op.TS, Seq: op.Seq, Known: op.Known,
			})
		}
	}
	slices.SortFunc(snap.Nodes, func(a, b format.NodeRow) int { return a.Node.Compare(b.Node) })
	slices.SortFunc(snap.Values, func(a, b format.ValueRow) int {
		if c := a.Node.Compare(b.Node); c != 0 {
			return c
		}
		return slices.Compare(a.Key, b.Key)
	})
	slices.SortFunc(snap.Ops, func(a, b format.OpRow) int { return a.TS.Compare(b.TS) })
	return snap
}
