package realtime_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime"
	"github.com/canopysync/canopy/realtime/wire"
	"github.com/canopysync/canopy/realtime/wire/apitest"
)

// described are the documents as the service serves them.
func (s *service) described() (texts map[string]string, docs *apitest.Documents) {
	s.t.Helper()
	texts = map[string]string{}
	for _, name := range []string{"openapi.yaml", "asyncapi.yaml"} {
		resp, err := s.http.Get(s.url("/" + name))
		if err != nil {
			s.t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/yaml" {
			s.t.Fatalf("%s: %d %s (%v)", name, resp.StatusCode, resp.Header, err)
		}
		texts[name] = string(text)
	}
	return texts, apitest.Open(s.t, texts)
}

func TestEveryRouteIsDescribed(t *testing.T) {
	t.Parallel()
	texts, docs := setup(t).described()
	apitest.CheckOpenAPI(t, texts["openapi.yaml"])
	srv, err := realtime.New(realtime.Config{Store: newFakeStore()})
	if err != nil {
		t.Fatal(err)
	}
	routes := srv.Routes()
	slices.Sort(routes)
	if got := docs.Routes("openapi.yaml"); !slices.Equal(got, routes) {
		t.Errorf("described are\n%s\nthere are\n%s", strings.Join(got, "\n"), strings.Join(routes, "\n"))
	}
}

// TestAnswersAreAsDescribed asks for everything, in right ways and in wrong ones.
func TestAnswersAreAsDescribed(t *testing.T) {
	t.Parallel()
	s := setup(t, fast, byToken)
	s.seed("plan", 3)
	s.store.set(func(f *fakeStore) {
		f.rooms["old"] = &fakeRoom{Room: wire.Room{Name: "old", Epoch: f.rooms["plan"].Epoch, Head: 9, MinSeq: 5}}
	})
	_, docs := s.described()
	push := func(op moveop.Op) string {
		text, err := json.Marshal([]moveop.Op{op})
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf(`{"replica":"000000000000000a","id":"1","ops":%s}`, text)
	}
	foreign, future := moveBy(0xb, 1), moveBy(0xa, 2)
	future.TS = moveop.NewTimestamp(1<<47, 0, 0xa)
	seen := map[string]bool{}
	ask := func(token, method, path, body string, want int) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, s.url(path), strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := s.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != want {
			t.Errorf("%s %s: %d, want %d: %s (%v)", method, path, resp.StatusCode, want, text, err)
		}
		route, _, _ := strings.Cut(path, "?")
		for _, room := range []string{"plan", "nowhere", "old", "NO"} {
			route = strings.Replace(route, "/v1/rooms/"+room+"/", "/v1/rooms/{room}/", 1)
		}
		seen[method+" "+route] = true
		if err := docs.Answers("openapi.yaml", method+" "+route, resp.StatusCode, resp.Header.Get("Content-Type"), text); err != nil {
			t.Errorf("%s %s: %s: %v", method, path, text, err)
		}
	}
	const post = "/v1/rooms/plan/ops"
	ask("writer", "POST", post, push(moveBy(0xa, 1)), 200)
	ask("writer", "POST", post, push(moveBy(0xa, 1)), 200) // a duplicate
	ask("writer", "POST", post, "{", 400)
	ask("wrong", "POST", post, push(moveBy(0xa, 1)), 401)
	ask("reader", "POST", post, push(moveBy(0xa, 1)), 403)
	ask("writer", "POST", post, push(foreign), 403)
	ask("reader", "POST", "/v1/rooms/nowhere/ops", push(moveBy(0xa, 1)), 404)
	ask("writer", "POST", post, push(moveBy(0xa, 0)), 409)
	ask("writer", "POST", post, push(future), 422)
	ask("writer", "POST", post, strings.Repeat(" ", 2<<20), 413)
	ask("reader", "GET", "/v1/rooms/old/ops", "", 410)
	for _, path := range []string{"ops", "children", "subtree", "stats", "buckets", "buckets/ops"} {
		ask("reader", "GET", "/v1/rooms/plan/"+path, "", 200)
		ask("wrong", "GET", "/v1/rooms/plan/"+path, "", 401)
		ask("other", "GET", "/v1/rooms/plan/"+path, "", 404)
		ask("reader", "GET", "/v1/rooms/nowhere/"+path, "", 404)
		ask("reader", "GET", "/v1/rooms/NO/"+path, "", 400)
	}
	for _, path := range []string{"ops?after=-1", "children?parent=x", "subtree?depth=0", "buckets?prefix=xyz", "buckets/ops?prefix=1"} {
		ask("reader", "GET", "/v1/rooms/plan/"+path, "", 400)
	}
	ask("reader", "GET", "/v1/rooms/plan/ws", "", 400)
	ask("wrong", "GET", "/v1/rooms/plan/ws", "", 401)
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/openapi.yaml", "/asyncapi.yaml"} {
		ask("", "GET", path, "", 200)
	}
	s.store.set(func(f *fakeStore) { f.broken = wire.ErrUnavailable })
	ask("writer", "POST", post, push(moveBy(0xa, 9)), 503)
	ask("reader", "GET", "/v1/rooms/plan/stats", "", 503)
	ask("", "GET", "/readyz", "", 503)
	s.store.set(func(f *fakeStore) { f.broken = io.ErrUnexpectedEOF })
	ask("reader", "GET", "/v1/rooms/plan/stats", "", 500)
	for _, route := range docs.Routes("openapi.yaml") {
		if !seen[route] {
			t.Errorf("%s was not asked for", route)
		}
	}
}

