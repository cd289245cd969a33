package realtime_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime"
	"github.com/canopysync/canopy/realtime/wire"
)

// opJSON returns an op of replica a as a JSON object that a test may spoil.
func opJSON(counter uint16, change ...any) map[string]any {
	op := moveBy(0xa, counter)
	m := map[string]any{"kind": "move", "ts": op.TS, "node": op.Node, "parent": op.Parent, "order_key": "a0", "known": 0}
	for i := 0; i < len(change); i += 2 {
		m[change[i].(string)] = change[i+1]
	}
	return m
}

func pushJSON(ops ...map[string]any) string {
	text, err := json.Marshal(map[string]any{"type": "push", "id": "bad", "ops": ops})
	if err != nil {
		panic(err)
	}
	return string(text)
}

var (
	skewed  = moveop.NewTimestamp(time.Now().Add(2*time.Minute).UnixMilli(), 0, 0xa)
	foreign = moveop.NewTimestamp(900_000_000_000, 9, 0xb)
	deep    = strings.Repeat("[", 65) + strings.Repeat("]", 65)
)

// badPushes are refused with a nack: over a socket as such, over HTTP with the status.
var badPushes = []struct {
	name   string
	push   string
	code   wire.Code
	op     moveop.Timestamp // zero: none is named
	status int
}{
	{"unknown kind", pushJSON(opJSON(5, "kind", "copy")), wire.CodeInvalidOp, moveBy(0xa, 5).TS, 422},
	{"node is no id", pushJSON(opJSON(5, "node", "5")), wire.CodeInvalidOp, moveBy(0xa, 5).TS, 422},
	{"upper-case id", pushJSON(opJSON(5, "node", "0000000A-0000-0000-0000-000000000000")), wire.CodeInvalidOp, moveBy(0xa, 5).TS, 422},
	{"timestamp is no id", pushJSON(opJSON(5, "ts", "now")), wire.CodeInvalidOp, moveop.Timestamp{}, 422},
	{"no parent", pushJSON(opJSON(5, "parent", nil)), wire.CodeInvalidOp, moveBy(0xa, 5).TS, 422},
	{"root moved", pushJSON(opJSON(5, "node", moveop.Root)), wire.CodeInvalidOp, moveBy(0xa, 5).TS, 422},
	{"trash moved", pushJSON(opJSON(5, "node", moveop.Trash)), wire.CodeInvalidOp, moveBy(0xa, 5).TS, 422},
	{"order key", pushJSON(opJSON(5, "order_key", "not a key")), wire.CodeInvalidOp, moveBy(0xa, 5).TS, 422},
	{"negative known", pushJSON(opJSON(5, "known", -1)), wire.CodeInvalidOp, moveBy(0xa, 5).TS, 422},
	{"op is no object", `{"type":"push","id":"bad","ops":[7]}`, wire.CodeInvalidOp, moveop.Timestamp{}, 422},
	{"no key", pushJSON(opJSON(5, "kind", "set", "value", 1)), wire.CodeInvalidOp, moveBy(0xa, 5).TS, 422},
	{"value too deep", pushJSON(opJSON(5, "kind", "set", "key", "k", "value", json.RawMessage(deep))), wire.CodeInvalidOp, moveBy(0xa, 5).TS, 422},
	{"value too large", pushJSON(opJSON(5, "kind", "set", "key", "k", "value", strings.Repeat("x", 1000<<10))), wire.CodeInvalidOp, moveBy(0xa, 5).TS, 422},
	{"a correction", pushJSON(opJSON(5, "ts", moveBy(0xa, 5).TS.Correction())), wire.CodeInvalidOp, moveBy(0xa, 5).TS.Correction(), 422},
	{"skew", pushJSON(opJSON(5, "ts", skewed)), wire.CodeClockSkew, skewed, 422},
	{"another body", pushJSON(opJSON(2, "order_key", "a1")), wire.CodeConflict, moveBy(0xa, 2).TS, 409},
	{"another body in the batch", pushJSON(opJSON(5), opJSON(5, "order_key", "a1")), wire.CodeConflict, moveBy(0xa, 5).TS, 409},
	{"behind the newest", pushJSON(opJSON(5, "ts", moveop.NewTimestamp(899_000_000_000, 0, 0xa))), wire.CodeOutOfOrder, moveop.NewTimestamp(899_000_000_000, 0, 0xa), 409},
	{"descending", pushJSON(opJSON(6), opJSON(5)), wire.CodeOutOfOrder, moveBy(0xa, 5).TS, 409},
	{"another replica's", pushJSON(opJSON(5, "ts", foreign)), wire.CodeForbiddenReplica, foreign, 403},
	{"good, then bad", pushJSON(opJSON(5), opJSON(6, "ts", skewed)), wire.CodeClockSkew, skewed, 422},
	{"too many", tooMany(), wire.CodeTooLarge, moveop.Timestamp{}, 422},
}

