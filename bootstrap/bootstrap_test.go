package bootstrap_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/canopysync/canopy/bootstrap"
	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/bootstrap/format/formattest"
	"github.com/canopysync/canopy/realtime/wire"
)

// source is a Source of one room. Its hooks may be nil.
type source struct {
	snapshot format.Snapshot
	ready    error
	stats    func(context.Context) error
	ahead    int64                           // operations that the room has on top of the snapshot
	open     int32                           // transactions open now
	before   func(ctx context.Context) error // before the snapshot is there
	after    error                           // of the end of the transaction
}

func (s *source) Ready(context.Context) error { return s.ready }

func (s *source) Stats(ctx context.Context, room string) (wire.Stats, error) {
	if s.stats != nil {
		if err := s.stats(ctx); err != nil {
			return wire.Stats{}, err
		}
	}
	h := s.snapshot.Header()
	if room != h.Room {
		return wire.Stats{}, wire.ErrUnknownRoom
	}
	return wire.Stats{Room: room, Epoch: h.Epoch, Head: h.Seq, Nodes: 3, Ops: h.Digest.Ops, Digest: h.Digest}, nil
}

func (s *source) Room(_ context.Context, room string) (wire.Room, error) {
	h := s.snapshot.Header()
	if room != h.Room {
		return wire.Room{}, wire.ErrUnknownRoom
	}
	return wire.Room{Name: room, Epoch: h.Epoch, Head: h.Seq + s.ahead}, nil
}

func (s *source) Snapshot(ctx context.Context, room string, f func(format.Snapshot) error) error {
	atomic.AddInt32(&s.open, 1)
	defer atomic.AddInt32(&s.open, -1)
	if s.before != nil {
		if err := s.before(ctx); err != nil {
			return err
		}
	}
	if room != s.snapshot.Header().Room {
		return wire.ErrUnknownRoom
	}
	if err := f(s.snapshot); err != nil {
		return err
	}
	return s.after
}

// fixture is a running service.
type fixture struct {
	*source
	registry *prometheus.Registry
	handler  http.Handler
	url      string
	client   *http.Client
	close    func() // ends when all handlers have
}

func setup(t *testing.T, cfg bootstrap.Config) *fixture {
	t.Helper()
	src, _ := cfg.Source.(*source)
	if src == nil {
		src = &source{snapshot: formattest.Sample()}
	}
	f := setupSource(t, src, cfg)
	f.source = src
	t.Cleanup(func() {
		f.close()
		if n := atomic.LoadInt32(&src.open); n != 0 {
			t.Errorf("%d transactions are left open", n)
		}
	})
	return f
}

// setupSource runs the service on any source.
func setupSource(t *testing.T, src bootstrap.Source, cfg bootstrap.Config) *fixture {
	t.Helper()
	f := &fixture{registry: prometheus.NewRegistry(), client: &http.Client{Transport: &http.Transport{DisableCompression: true}}}
	cfg.Source, cfg.Registry = src, f.registry
	s, err := bootstrap.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.handler = s.Handler()
	srv := httptest.NewServer(f.handler)
	f.url = srv.URL
	f.close = sync.OnceFunc(func() {
		f.client.CloseIdleConnections()
		srv.Close()
		s.Close()
	})
	t.Cleanup(func() {
		f.close()
		if n := metric(t, f.registry, "canopy_bootstrap_snapshots_running", ""); n != 0 {
			t.Errorf("%v snapshots are counted as running", n)
		}
	})
	return f
}

