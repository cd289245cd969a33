package realtime_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime"
	"github.com/canopysync/canopy/realtime/wire"
)

// behindProxy lets a test say where its sockets come from.
func behindProxy(cfg *realtime.Config) {
	cfg.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}
}

func forwarded(hops string) http.Header { return http.Header{"X-Forwarded-For": {hops}} }

func postBody(t *testing.T, replica moveop.ReplicaID, ops []moveop.Op) string {
	t.Helper()
	text, err := json.Marshal(ops)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`{"replica":"%s","ops":%s}`, replica, text)
}

func TestSocketsInAll(t *testing.T) {
	t.Parallel()
	s := setup(t, fast, func(cfg *realtime.Config) { cfg.Limits.Sockets = 2 })
	s.join("plan", 0xa)
	b := s.join("plan", 0xb)
	_, resp, err := s.socket("plan", wire.JSON, nil)
	if err == nil || resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Fatalf("the third: %v", err)
	}
	if e := wire.ReadError(resp); e.Code != wire.CodeBusy || !e.Retryable {
		t.Errorf("error %+v", e)
	}
	_ = b.conn.Close()
	for { // until the server has noticed
		if _, _, err := s.socket("plan", wire.JSON, nil); err == nil {
			return
		}
	}
}

func TestSocketsPerAddress(t *testing.T) {
	t.Parallel()
	s := setup(t, fast, behindProxy, func(cfg *realtime.Config) { cfg.Limits.SocketsPerAddress = 2 })
	for _, tc := range []struct {
		hops    string
		allowed bool
	}{
		{"203.0.113.7", true},
		{"1.2.3.4, 203.0.113.7", true},
		{"5.6.7.8, 203.0.113.7", false},             // what is left of it may be made up
		{"203.0.113.7, 10.1.1.1", false},            // two proxies
		{"203.0.113.8", true},                       // another one
		{"2001:db8:1:2:3::1", true},                 //
		{"2001:db8:1:2:ffff::1", true},              // the same /64
		{"2001:db8:1:2::1", false},                  //
		{"2001:db8:1:3::1", true},                   //
		{"garbage, 10.1.1.1", true},                 // 10.1.1.1 itself
		{"", true}, {"", true}, {"127.0.0.1", true}, // this machine's own are not counted
	} {
		_, resp, err := s.socket("plan", wire.JSON, forwarded(tc.hops))
		if (err == nil) != tc.allowed {
			t.Errorf("%q: %v", tc.hops, err)
		}
		if err != nil && (resp.StatusCode != 503 || wire.ReadError(resp).Code != wire.CodeRateLimited) {
			t.Errorf("%q: %d", tc.hops, resp.StatusCode)
		}
	}
}

// Without a trusted proxy the header is anybody's to send, and says nothing.
func TestForwardedForIsNotBelieved(t *testing.T) {
	t.Parallel()
	s := setup(t, fast, func(cfg *realtime.Config) { cfg.Limits.SocketsPerAddress = 1 })
	for range 2 {
		if _, _, err := s.socket("plan", wire.JSON, forwarded("203.0.113.7")); err != nil {
			t.Error(err)
		}
	}
}

func TestSocketsPerUser(t *testing.T) {
	t.Parallel()
	s := setup(t, fast, func(cfg *realtime.Config) {
		cfg.Limits.SocketsPerUser = 2
		cfg.Authorize = func(_ context.Context, token, _ string) (realtime.Grant, error) {
			return realtime.Grant{Read: true, Write: true, User: token}, nil
		}
	})
	join := func(replica moveop.ReplicaID, user string) *peer {
		p := s.connect("plan")
		p.send(wire.Hello{Replica: replica, Token: user})
		return p
	}
	var anns []*peer
	for i := range 2 {
		p := join(moveop.ReplicaID(i+1), "ann")
		expect[wire.Welcome](p)
		anns = append(anns, p)
	}
	third := join(3, "ann")
	if e := third.nextError(); e.Code != wire.CodeRateLimited || !e.Retryable {
		t.Errorf("error %+v", e)
	}
	if closed := third.expectClose(); closed.Code != wire.CloseOverloaded {
		t.Errorf("closed with %v", closed)
	}
	expect[wire.Welcome](join(4, "bob"))
	expect[wire.Welcome](join(5, ""))
	_ = anns[0].conn.Close()
	expectMembers(anns[1], 3)
	expect[wire.Welcome](join(3, "ann"))
}

