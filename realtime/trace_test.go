package realtime_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime"
	"github.com/canopysync/canopy/realtime/wire"
)

// traced is a service whose spans are kept in memory, by name.
func traced(t *testing.T) (*service, func(name string) tracetest.SpanStubs) {
	t.Helper()
	exporter := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))
	s := setupPipe(t, func(cfg *realtime.Config) { cfg.TracerProvider = provider })
	return s, func(name string) (found tracetest.SpanStubs) {
		synctest.Wait()
		for _, span := range exporter.GetSpans() {
			if span.Name == name {
				found = append(found, span)
			}
		}
		return found
	}
}

const (
	traceID = "4bf92f3577b34da6a3ce929d0e0e4736"
	spanID  = "00f067aa0ba902b7"
)

// pushWith pushes one op with something as traceparent.
func (p *peer) pushWith(id string, traceparent any) {
	p.t.Helper()
	data, err := p.codec.Encode(wire.Push{ID: id, Ops: []moveop.Op{p.move()}})
	if err != nil {
		p.t.Fatal(err)
	}
	var message map[string]any
	if err := json.Unmarshal(data, &message); err != nil {
		p.t.Fatal(err)
	}
	message["traceparent"] = traceparent
	if data, err = json.Marshal(message); err != nil {
		p.t.Fatal(err)
	}
	p.raw(data)
}

func TestAPushIsTracedFromItsAuthorToTheSockets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, spans := traced(t)
		p := s.join("plan", 0xa)
		p.pushWith("1", "00-"+traceID+"-"+spanID+"-01")
		expect[wire.Ack](p)
		above := spanID
		for _, name := range []string{"canopy.push", "canopy.apply", "canopy.relay"} {
			found := spans(name)
			if len(found) != 1 {
				t.Fatalf("%d spans %s", len(found), name)
			}
			span := found[0]
			if span.SpanContext.TraceID().String() != traceID || span.Parent.SpanID().String() != above {
				t.Errorf("%s is of trace %s below %s, want %s", name, span.SpanContext.TraceID(), span.Parent.SpanID(), above)
			}
			above = span.SpanContext.SpanID().String()
		}
	})
}

// Whatever stands where a traceparent would be, the push is taken; its trace is one of its own.
func TestATraceParentIsNoReasonToRefuse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, spans := traced(t)
		p := s.join("plan", 0xa)
		wrong := []any{nil, 7, "", "nonsense", []string{traceID}, map[string]int{"a": 1}, "00-" + strings.Repeat("0", 32) + "-" + spanID + "-01",
			strings.Repeat("00-", 1000)}
		for _, value := range wrong {
			p.pushWith("1", value)
			expect[wire.Ack](p)
		}
		for _, span := range spans("canopy.push") {
			if span.Parent.IsValid() {
				t.Errorf("a push is below %v", span.Parent)
			}
		}
		if n := len(spans("canopy.push")); n != len(wrong) {
			t.Errorf("%d pushes", n)
		}
		p.pushWith("2", "00-"+traceID+"-"+spanID+"-00") // whose author does not want it sampled
		expect[wire.Ack](p)
		if n := len(spans("canopy.push")); n != len(wrong) {
			t.Errorf("%d pushes", n)
		}
	})
}

// Of pushes that go into one transaction, that is below the first and linked to the others.
func TestTracesOfGroupCommit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, spans := traced(t)
		s.seed("plan", 1)
		peers := []*peer{s.join("plan", 0xa), s.join("plan", 0xb), s.join("plan", 0xc)}
		gate := make(chan struct{})
		s.store.set(func(f *fakeStore) { f.gate = gate })
		for i, p := range peers {
			p.send(wire.Push{ID: string(rune('0' + i)), Ops: []moveop.Op{p.move()}})
			synctest.Wait()
		}
		close(gate)
		for _, p := range peers {
			expect[wire.Ack](p)
			p.readTo(4)
		}
		pushes := map[trace.SpanID]bool{}
		for _, span := range spans("canopy.push") {
			pushes[span.SpanContext.SpanID()] = true
		}
		applies := spans("canopy.apply")
		if len(pushes) != 3 || len(applies) != 2 {
			t.Fatalf("%d pushes in %d applies", len(pushes), len(applies))
		}
		for _, apply := range applies {
			delete(pushes, apply.Parent.SpanID())
			for _, link := range apply.Links {
				delete(pushes, link.SpanContext.SpanID())
			}
		}
		if len(pushes) != 0 || len(applies[1].Links) != 1 {
			t.Errorf("%d pushes are in no apply, of which one has %d links", len(pushes), len(applies[1].Links))
		}
	})
}

func TestRefusedPushesAreTraced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, spans := traced(t)
		p := s.join("plan", 0xa)
		p.push(1)
		refused := wire.OpError(wire.CodeTooOld, moveop.Timestamp{}, "old")
		s.store.set(func(f *fakeStore) { f.before = func([]moveop.Op) error { return refused } })
		p.send(wire.Push{ID: "x", Ops: []moveop.Op{p.move()}})
		expect[wire.Nack](p)
		for _, name := range []string{"canopy.push", "canopy.apply"} {
			if last := spans(name)[1]; last.Status.Code != codes.Error {
				t.Errorf("%s has status %v", name, last.Status)
			}
		}
		if n := len(spans("canopy.relay")); n != 1 {
			t.Errorf("%d relays", n)
		}
	})
}

// Middleware is told the route, with which it names what it measures, and sockets go through it.
func TestMiddleware(t *testing.T) {
	t.Parallel()
	routes := make(chan string, 10)
	s := setup(t, func(cfg *realtime.Config) {
		cfg.Middleware = func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				next.ServeHTTP(w, r)
				routes <- r.Method + " " + r.Pattern
			})
		}
	})
	s.seed("plan", 1)
	s.join("plan", 0xa)
	get[wire.Stats](s, "/v1/rooms/plan/stats")
	got := []string{<-routes, <-routes} // the socket's is told once it is open, or a little later
	slices.Sort(got)
	if want := []string{"GET /v1/rooms/{room}/stats", "GET /v1/rooms/{room}/ws"}; !slices.Equal(got, want) {
		t.Errorf("routes %q, want %q", got, want)
	}
}