func tooMany() string {
	ops := make([]map[string]any, 1001)
	for i := range ops {
		ops[i] = opJSON(uint16(i + 5))
	}
	return pushJSON(ops...)
}

func TestBadPush(t *testing.T) {
	t.Parallel()
	s := setup(t, fast)
	p := s.join("plan", 0xa)
	p.push(3)
	p.readTo(3)
	for _, tc := range badPushes {
		p.raw([]byte(tc.push))
		nack := expect[wire.Nack](p)
		if nack.ID != "bad" || nack.Code != tc.code || nack.Retryable || nack.Message == "" {
			t.Errorf("%s: %+v", tc.name, nack)
		}
		if tc.op.IsZero() != (nack.Op == nil) || nack.Op != nil && *nack.Op != tc.op {
			t.Errorf("%s: names op %v, want %v", tc.name, nack.Op, tc.op)
		}
		if d := time.Since(time.UnixMilli(nack.ServerTime)); d > time.Minute || d < -time.Minute {
			t.Errorf("%s: server time is off by %v", tc.name, d)
		}
	}
	if p.push(1); len(s.stored("plan")) != 4 {
		t.Errorf("%d ops in the log", len(s.stored("plan")))
	}
}

func TestBadPost(t *testing.T) {
	t.Parallel()
	s := setup(t, fast)
	p := s.join("plan", 0xa)
	p.push(3)
	for _, tc := range badPushes {
		body := strings.Replace(tc.push, `{`, `{"replica":"000000000000000a",`, 1)
		status, text := s.post("plan", body)
		msg, err := wire.JSON.Decode(text)
		nack, ok := msg.(wire.Nack)
		if err != nil || !ok || status != tc.status || nack.Code != tc.code || nack.ID != "bad" {
			t.Errorf("%s: %d %s", tc.name, status, text)
		}
	}
	if len(s.stored("plan")) != 3 {
		t.Errorf("%d ops in the log", len(s.stored("plan")))
	}
}