// A socket that pushes more than it may is slowed down; nothing is refused, and nobody else waits.
func TestOpsPerSecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setupPipe(t, func(cfg *realtime.Config) { cfg.Limits.OpsPerSecond = 100 })
		a, b := s.join("plan", 0xa), s.join("plan", 0xb)
		a.send(wire.Presence{})
		begin := time.Now()
		for range 15 {
			a.push(100)
		}
		if d := time.Since(begin); d < 13*time.Second || d > 15*time.Second {
			t.Errorf("1,500 ops within %v", d)
		}
		begin = time.Now()
		b.push(50)
		b.readTo(1550)
		if d := time.Since(begin); d != 0 {
			t.Errorf("the other waited for %v", d)
		}
		a.readTo(1550)
	})
}

// The same goes for whatever else a socket sends, control frames too; pushes count by their ops.
func TestMessagesPerSecond(t *testing.T) {
	t.Parallel()
	pong := func(p *peer) {
		if err := p.conn.WriteControl(websocket.PongMessage, nil, time.Now().Add(time.Minute)); err != nil {
			t.Error(err)
		}
	}
	for name, send := range map[string]func(p *peer){
		"presence":  func(p *peer) { p.send(wire.Presence{State: json.RawMessage(`1`)}) },
		"pull":      func(p *peer) { p.send(wire.Pull{After: 100}) },
		"auth":      func(p *peer) { p.send(wire.Auth{Token: "x"}) },
		"malformed": func(p *peer) { p.raw([]byte("{")) },
		"pong":      pong,
		"bad push":  func(p *peer) { p.send(wire.Push{ID: "x"}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := setupPipe(t, func(cfg *realtime.Config) { cfg.Limits.MessagesPerSecond = 10 })
				a, b := s.join("plan", 0xa), s.join("plan", 0xb)
				begin := time.Now()
				for range 100 {
					a.push(1)
				}
				if d := time.Since(begin); d != 0 {
					t.Errorf("100 pushes took %v", d)
				}
				for range 40 {
					send(a)
				}
				a.send(wire.Ping{})
				for pinged := false; !pinged; { // behind what the others are answered
					_, pinged = a.next().(wire.ServerStatus)
				}
				if d := time.Since(begin); d < 3*time.Second || d > 4*time.Second {
					t.Errorf("40 messages within %v", d)
				}
				begin = time.Now()
				b.send(wire.Ping{})
				expect[wire.ServerStatus](b)
				if d := time.Since(begin); d != 0 {
					t.Errorf("the other waited for %v", d)
				}
			})
		})
	}
}

// What the answer to a ping lists counts, too.
func TestPingsInACrowd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setupPipe(t, func(cfg *realtime.Config) { cfg.Limits.MessagesPerSecond = 10 })
		a := s.join("plan", 0xa)
		for i := range moveop.ReplicaID(19) {
			s.join("plan", 0x1000+i)
		}
		begin := time.Now()
		for range 10 {
			a.send(wire.Ping{})
			expect[wire.ServerStatus](a)
		}
		if d := time.Since(begin); d < time.Second || d > 3*time.Second { // three messages' worth each
			t.Errorf("10 pings within %v", d)
		}
		for i := range moveop.ReplicaID(180) {
			s.join("plan", 0x2000+i)
		}
		begin = time.Now()
		b := s.join("plan", 0xb)
		b.send(wire.Ping{})
		expect[wire.ServerStatus](b)
		b.push(1)
		if d := time.Since(begin); d != 0 {
			t.Errorf("a push after a ping among 200 took %v", d)
		}
	})
}

func TestOpsPerSecondOverHTTP(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setupPipe(t, func(cfg *realtime.Config) { cfg.Limits.OpsPerSecond, cfg.Limits.MaxOps = 10, 100 })
		begin := time.Now()
		for i := range uint16(3) {
			var ops []moveop.Op
			for j := range uint16(50) {
				ops = append(ops, moveBy(0xa, 1+50*i+j))
			}
			if status, text := s.post("plan", postBody(t, 0xa, ops)); status != 200 {
				t.Fatalf("%d %s", status, text)
			}
		}
		if d := time.Since(begin); d < 9*time.Second || d > 10*time.Second {
			t.Errorf("150 ops within %v", d)
		}
	})
}