func (f *fixture) get(t *testing.T, path string, header ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := f.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// metric sums a metric's samples whose label has the given value; empty for all.
func metric(t *testing.T, registry *prometheus.Registry, name, label string) (sum float64) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			matches := label == ""
			for _, pair := range m.GetLabel() {
				matches = matches || pair.GetValue() == label
			}
			if matches {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// wantError checks an error answer.
func wantError(t *testing.T, resp *http.Response, status int, code wire.Code) *wire.Error {
	t.Helper()
	if resp.StatusCode != status {
		t.Errorf("status %d, want %d", resp.StatusCode, status)
	}
	var body struct {
		Error *struct {
			Code      wire.Code
			Message   string
			Retryable *bool
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		t.Fatal(err)
	}
	if body.Error == nil || body.Error.Code != code || body.Error.Message == "" || body.Error.Retryable == nil {
		t.Fatalf("body %+v, want code %s", body.Error, code)
	}
	if retryable := *body.Error.Retryable; retryable != (resp.Header.Get("Retry-After") != "") {
		t.Errorf("retryable %v, Retry-After %q", retryable, resp.Header.Get("Retry-After"))
	}
	return &wire.Error{Code: body.Error.Code, Message: body.Error.Message, Retryable: *body.Error.Retryable}
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	f := setup(t, bootstrap.Config{})
	want := formattest.Encode(f.snapshot)
	for _, tt := range []struct{ accept, coding string }{
		{"", ""}, {"zstd", "zstd"}, {"gzip", ""}, {"zstd;q=0.1, identity;q=0.2", ""}, {"br, zstd;q=0.5", "zstd"},
	} {
		resp := f.get(t, "/v1/rooms/garden/snapshot", "Accept-Encoding", tt.accept)
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Encoding") != tt.coding {
			t.Fatalf("%q: status %d, coding %q", tt.accept, resp.StatusCode, resp.Header.Get("Content-Encoding"))
		}
		if resp.Header.Get("Content-Type") != format.ContentType || resp.Header.Get("Vary") != "Accept-Encoding" {
			t.Errorf("%q: headers %v", tt.accept, resp.Header)
		}
		if got := body(t, resp); string(got) != string(want) {
			t.Errorf("%q: %d bytes, want %d", tt.accept, len(got), len(want))
		}
	}
	if n := metric(t, f.registry, "canopy_bootstrap_snapshots_total", "complete"); n != 5 {
		t.Errorf("%v complete snapshots are counted", n)
	}
	if n := metric(t, f.registry, "canopy_bootstrap_snapshot_bytes_total", ""); n != float64(5*len(want)) {
		t.Errorf("%v bytes are counted, want %d", n, 5*len(want))
	}
}

// body reads a whole answer in its coding.
func body(t *testing.T, resp *http.Response) []byte {
	t.Helper()
	got, err := io.ReadAll(decoded(t, resp))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func decoded(t *testing.T, resp *http.Response) io.Reader {
	t.Helper()
	if resp.Header.Get("Content-Encoding") != "zstd" {
		return resp.Body
	}
	dec, err := zstd.NewReader(resp.Body, zstd.WithDecoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(dec.Close)
	return dec
}

func TestStats(t *testing.T) {
	t.Parallel()
	f := setup(t, bootstrap.Config{})
	resp := f.get(t, "/v1/rooms/garden/stats")
	var got wire.Stats
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if want, _ := f.Stats(t.Context(), "garden"); got != want {
		t.Errorf("stats %+v, want %+v", got, want)
	}
}

func TestRefusedRequests(t *testing.T) {
	t.Parallel()
	f := setup(t, bootstrap.Config{})
	long := strings.Repeat("x", 129)
	for _, route := range []string{"/snapshot", "/stats"} {
		for _, room := range []string{"Garden", "-garden", "g%20arden", "g%2Farden", "%27%3B--", "g%C3%A4rten", long, "garden%0A"} {
			wantError(t, f.get(t, "/v1/rooms/"+room+route), http.StatusBadRequest, wire.CodeBadRequest)
		}
		wantError(t, f.get(t, "/v1/rooms/forest"+route), http.StatusNotFound, wire.CodeForbidden)
	}
	wantError(t, f.get(t, "/v1/rooms/garden"), http.StatusNotFound, wire.CodeBadRequest)
	wantError(t, f.get(t, "/"), http.StatusNotFound, wire.CodeBadRequest)
	wantError(t, f.get(t, "/v1/rooms/garden/snapshot", "Accept-Encoding", "gzip, *;q=0"), http.StatusNotAcceptable, wire.CodeBadRequest)

	resp, err := f.client.Post(f.url+"/v1/rooms/garden/snapshot", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	wantError(t, resp, http.StatusMethodNotAllowed, wire.CodeBadRequest)
	if body(t, f.get(t, "/v1/rooms/garden/snapshot")) == nil {
		t.Error("the service no longer works")
	}
}

func TestAuthorize(t *testing.T) {
	t.Parallel()
	f := setup(t, bootstrap.Config{Authorize: func(_ context.Context, token, room string) error {
		switch {
		case token == "":
			return wire.NewError(wire.CodeUnauthorized, "a token is needed")
		case token == "broken":
			return errors.New("key store: secret detail")
		case token != "for-"+room:
			return wire.ErrUnknownRoom
		}
		return nil
	}})
	for _, route := range []string{"/v1/rooms/garden/snapshot", "/v1/rooms/garden/stats"} {
		resp := f.get(t, route)
		wantError(t, resp, http.StatusUnauthorized, wire.CodeUnauthorized)
		if resp.Header.Get("WWW-Authenticate") != "Bearer" {
			t.Error("401 without WWW-Authenticate")
		}
		wantError(t, f.get(t, route, "Authorization", "Basic for-garden"), http.StatusUnauthorized, wire.CodeUnauthorized)
		wantError(t, f.get(t, route+"?token=for-garden"), http.StatusUnauthorized, wire.CodeUnauthorized)
		wantError(t, f.get(t, route, "Authorization", "Bearer for-forest"), http.StatusNotFound, wire.CodeForbidden)
		e := wantError(t, f.get(t, route, "Authorization", "Bearer broken"), http.StatusInternalServerError, wire.CodeInternal)
		if strings.Contains(e.Message, "secret") {
			t.Errorf("message %q", e.Message)
		}
		for _, scheme := range []string{"Bearer", "bearer"} {
			if resp := f.get(t, route, "Authorization", scheme+" for-garden"); resp.StatusCode != http.StatusOK {
				t.Errorf("%s: status %d", scheme, resp.StatusCode)
			}
		}
	}
	// A stranger cannot tell a room that exists from one that does not.
	a := wantError(t, f.get(t, "/v1/rooms/garden/stats", "Authorization", "Bearer for-forest"), 404, wire.CodeForbidden)
	b := wantError(t, f.get(t, "/v1/rooms/forest/stats", "Authorization", "Bearer for-forest"), 404, wire.CodeForbidden)
	if *a != *b {
		t.Errorf("existing room: %v, other room: %v", a, b)
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	src := &source{snapshot: formattest.Sample()}
	f := setup(t, bootstrap.Config{Source: src})
	for path, want := range map[string]string{"/healthz": `{"status":"ok"}`, "/readyz": `{"status":"ready"}`, "/metrics": "# HELP "} {
		resp := f.get(t, path)
		if text := string(body(t, resp)); resp.StatusCode != http.StatusOK || !strings.Contains(text, want) {
			t.Errorf("%s: status %d, %s", path, resp.StatusCode, text)
		}
	}
	if text := string(body(t, f.get(t, "/metrics"))); !strings.Contains(text, `canopy_bootstrap_http_requests_total{route="/healthz",status="200"} 1`) {
		t.Errorf("metrics:\n%s", text)
	}
	down := setup(t, bootstrap.Config{Source: &source{snapshot: src.snapshot, ready: errors.New("connection refused")}})
	wantError(t, down.get(t, "/readyz"), http.StatusServiceUnavailable, wire.CodeBusy)
	if resp := down.get(t, "/healthz"); resp.StatusCode != http.StatusOK {
		t.Errorf("live although not ready: status %d", resp.StatusCode)
	}
}

// TestStatsTimeout: the answer still gets through when the time for the question is over.
func TestStatsTimeout(t *testing.T) {
	t.Parallel()
	src := &source{snapshot: formattest.Sample(), stats: func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}}
	f := setup(t, bootstrap.Config{Source: src, RequestTimeout: time.Millisecond})
	wantError(t, f.get(t, "/v1/rooms/garden/stats"), http.StatusInternalServerError, wire.CodeInternal)
}

// However many ask for statistics, the source has connections left.
func TestStatsAtATime(t *testing.T) {
	t.Parallel()
	asked, gate := make(chan struct{}, 9), make(chan struct{})
	src := &source{snapshot: formattest.Sample(), stats: func(context.Context) error {
		asked <- struct{}{}
		<-gate
		return nil
	}}
	f := setup(t, bootstrap.Config{Source: src, MaxSnapshots: 1, RequestTimeout: 50 * time.Millisecond})
	first := make(chan int, 1)
	go func() {
		resp, err := f.client.Get(f.url + "/v1/rooms/garden/stats")
		if err != nil {
			first <- 0
			return
		}
		_ = resp.Body.Close()
		first <- resp.StatusCode
	}()
	<-asked
	wantError(t, f.get(t, "/v1/rooms/garden/stats"), http.StatusServiceUnavailable, wire.CodeBusy)
	if len(asked) != 0 {
		t.Error("the source was asked twice at a time")
	}
	close(gate)
	if status := <-first; status != http.StatusOK {
		t.Errorf("the first: %d", status)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for _, cfg := range []bootstrap.Config{
		{}, {Source: &source{}, MaxSnapshots: -1}, {Source: &source{}, StallTimeout: -1},
	} {
		if _, err := bootstrap.New(cfg); err == nil {
			t.Errorf("%+v is accepted", cfg)
		}
	}
}
