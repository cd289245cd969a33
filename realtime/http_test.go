package realtime_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime"
	"github.com/canopysync/canopy/realtime/wire"
)

func TestPostOps(t *testing.T) {
	t.Parallel()
	s := setup(t, fast)
	listener := s.join("plan", 0xb)
	ops, _ := json.Marshal([]moveop.Op{moveBy(0xa, 1), moveBy(0xa, 2)})
	body := fmt.Sprintf(`{"replica":"000000000000000a","ops":%s}`, ops)
	for _, want := range []wire.Status{wire.StatusApplied, wire.StatusDuplicate} {
		status, text := s.post("plan", body)
		msg, err := wire.JSON.Decode(text)
		ack, ok := msg.(wire.Ack)
		if err != nil || !ok || status != 200 || ack.Head != 2 || ack.Results[1].Seq != 2 || ack.Results[1].Status != want {
			t.Errorf("%d %s", status, text)
		}
	}
	listener.readTo(2)
	for name, tc := range map[string]struct {
		body   string
		status int
		code   wire.Code
	}{
		"no json":     {`{"replica":`, 400, wire.CodeBadRequest},
		"no replica":  {`{"ops":[]}`, 400, wire.CodeBadRequest},
		"bad replica": {`{"replica":"x","ops":[]}`, 400, wire.CodeBadRequest},
		"no ops":      {`{"replica":"000000000000000a","ops":[]}`, 400, wire.CodeBadRequest},
		"large body":  {strings.Repeat(" ", 2<<20), 413, wire.CodeTooLarge},
	} {
		status, text := s.post("plan", tc.body)
		if status != tc.status || errorCode(t, text) != tc.code {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	s.store.set(func(f *fakeStore) { f.broken = io.ErrUnexpectedEOF })
	if status, text := s.post("plan", body); status != 503 || !strings.Contains(string(text), `"retryable":true`) {
		t.Errorf("broken store: %d %s", status, text)
	}
	s.store.set(func(f *fakeStore) { f.broken = nil })
}

func errorCode(t *testing.T, text []byte) wire.Code {
	t.Helper()
	var body struct {
		Error struct {
			Code      wire.Code
			Message   string
			Retryable *bool
		}
	}
	if err := json.Unmarshal(text, &body); err != nil || body.Error.Message == "" || body.Error.Retryable == nil {
		t.Errorf("error body %s: %v", text, err)
	}
	return body.Error.Code
}

func TestNameOfARoomMayHaveEscapes(t *testing.T) {
	t.Parallel()
	s := setup(t, fast)
	s.seed("plan.a", 1)
	if status, stats := get[wire.Stats](s, "/v1/rooms/%70lan%2Ea/stats"); status != 200 || stats.Room != "plan.a" {
		t.Errorf("%d %+v", status, stats)
	}
	if status, body := get[json.RawMessage](s, "/v1/rooms/%2570lan.a/stats"); status != 400 { // %70lan.a
		t.Errorf("an escape of an escape: %d %s", status, body)
	}
}

func TestGetOps(t *testing.T) {
	t.Parallel()
	s := setup(t, fast)
	room := s.seed("plan", 700)
	for _, tc := range []struct {
		query    string
		from, to int64
	}{
		{"", 1, 700},
		{"?after=10&limit=5", 11, 15},
		{"?after=690&limit=100000", 691, 700},
		{"?after=690&limit=99999999999", 691, 700},
		{"?after=700", 701, 700},
		{"?after=900", 901, 900},
		{"?after=9223372036854775807", 9223372036854775807, 9223372036854775806},
	} {
		resp, err := s.http.Get(s.url("/v1/rooms/plan/ops" + tc.query))
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(resp.Body)
		var header wire.OpsHeader
		lines.Scan()
		if err := json.Unmarshal(lines.Bytes(), &header); err != nil {
			t.Fatal(err)
		}
		if header != (wire.OpsHeader{From: tc.from, To: tc.to, Head: 700, Epoch: room.Epoch}) {
			t.Errorf("%s: header %+v", tc.query, header)
		}
		seq := header.From - 1
		for ; lines.Scan(); seq++ {
			var op moveop.Op
			if err := json.Unmarshal(lines.Bytes(), &op); err != nil || op.Seq != seq+1 {
				t.Fatalf("%s: op %d: %s: %v", tc.query, seq+1, lines.Text(), err)
			}
		}
		if seq != tc.to || resp.Header.Get("Content-Type") != "application/x-ndjson" {
			t.Errorf("%s: ended at %d", tc.query, seq)
		}
		_ = resp.Body.Close()
	}
	s.store.set(func(f *fakeStore) { f.rooms["plan"].MinSeq = 5 })
	if status, body := get[json.RawMessage](s, "/v1/rooms/plan/ops?after=4"); status != 410 || errorCode(t, body) != wire.CodeCompacted {
		t.Errorf("compacted: %d %s", status, body)
	}
}

func TestPages(t *testing.T) {
	t.Parallel()
	s := setup(t, fast)
	s.seed("plan", 3)
	id := moveBy(0x5eed, 1).Node
	for path, want := range map[string]string{
		"children": `{"after":"","count":0,"limit":1000}`,
		"children?parent=" + id.String() + "&limit=2":  `{"after":"","count":0,"limit":2}`,
		"children?after=x.y&limit=10000":               `{"after":"x.y","count":0,"limit":10000}`,
		"children?limit=10001":                         `{"after":"","count":0,"limit":10000}`,
		"children?count=1&limit=3":                     `{"after":"","count":1,"limit":3}`,
		"subtree?node=" + id.String() + "&depth=3":     `{"after":"","depth":3,"limit":1000}`,
		"subtree?depth=9223372036854775807&after=1%2F": `{"after":"1/","depth":2147483647,"limit":1000}`,
	} {
		status, page := get[wire.Page](s, "/v1/rooms/plan/"+path)
		if status != 200 || len(page.Nodes) != 1 || string(page.Nodes[0].Props["asked"]) != want || page.Seq != 3 {
			t.Errorf("%s: %d %+v", path, status, page)
			continue
		}
		parent := moveop.Root
		if strings.Contains(path, id.String()) {
			parent = id
		}
		if page.Nodes[0].ID != parent {
			t.Errorf("%s: of node %s", path, page.Nodes[0].ID)
		}
	}
}

// What a token was needed for stays in no cache.
func TestAnswersAreNotStored(t *testing.T) {
	t.Parallel()
	s := setup(t, fast)
	s.seed("plan", 3)
	for _, path := range []string{"plan/ops", "plan/children", "plan/subtree", "plan/stats", "plan/buckets", "plan/buckets/ops", "nowhere/ops"} {
		resp, err := s.http.Get(s.url("/v1/rooms/" + path))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if got := resp.Header.Get("Cache-Control"); got != "no-store" {
			t.Errorf("%s: %d with Cache-Control %q", path, resp.StatusCode, got)
		}
	}
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	s := setup(t, fast)
	s.seed("plan", 3)
	for path, want := range map[string]int{
		"/v1/rooms/Plan/stats":                  400,
		"/v1/rooms/-plan/stats":                 400,
		"/v1/rooms/a%24%24/ops":                 400,
		"/v1/rooms/plan/children?parent=x":      400,
		"/v1/rooms/plan/children?after=garbage": 400,
		"/v1/rooms/plan/children?limit=0":       400,
		"/v1/rooms/plan/children?limit=x":       400,
		"/v1/rooms/plan/children?count=0":       400,
		"/v1/rooms/plan/children?limit=%zz":     400,
		"/v1/rooms/plan/subtree?depth=0":        400,
		"/v1/rooms/plan/subtree?node=1":         400,
		"/v1/rooms/plan/ops?after=-1":           400,
		"/v1/rooms/plan/ops?after=1e3":          400,
		"/v1/rooms/nowhere/stats":               404,
		"/v1/rooms/nowhere/ops":                 404,
		"/v1/rooms/nowhere/children":            404,
		"/v1/rooms/nowhere/subtree":             404,
		"/v1/rooms/plan":                        404,
		"/v2":                                   404,
	} {
		status, body := get[json.RawMessage](s, path)
		if status != want {
			t.Errorf("%s: %d %s", path, status, body)
		}
		errorCode(t, body)
	}
	resp, err := s.http.Post(s.url("/v1/rooms/plan/stats"), "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _ = resp.Body.Close(); resp.StatusCode != 405 {
		t.Errorf("method: %d", resp.StatusCode)
	}
	r, _ := http.NewRequest(http.MethodPost, s.url("/v1/rooms/plan/ops"), strings.NewReader("{}"))
	r.Header.Set("Origin", "https://evil.example.com")
	if resp, err = s.http.Do(r); err != nil {
		t.Fatal(err)
	}
	if _ = resp.Body.Close(); resp.StatusCode != 403 {
		t.Errorf("post from another site: %d", resp.StatusCode)
	}
}

func TestHealthAndMetrics(t *testing.T) {
	t.Parallel()
	s := setup(t, fast)
	s.join("plan", 0xa).push(3)
	for path, want := range map[string]string{
		"/healthz": `{"status":"ok"}`,
		"/readyz":  `{"status":"ready"}`,
		"/metrics": "canopy_realtime_pushed_ops_total 3\n",
	} {
		resp, err := s.http.Get(s.url(path))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		if _ = resp.Body.Close(); resp.StatusCode != 200 || !strings.Contains(string(text), want) {
			t.Errorf("%s: %d %s", path, resp.StatusCode, text)
		}
		if caching := resp.Header.Get("Cache-Control"); path != "/metrics" && caching != "no-store" {
			t.Errorf("%s may be cached: %q", path, caching)
		}
		if strings.Contains(string(text), "plan") {
			t.Errorf("%s names a room", path)
		}
	}
}

// grants are what the tokens of TestAuthorization allow; others are refused.
var grants = map[string]realtime.Grant{
	"reader": {Read: true, User: "r"},
	"writer": {Read: true, Write: true, User: "w"},
	"other":  {},
}

func byToken(cfg *realtime.Config) {
	cfg.Authorize = func(_ context.Context, token, _ string) (realtime.Grant, error) {
		if g, ok := grants[token]; ok {
			return g, nil
		}
		return realtime.Grant{}, wire.NewError(wire.CodeUnauthorized, "no such token")
	}
}

func TestAuthorizationOfSockets(t *testing.T) {
	t.Parallel()
	s := setup(t, fast, byToken)
	s.seed("plan", 1)
	for _, tc := range []struct {
		token, room string
		status      int // in the header
		closed      int // in hello
	}{
		{"wrong", "plan", 401, wire.CloseUnauthorized},
		{"other", "plan", 404, wire.CloseForbidden},
		{"reader", "nowhere", 404, wire.CloseForbidden},
	} {
		_, resp, err := s.socket(tc.room, wire.JSON, http.Header{"Authorization": {"Bearer " + tc.token}})
		if err == nil || resp.StatusCode != tc.status {
			t.Errorf("%s: header: %v", tc.token, err)
		}
		p := s.connect(tc.room)
		p.send(wire.Hello{Replica: 0xa, Token: tc.token})
		if closed := p.expectClose(); closed.Code != tc.closed {
			t.Errorf("%s: hello: %v", tc.token, closed)
		}
	}
	p, _, err := s.socket("plan", wire.JSON, http.Header{"Authorization": {"Bearer reader"}})
	if err != nil {
		t.Fatal(err)
	}
	p.hello(0xa, nil, 0)
	op := p.move()
	p.send(wire.Push{ID: "x", Ops: []moveop.Op{op}})
	if nack := expect[wire.Nack](p); nack.Code != wire.CodeForbidden || nack.Retryable {
		t.Errorf("nack %+v", nack)
	}
	p.send(wire.Auth{Token: "writer"})
	p.send(wire.Push{ID: "x", Ops: []moveop.Op{op}})
	expect[wire.Ack](p)
	p.send(wire.Auth{Token: "wrong"})
	if closed := p.expectClose(); closed.Code != wire.CloseUnauthorized {
		t.Errorf("closed with %v", closed)
	}
}

// Nothing is spent on a room for those who have shown no token for it, and nothing shows them whether it is there.
func TestARoomWaitsForAToken(t *testing.T) {
	t.Parallel()
	s := setup(t, fast, byToken)
	s.seed("plan", 3)
	before := s.reads()
	spent := func() string {
		return fmt.Sprint(s.reads()-before, " reads, rooms in use: ", s.metric("canopy_realtime_rooms"))
	}
	for _, token := range []string{"wrong", "other"} {
		p := s.connect("plan")
		p.raw([]byte("{"))
		expectRefusal(p)
		p.send(wire.Hello{Replica: 0xa, Token: token})
		p.expectClose()
	}
	if got := spent(); got != "0 reads, rooms in use: 0" {
		t.Error(got)
	}
	p := s.connect("plan")
	p.send(wire.Hello{Replica: 0xa, Token: "reader"})
	expect[wire.Welcome](p)
	if got := s.metric("canopy_realtime_rooms"); got != "1" {
		t.Errorf("with a token: %s", got)
	}
}

func TestAuthorizationOfRequests(t *testing.T) {
	t.Parallel()
	s := setup(t, fast, byToken)
	s.seed("plan", 1)
	ops, _ := json.Marshal([]moveop.Op{moveBy(0xa, 1)})
	post := fmt.Sprintf(`{"replica":"000000000000000a","ops":%s}`, ops)
	for _, tc := range []struct {
		method, path, token string
		status              int
	}{
		{"GET", "/v1/rooms/plan/stats", "", 401},
		{"GET", "/v1/rooms/plan/stats", "wrong", 401},
		{"GET", "/v1/rooms/plan/stats", "other", 404},
		{"GET", "/v1/rooms/plan/stats", "reader", 200},
		{"GET", "/v1/rooms/plan/ops", "other", 404},
		{"GET", "/v1/rooms/plan/children", "other", 404},
		{"GET", "/v1/rooms/plan/subtree", "", 401},
		{"POST", "/v1/rooms/plan/ops", "", 401},
		{"POST", "/v1/rooms/plan/ops", "other", 404},
		{"POST", "/v1/rooms/plan/ops", "reader", 403},
		{"POST", "/v1/rooms/nowhere/ops", "reader", 404},
		{"POST", "/v1/rooms/plan/ops", "writer", 200},
		{"POST", "/v1/rooms/new/ops", "writer", 200},
		{"GET", "/healthz", "", 200},
	} {
		r, err := http.NewRequest(tc.method, s.url(tc.path), strings.NewReader(post))
		if err != nil {
			t.Fatal(err)
		}
		if tc.token != "" {
			r.Header.Set("Authorization", "bearer "+tc.token)
		}
		resp, err := s.http.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if _ = resp.Body.Close(); resp.StatusCode != tc.status {
			t.Errorf("%s %s as %q: %d, want %d", tc.method, tc.path, tc.token, resp.StatusCode, tc.status)
		}
	}
}