// A peer that sends the head of its request, or the body, a little at a time does not hold on to a
// connection.
func TestSlowRequests(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]string{
		"nothing": "",
		"head":    "GET /healthz HTTP/1.1\r\nHost: x\r\n",
		"body":    "POST /v1/rooms/plan/ops HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setup(t, fast, func(cfg *realtime.Config) {
				cfg.Timing.Header, cfg.Timing.Body = 50*time.Millisecond, 100*time.Millisecond
			})
			conn, err := net.Dial("tcp", s.host)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := fmt.Fprint(conn, begin); err != nil {
				t.Fatal(err)
			}
			if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil && resp.StatusCode < 400 {
				t.Errorf("answered %s", resp.Status)
			}
		})
	}
}

// The time for a request is not the time for a socket.
func TestSocketsOutliveTheBodyTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setupPipe(t, func(cfg *realtime.Config) { cfg.Timing.Body = 5 * time.Second })
		p := s.join("plan", 0xa)
		time.Sleep(20 * time.Second)
		p.push(1)
		p.readTo(1)
	})
}

// Whoever does not take an answer is not waited for; whoever takes it slowly gets all of it.
func TestAnswersThatAreNotTaken(t *testing.T) {
	t.Parallel()
	const lag = 30 * time.Second
	for name, tt := range map[string]struct {
		pause time.Duration // between two reads
		whole bool
	}{
		"never":  {lag + time.Second, false},
		"slowly": {lag - time.Second, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := setupPipe(t)
				s.seed("plan", 200) // more than is buffered
				conn, err := s.dial(t.Context(), "", "")
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if _, err := fmt.Fprint(conn, "GET /v1/rooms/plan/ops HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
					t.Fatal(err)
				}
				var text []byte
				for part := make([]byte, 4096); err == nil; {
					time.Sleep(tt.pause)
					var n int
					n, err = conn.Read(part)
					text = append(text, part[:n]...)
				}
				if whole := strings.HasSuffix(string(text), "\r\n0\r\n\r\n"); whole != tt.whole {
					t.Errorf("%d bytes, whole is %t", len(text), whole)
				}
			})
		})
	}
}

// A connection goes on after a pause that is longer than an answer may take.
func TestTheNextAnswerHasItsOwnTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setupPipe(t)
		conn, err := s.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		answers := bufio.NewReader(conn)
		for path, want := range map[string]int{"/healthz": 200, "/nowhere": 404, "/v1/rooms/plan/stats": 404} {
			if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(answers, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != want {
				t.Errorf("%s: %s, %v", path, resp.Status, err)
			}
			time.Sleep(time.Minute)
		}
	})
}

// Every limit on messages is the configuration's, and has its own answer.
func TestLimitsOnMessages(t *testing.T) {
	t.Parallel()
	s := setup(t, fast, func(cfg *realtime.Config) {
		cfg.Limits.MaxOps = 2
		cfg.Limits.Op = moveop.Limits{KeyBytes: 4, ValueBytes: 16, ValueDepth: 2}
		cfg.Limits.PresenceBytes, cfg.Limits.NameBytes, cfg.Limits.MaxFrame = 8, 4, 4096
	})
	s.seed("plan", 1)
	p := s.connect("plan")
	p.replica = 0xa
	p.send(wire.Hello{Replica: 0xa, Name: "12345"})
	if e := expectRefusal(p); e.Code != wire.CodeBadRequest {
		t.Errorf("a long name: %v", e)
	}
	p = s.connect("plan")
	p.replica, p.cursor = 0xa, 0
	p.send(wire.Hello{Replica: 0xa, Name: "1234"})
	if w := expect[wire.Welcome](p); w.Limits != (wire.Limits{MaxOps: 2, MaxFrame: 4096}) {
		t.Errorf("the client is told %+v", w.Limits)
	}
	set := func(key, value string) moveop.Op {
		op := p.move()
		return moveop.Op{Kind: moveop.Set, TS: op.TS, Node: op.Node, Key: key, Value: json.RawMessage(value)}
	}
	for _, tc := range []struct {
		ops  []moveop.Op
		code wire.Code // empty: taken
	}{
		{[]moveop.Op{p.move(), p.move()}, ""},
		{[]moveop.Op{p.move(), p.move(), p.move()}, wire.CodeTooLarge},
		{[]moveop.Op{set("1234", `1`)}, ""},
		{[]moveop.Op{set("12345", `1`)}, wire.CodeInvalidOp},
		{[]moveop.Op{set("1234", `"12345678901234"`)}, ""},
		{[]moveop.Op{set("1234", `"123456789012345"`)}, wire.CodeInvalidOp},
		{[]moveop.Op{set("1234", `[[1]]`)}, ""},
		{[]moveop.Op{set("1234", `[[[]]]`)}, wire.CodeInvalidOp},
	} {
		p.send(wire.Push{ID: "x", Ops: tc.ops})
		if tc.code == "" {
			expect[wire.Ack](p)
		} else if nack := expect[wire.Nack](p); nack.Code != tc.code {
			t.Errorf("%v: %v, want %s", tc.ops, nack, tc.code)
		}
	}
	p.send(wire.Presence{State: json.RawMessage(`"123456"`)})
	p.send(wire.Presence{State: json.RawMessage(`"1234567"`)})
	if e := expectRefusal(p); e.Code != wire.CodeTooLarge {
		t.Errorf("presence: %v", e)
	}
	p.raw([]byte(`{"type":"ping","x":"` + strings.Repeat("x", 4096) + `"}`))
	if closed := p.expectClose(); closed.Code != wire.CloseTooLarge {
		t.Errorf("a large frame: %v", closed)
	}
}