func (s *service) post(room, body string) (int, []byte) {
	s.t.Helper()
	resp, err := s.http.Post(s.url("/v1/rooms/"+room+"/ops"), "application/json", strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(resp.Body); err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, text.Bytes()
}

// After each of these the socket still works, and so do those before hello.
func TestBadMessage(t *testing.T) {
	t.Parallel()
	s := setup(t, fast)
	open, fresh := s.join("plan", 0xa), s.connect("plan")
	for name, tc := range map[string]struct {
		text string
		code wire.Code
		both bool // before hello too
	}{
		"no json":         {`{"type":"push",`, wire.CodeBadRequest, true},
		"not an object":   {`[1,2]`, wire.CodeBadRequest, true},
		"empty":           {``, wire.CodeBadRequest, true},
		"no type":         {`{"id":"x"}`, wire.CodeBadRequest, true},
		"type no string":  {`{"type":7}`, wire.CodeBadRequest, true},
		"unknown type":    {`{"type":"subscribe","id":"x"}`, wire.CodeBadRequest, true},
		"long type":       {`{"type":"` + strings.Repeat("x", 5000) + `"}`, wire.CodeBadRequest, true},
		"bad replica":     {`{"type":"hello","replica":"xyz","epoch":null,"seq":0}`, wire.CodeBadRequest, true},
		"zero replica":    {`{"type":"hello","replica":"0000000000000000","epoch":null,"seq":0}`, wire.CodeBadRequest, true},
		"no replica":      {`{"type":"hello","epoch":null,"seq":0}`, wire.CodeBadRequest, true},
		"negative seq":    {`{"type":"hello","replica":"000000000000000a","epoch":null,"seq":-1}`, wire.CodeBadRequest, true},
		"long name":       {`{"type":"hello","replica":"000000000000000a","seq":0,"name":"` + strings.Repeat("x", 129) + `"}`, wire.CodeBadRequest, true},
		"another hello":   {`{"type":"hello","replica":"000000000000000b","epoch":null,"seq":0}`, wire.CodeBadRequest, false},
		"server's own":    {`{"type":"head","head":1,"digest":{"ops":0,"log":"0000000000000000","state":"0000000000000000"}}`, wire.CodeBadRequest, false},
		"push id":         {`{"type":"push","id":7,"ops":[]}`, wire.CodeBadRequest, false},
		"long push id":    {`{"type":"push","id":"` + strings.Repeat("x", 129) + `","ops":[]}`, wire.CodeBadRequest, false},
		"negative pull":   {`{"type":"pull","after":-1}`, wire.CodeBadRequest, false},
		"large presence":  {`{"type":"presence","state":"` + strings.Repeat("x", 5000) + `"}`, wire.CodeTooLarge, false},
		"nested too deep": {`{"type":"presence","state":` + strings.Repeat("[", 20000) + `}`, wire.CodeBadRequest, false},
	} {
		for _, p := range []*peer{open, fresh} {
			if p == fresh && !tc.both {
				continue
			}
			p.raw([]byte(tc.text))
			if got := p.nextError(); got.Code != tc.code || got.Message == "" || len(got.Message) > 500 {
				t.Errorf("%s: %v", name, got)
			}
		}
	}
	for _, ops := range []string{`[]`, `null`, `{}`, `"x"`} {
		open.raw([]byte(`{"type":"push","id":"none","ops":` + ops + `}`))
		if nack := expect[wire.Nack](open); nack.Code != wire.CodeBadRequest || nack.ID != "none" {
			t.Errorf("push of %s: %+v", ops, nack)
		}
	}
	if err := open.conn.WriteMessage(websocket.BinaryMessage, []byte(`{"type":"ping"}`)); err != nil {
		t.Fatal(err)
	}
	if got := open.nextError(); got.Code != wire.CodeBadRequest {
		t.Errorf("binary frame: %v", got)
	}
	open.raw([]byte(`{"type":"ping","colour":"green"}`)) // unknown fields are ignored
	expect[wire.ServerStatus](open)
	fresh.hello(0xf, nil, 0)
}

// nextError reads until an error message comes.
func (p *peer) nextError() *wire.Error {
	p.t.Helper()
	for {
		if e, ok := p.next().(*wire.Error); ok {
			return e
		}
	}
}

func TestBadBinaryFrame(t *testing.T) {
	t.Parallel()
	s := setup(t, fast)
	p, _, err := s.socket("plan", wire.Binary, nil)
	if err != nil {
		t.Fatal(err)
	}
	p.hello(0xa, nil, 0)
	for _, frame := range [][]byte{{}, {1}, {2, 5}, {1, 0x7f}, {1, 5}, {1, 5, 0xff}, {1, 6, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, {1, 12, '{'}} {
		p.raw(frame)
		if got := p.nextError(); got.Code != wire.CodeBadRequest {
			t.Errorf("% x: %v", frame, got)
		}
	}
	p.raw([]byte{1, 5, 1, 'x', 1, 0xff, 0xff, 0x7f})
	if nack := expect[wire.Nack](p); nack.ID != "x" || nack.Code != wire.CodeTooLarge {
		t.Errorf("two million ops: %+v", nack)
	}
	p.raw([]byte{1, 5, 1, 'x', 1, 1, 0xff})
	if nack := expect[wire.Nack](p); nack.ID != "x" || nack.Code != wire.CodeInvalidOp {
		t.Errorf("ops cut short: %+v", nack)
	}
	p.push(1)
}

func TestFrameTooLarge(t *testing.T) {
	t.Parallel()
	s := setup(t, fast)
	p := s.join("plan", 0xa)
	p.push(1)
	_ = p.conn.WriteMessage(websocket.TextMessage, make([]byte, 3<<20)) // fails where the server is quicker
	if closed := p.expectClose(); closed.Code != wire.CloseTooLarge {
		t.Errorf("closed with %v", closed)
	}
	if len(s.stored("plan")) != 1 {
		t.Error("the log has changed")
	}
}

func TestFirstMessageMustBeHello(t *testing.T) {
	t.Parallel()
	p := setup(t, fast).connect("plan")
	p.send(wire.Ping{})
	if closed := p.expectClose(); closed.Code != wire.CloseBadRequest {
		t.Errorf("closed with %v", closed)
	}
}

func TestHelloMustComeInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := setupPipe(t).connect("plan")
		begin := time.Now()
		if closed := p.expectClose(); closed.Code != wire.CloseHelloTimeout {
			t.Errorf("closed with %v", closed)
		}
		if d := time.Since(begin); d != 5*time.Second {
			t.Errorf("after %v", d)
		}
	})
}

