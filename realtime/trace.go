package realtime

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/canopysync/canopy/realtime/wire"
)

// tracing makes the spans of a push, each in the trace that the push came with:
//
//   - canopy.push, from when it is handed to the committer until it is answered,
//   - canopy.apply below it, for the transaction; of pushes that go into one together, it is below the first
//     and linked to the others,
//   - canopy.relay below that, until the ops are in the tail, from which all sockets of the room get them.
//
// Without a provider there are no spans, and nothing is spent on them.
type tracing struct{ tracer trace.Tracer }

// maxLinks bounds the commits that one relay is linked to.
const maxLinks = 32

func newTracing(provider trace.TracerProvider) tracing {
	if provider == nil {
		return tracing{}
	}
	return tracing{provider.Tracer("github.com/canopysync/canopy/realtime")}
}

// arrived puts a push into the trace that its message names, if any.
func (t tracing) arrived(ctx context.Context, push wire.Push) context.Context {
	if t.tracer == nil || push.TraceParent == "" {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": push.TraceParent})
}

// push begins the span of a job, which ends right before its answer.
func (t tracing) push(ctx context.Context, room string, j *job) {
	if t.tracer == nil {
		return
	}
	ctx, span := t.tracer.Start(ctx, "canopy.push", trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(attribute.String("canopy.room", room), attribute.Int("canopy.ops", len(j.ops))))
	j.traces = []trace.Link{trace.LinkFromContext(ctx)}
	done := j.done
	j.done = func(applied wire.Applied, err error) {
		end(span, err)
		done(applied, err)
	}
}

// apply begins the span of a transaction for a job, or for several that were put together.
func (t tracing) apply(ctx context.Context, room string, j *job) (context.Context, func(error)) {
	if t.tracer == nil || len(j.traces) == 0 {
		return ctx, func(error) {}
	}
	ctx, span := t.below(ctx, "canopy.apply", j.traces)
	span.SetAttributes(attribute.String("canopy.room", room), attribute.Int("canopy.ops", len(j.ops)),
		attribute.Int("canopy.pushes", len(j.traces)))
	return ctx, func(err error) { end(span, err) }
}

// below begins a span below the first of others, linked to the rest of them.
func (t tracing) below(ctx context.Context, name string, above []trace.Link) (context.Context, trace.Span) {
	ctx = trace.ContextWithSpanContext(ctx, above[0].SpanContext)
	return t.tracer.Start(ctx, name, trace.WithLinks(above[1:]...))
}

// committed links the next relay to the transaction of ctx.
func (t tracing) committed(ctx context.Context, h *hub) {
	if t.tracer == nil || !trace.SpanContextFromContext(ctx).IsSampled() {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.traces) < maxLinks {
		h.traces = append(h.traces, trace.LinkFromContext(ctx))
	}
}

// relay begins the span of a relay of what was committed here since the last one.
func (t tracing) relay(ctx context.Context, h *hub) (context.Context, func()) {
	if t.tracer == nil {
		return ctx, func() {}
	}
	h.mu.Lock()
	above, sockets := h.traces, len(h.members)
	h.traces = nil
	h.mu.Unlock()
	if len(above) == 0 {
		return ctx, func() {}
	}
	ctx, span := t.below(ctx, "canopy.relay", above)
	span.SetAttributes(attribute.String("canopy.room", h.room), attribute.Int("canopy.sockets", sockets))
	return ctx, func() { span.End() }
}

func end(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
		span.SetAttributes(attribute.String("canopy.code", string(wire.AsError(err).Code)))
	}
	span.End()
}