// A frame that never ends, in fragments or in one, costs no more memory than the largest that is allowed.
func TestEndlessFrames(t *testing.T) {
	t.Parallel()
	s := setup(t, fast)
	s.seed("plan", 1)
	for _, fragments := range []bool{false, true} {
		p := s.join("plan", 0xa)
		conn := p.conn.NetConn()
		header := []byte{0x81, 0x80 | 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4} // of 2^63-1 bytes
		if fragments {
			header = []byte{0x01, 0x80 | 126, 0xff, 0xff, 1, 2, 3, 4} // to be continued
		}
		body := make([]byte, 0xffff)
		go func() {
			for range 1000 {
				if _, err := conn.Write(header); err != nil {
					return
				}
				if _, err := conn.Write(body); err != nil {
					return
				}
				if fragments {
					header[0] = 0
				} else {
					header = nil
				}
			}
		}()
		if closed := p.expectClose(); closed.Code != wire.CloseTooLarge {
			t.Errorf("fragments %v: closed with %v", fragments, closed)
		}
		_ = conn.Close()
	}
}

// heldStats is a store that counts requests for statistics, and holds them back.
type heldStats struct {
	*fakeStore
	gate  chan struct{} // lets one go each
	asked chan struct{}
}

func (h heldStats) Stats(ctx context.Context, room string) (wire.Stats, error) {
	h.asked <- struct{}{}
	select {
	case <-h.gate:
		return h.fakeStore.Stats(ctx, room)
	case <-ctx.Done():
		return wire.Stats{}, ctx.Err()
	}
}

// However many read, there are connections of the store left for those who push.
func TestReadsOfRequestsAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := heldStats{newFakeStore(), make(chan struct{}), make(chan struct{}, 100)}
		l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
		s := startWith(t, store, l, l.dial, func(cfg *realtime.Config) { cfg.Limits.Readers, cfg.Timing.Store = 2, 10*time.Second })
		s.store = store.fakeStore
		s.seed("plan", 1)
		statuses := make(chan int, 100)
		ask := func(n int) {
			for range n {
				go func() {
					status, _ := get[map[string]any](s, "/v1/rooms/plan/stats")
					statuses <- status
				}()
			}
			synctest.Wait()
		}
		ask(5)
		if n := len(store.asked); n != 2 {
			t.Errorf("%d reads at a time", n)
		}
		resp, err := s.http.Post(s.url("/v1/rooms/plan/ops"), "application/json", strings.NewReader(postBody(t, 0xa, []moveop.Op{moveBy(0xa, 1)})))
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("a push meanwhile: %v %v", resp, err)
		}
		_ = resp.Body.Close()
		for range 5 {
			store.gate <- struct{}{}
			if status := <-statuses; status != 200 {
				t.Errorf("in its turn: %d", status)
			}
		}
		ask(3)
		for range 3 { // no turn comes
			if status := <-statuses; status != 503 {
				t.Errorf("after Timing.Store: %d", status)
			}
		}
	})
}