func TestUpgradeRefused(t *testing.T) {
	t.Parallel()
	allowed := func(cfg *realtime.Config) { cfg.AllowedOrigins = []string{"https://app.example.com"} }
	for name, tc := range map[string]struct {
		configure func(*realtime.Config)
		room      string
		header    http.Header
		status    int
		code      wire.Code
	}{
		"room name":       {fast, "Plan", nil, 400, wire.CodeBadRequest},
		"room name $":     {fast, "a'$$b", nil, 400, wire.CodeBadRequest},
		"long room name":  {fast, strings.Repeat("a", 129), nil, 400, wire.CodeBadRequest},
		"another site":    {fast, "plan", http.Header{"Origin": {"https://evil.example.com"}}, 403, wire.CodeForbidden},
		"null origin":     {fast, "plan", http.Header{"Origin": {"null"}}, 403, wire.CodeForbidden},
		"two origins":     {fast, "plan", http.Header{"Origin": {"http://127.0.0.1", "http://127.0.0.1"}}, 403, wire.CodeForbidden},
		"not in the list": {allowed, "plan", http.Header{"Origin": {"https://app.example.com.evil.org"}}, 403, wire.CodeForbidden},
		"wrong scheme":    {allowed, "plan", http.Header{"Origin": {"http://app.example.com"}}, 403, wire.CodeForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setup(t, tc.configure)
			_, resp, err := s.socket(tc.room, wire.JSON, tc.header)
			if err == nil {
				t.Fatal("upgraded")
			}
			if e := wire.ReadError(resp); resp.StatusCode != tc.status || e.Code != tc.code {
				t.Errorf("%d %v", resp.StatusCode, e)
			}
		})
	}
}

func TestUpgradeAllowed(t *testing.T) {
	t.Parallel()
	s := setup(t, fast)
	if _, _, err := s.socket("plan", wire.JSON, http.Header{"Origin": {"http://" + s.host}}); err != nil {
		t.Errorf("same host: %v", err)
	}
	s = setup(t, fast, func(cfg *realtime.Config) { cfg.AllowedOrigins = []string{"https://app.example.com"} })
	if _, _, err := s.socket("plan", wire.JSON, http.Header{"Origin": {"https://app.example.com"}}); err != nil {
		t.Errorf("allowed origin: %v", err)
	}
	conn, _, err := websocket.DefaultDialer.Dial("ws://"+s.host+"/v1/rooms/plan/ws", nil)
	if err != nil {
		t.Fatalf("no subprotocol: %v", err)
	}
	defer conn.Close()
	p := &peer{t: t, codec: wire.JSON, conn: conn}
	p.hello(0xa, nil, 0)
	lines := http.Header{"Sec-Websocket-Protocol": {"canopy.v2.json", wire.SubprotocolBinary + ", " + wire.SubprotocolJSON}}
	if conn, _, err := (&websocket.Dialer{}).Dial("ws://"+s.host+"/v1/rooms/plan/ws", lines); err != nil || conn.Subprotocol() != wire.SubprotocolBinary {
		t.Errorf("subprotocols on two lines: %v", err)
	} else {
		_ = conn.Close()
	}
	dialer := websocket.Dialer{Subprotocols: []string{"canopy.v2.json", "graphql-ws"}}
	if _, resp, err := dialer.Dial("ws://"+s.host+"/v1/rooms/plan/ws", nil); err == nil || resp.StatusCode != 400 {
		t.Errorf("unknown subprotocols: %v", err)
	}
	if resp, err := s.http.Get(s.url("/v1/rooms/plan/ws")); err != nil || resp.StatusCode != 400 {
		t.Errorf("no upgrade: %v %v", resp, err)
	} else {
		_ = resp.Body.Close()
	}
}

// Tickers and random delays panic for what is negative, some of them only when the server stops.
func TestNegativeTimesAreRefused(t *testing.T) {
	t.Parallel()
	for i := range reflect.TypeFor[realtime.Timing]().NumField() {
		cfg := realtime.Config{Store: newFakeStore()}
		reflect.ValueOf(&cfg.Timing).Elem().Field(i).SetInt(-1)
		name := reflect.TypeFor[realtime.Timing]().Field(i).Name
		if _, err := realtime.New(cfg); (err == nil) != (name == "Linger") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*realtime.Config){
		"no store":     func(cfg *realtime.Config) { cfg.Store = nil },
		"small frames": func(cfg *realtime.Config) { cfg.Limits.MaxFrame = 64 << 10 },
		"large frames": func(cfg *realtime.Config) { cfg.Limits.MaxFrame = wire.MaxFrame + 1 },
		"large values": func(cfg *realtime.Config) {
			cfg.Limits.MaxFrame, cfg.Limits.Op = 64<<20, moveop.Limits{KeyBytes: 255, ValueBytes: format.MaxTuple, ValueDepth: 64}
		},
		"large batches":  func(cfg *realtime.Config) { cfg.Limits.MaxOps = wire.MaxFrameOps + 1 },
		"negative limit": func(cfg *realtime.Config) { cfg.Limits.Pushes = -1 },
		"origin path":    func(cfg *realtime.Config) { cfg.AllowedOrigins = []string{"https://a.example/app"} },
		"origin host":    func(cfg *realtime.Config) { cfg.AllowedOrigins = []string{"a.example"} },
		"origin *":       func(cfg *realtime.Config) { cfg.AllowedOrigins = []string{"*"} },
	} {
		cfg := realtime.Config{Store: newFakeStore()}
		spoil(&cfg)
		if _, err := realtime.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
