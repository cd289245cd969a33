package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/pgfuncs/pgtest"
)

// spanCollector takes spans as an OpenTelemetry collector does.
type spanCollector struct {
	mu       sync.Mutex
	spans    []*tracepb.Span
	services []string
}

func (c *spanCollector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var request collector.ExportTraceServiceRequest
	if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(body, &request) != nil {
		http.Error(w, "not spans", http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range request.ResourceSpans {
		for _, attribute := range resource.Resource.Attributes {
			if attribute.Key == "service.name" {
				c.services = append(c.services, attribute.Value.GetStringValue())
			}
		}
		for _, scope := range resource.ScopeSpans {
			c.spans = append(c.spans, scope.Spans...)
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// paths are the names of spans of a trace, each behind those of the spans above it.
func (c *spanCollector) paths(trace string) (paths []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	byID := map[string]*tracepb.Span{}
	for _, span := range c.spans {
		byID[string(span.SpanId)] = span
	}
	for _, span := range c.spans {
		if hex.EncodeToString(span.TraceId) != trace {
			continue
		}
		path := span.Name
		for above := byID[string(span.ParentSpanId)]; above != nil; above = byID[string(above.ParentSpanId)] {
			path = above.Name + " > " + path
		}
		paths = append(paths, path)
	}
	return paths
}

// TestTracesReachACollector runs both services as an operator would, and follows a push and a snapshot.
func TestTracesReachACollector(t *testing.T) {
	t.Parallel()
	sink := new(spanCollector)
	server := httptest.NewServer(sink)
	defer server.Close()
	vars := []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + server.URL, "OTEL_BSP_SCHEDULE_DELAY=50"}
	database := pgtest.New(t)
	traces := map[string]string{}
	for i, name := range []string{"realtime", "bootstrap"} {
		p := startIn(t, vars, "serve", name, "--addr=127.0.0.1:0", "--insecure-no-auth", "--json", "--database-url", database)
		var ready serviceReady
		parseJSON(t, p.line(), &ready)
		traces[name] = fmt.Sprintf("4bf92f3577b34da6a3ce929d0e0e473%d", i)
		method, path, body := http.MethodGet, "/v1/rooms/plan/snapshot", ""
		if name == "realtime" {
			ts := moveop.NewTimestamp(time.Now().UnixMilli(), 0, 7)
			method, path = http.MethodPost, "/v1/rooms/plan/ops"
			body = fmt.Sprintf(`{"replica":"0000000000000007","ops":[{"kind":"move","ts":%q,"node":"00000000-0000-0000-0000-00000000000a",
				"parent":%q,"order_key":"a0","known":0}]}`, ts, moveop.Root)
		}
		req, err := http.NewRequestWithContext(t.Context(), method, ready.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("traceparent", "00-"+traces[name]+"-00f067aa0ba902b7-01")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var answer bytes.Buffer
		_, _ = answer.ReadFrom(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d %s", path, resp.StatusCode, answer.String())
		}
		get(t, ready.URL+"/readyz") // which is not traced
		p.signal(syscall.SIGTERM)
		if code := p.wait(); code != exitOK {
			t.Errorf("exit code %d: %s", code, p.stderr.String())
		}
	}
	push, snapshot := sink.paths(traces["realtime"]), sink.paths(traces["bootstrap"])
	const root = "POST /v1/rooms/{room}/ops > canopy.push"
	for _, want := range []string{root, root + " > canopy.apply", root + " > canopy.apply > canopy.relay"} {
		if !slices.Contains(push, want) {
			t.Errorf("the push is %q, without %q", push, want)
		}
	}
	if !slices.ContainsFunc(push, func(path string) bool {
		return strings.HasPrefix(path, root+" > canopy.apply > ") && strings.Contains(strings.ToLower(path), "select")
	}) {
		t.Errorf("the push is %q, without a statement in its transaction", push)
	}
	if !slices.Contains(snapshot, "GET /v1/rooms/{room}/snapshot") || len(snapshot) < 2 {
		t.Errorf("the snapshot is %q", snapshot)
	}
	for _, span := range sink.spans {
		if strings.Contains(span.Name, "readyz") {
			t.Errorf("there is a span %s", span.Name)
		}
	}
	if !slices.Contains(sink.services, "canopy-realtime") || !slices.Contains(sink.services, "canopy-bootstrap") {
		t.Errorf("services %v", sink.services)
	}
}

func TestTracingIsOffUnlessItIsWanted(t *testing.T) {
	t.Parallel()
	type vars map[string]string
	for _, tc := range []struct {
		vars vars
		on   bool
		err  bool
	}{
		{nil, false, false},
		{vars{"OTEL_SERVICE_NAME": "x"}, false, false},
		{vars{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, true, false},
		{vars{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, true, false},
		{vars{"OTEL_TRACES_EXPORTER": "otlp"}, true, false},
		{vars{"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, false, false},
		{vars{"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, false, false},
		{vars{"OTEL_TRACES_EXPORTER": "zipkin"}, false, true},
		{vars{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, true, false},
		{vars{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, false, true},
		{vars{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, false, true},
	} {
		on, err := tracingWanted(&Env{LookupEnv: func(name string) (string, bool) { v, ok := tc.vars[name]; return v, ok }})
		if on != tc.on || (err != nil) != tc.err {
			t.Errorf("%v: %v, %v", tc.vars, on, err)
		}
	}
}

// A collector that is not there is no reason to fail.
func TestACollectorThatIsNotThere(t *testing.T) {
	t.Parallel()
	p := startIn(t, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_TIMEOUT=500"},
		"serve", "realtime", "--addr=127.0.0.1:0", "--insecure-no-auth", "--json", "--database-url", pgtest.New(t))
	var ready serviceReady
	parseJSON(t, p.line(), &ready)
	get(t, ready.URL+"/readyz")
	p.signal(syscall.SIGTERM)
	if code := p.wait(); code != exitOK {
		t.Errorf("exit code %d: %s", code, p.stderr.String())
	}
}