// messages are all that there are, with the Go types behind them and who sends them.
var messages = map[string]struct {
	form     any
	from, to bool // the client
}{
	"hello":       {wire.Hello{}, true, false},
	"welcome":     {wire.Welcome{}, false, true},
	"resync":      {wire.Resync{}, false, true},
	"ops":         {wire.Ops{}, false, true},
	"push":        {wire.Push{}, true, false},
	"ack":         {wire.Ack{}, false, true},
	"nack":        {wire.Nack{}, false, true},
	"pull":        {wire.Pull{}, true, false},
	"head":        {wire.Head{}, false, true},
	"presence":    {nil, true, true}, // has a form of its own
	"connections": {wire.Connections{}, false, true},
	"ping":        {wire.Ping{}, true, false},
	"status":      {wire.ServerStatus{}, false, true},
	"auth":        {wire.Auth{}, true, false},
	"error":       {wire.Error{}, false, true},
}

// fields are the names that a struct has in JSON.
func fields(t reflect.Type) (names []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			names = append(names, fields(f.Type)...)
			continue
		}
		if !f.IsExported() {
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}

func TestEveryMessageIsDescribed(t *testing.T) {
	t.Parallel()
	_, docs := setup(t).described()
	const doc = "asyncapi.yaml"
	if v := docs.At(doc, "asyncapi"); v != "3.0.0" {
		t.Errorf("version %v", v)
	}
	var names []string
	sent := map[string][]string{"fromClient": nil, "toClient": nil}
	for name, m := range messages {
		names = append(names, name)
		for operation, does := range map[string]bool{"fromClient": m.from, "toClient": m.to} {
			if does {
				sent[operation] = append(sent[operation], name)
			}
		}
		if m.form == nil {
			continue
		}
		want := append(fields(reflect.TypeOf(m.form)), "type")
		slices.Sort(want)
		got := docs.Names(doc, "components", "messages", name, "payload", "properties")
		if got == nil { // described by the other document
			got = docs.Names("openapi.yaml", "components", "schemas", strings.ToUpper(name[:1])+name[1:], "properties")
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s has the fields %v, described are %v", name, want, got)
		}
	}
	slices.Sort(names)
	for _, path := range [][]string{{"components", "messages"}, {"channels", "room", "messages"}} {
		if got := docs.Names(doc, path...); !slices.Equal(got, names) {
			t.Errorf("%v has %v, want %v", path, got, names)
		}
	}
	for operation, want := range sent {
		var got []string
		list, _ := docs.At(doc, "operations", operation, "messages").([]any)
		for _, ref := range list {
			got = append(got, strings.TrimPrefix(ref.(map[string]any)["$ref"].(string), "#/channels/room/messages/"))
		}
		slices.Sort(got)
		if slices.Sort(want); !slices.Equal(got, want) {
			t.Errorf("%s has %v, want %v", operation, got, want)
		}
	}
}

// The golden vectors have every message, and every field at least once.
func TestMessagesAreAsDescribed(t *testing.T) {
	t.Parallel()
	_, docs := setup(t).described()
	text, err := os.ReadFile("wire/testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct{ Name, JSON string }
	if err := json.Unmarshal(text, &vectors); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	conforms := func(text string) error {
		var kind struct{ Type string }
		if err := json.Unmarshal([]byte(text), &kind); err != nil {
			t.Fatal(err)
		}
		seen[kind.Type] = true
		return docs.Conforms([]byte(text), "asyncapi.yaml", "components", "messages", kind.Type, "payload")
	}
	for _, v := range vectors {
		if err := conforms(v.JSON); err != nil {
			t.Errorf("%s: %v", v.Name, err)
		}
		// With a field more it is none.
		if err := conforms(strings.Replace(v.JSON, "{", `{"undescribed":1,`, 1)); err == nil {
			t.Errorf("%s: the description has room for what is not described", v.Name)
		}
	}
	for name := range messages {
		if !seen[name] {
			t.Errorf("no vector has %s", name)
		}
	}
	if err := conforms(`{"type":"push","id":"1","ops":[],"traceparent":"x"}`); err == nil {
		t.Error("a push without ops is described")
	}
	if err := conforms(`{"type":"error","code":"internal","op":"018bcfe5-6800-0003-21b2-c3d4e5f60718","retryable":true,"message":"","server_time":1}`); err != nil {
		t.Error(err)
	}
}
