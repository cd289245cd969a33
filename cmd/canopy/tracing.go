package main

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/exaring/otelpgx"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/canopysync/canopy/pgfuncs"
)

// flushTimeout is the time at the end to send the spans that are left.
const flushTimeout = 5 * time.Second

// tracing sends spans of a service to an OpenTelemetry collector. A nil one makes none.
type tracing struct{ provider *sdktrace.TracerProvider }

// newTracing reads OpenTelemetry's own variables, most of which its libraries read by themselves. Tracing is on if they
// name an exporter or an endpoint.
func newTracing(ctx context.Context, env *Env, service string, log *slog.Logger) (*tracing, error) {
	on, err := tracingWanted(env)
	if err != nil || !on {
		return nil, err
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, usagef("OpenTelemetry: %v", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("spans are lost", "error", err) }))
	return tracingTo(ctx, service, sdktrace.WithBatcher(exporter))
}

func tracingWanted(env *Env) (bool, error) {
	get := func(name string) string {
		value, _ := env.LookupEnv(name)
		return value
	}
	exporter := get("OTEL_TRACES_EXPORTER")
	endpoint := get("OTEL_EXPORTER_OTLP_ENDPOINT") + get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
	protocol := get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
	if protocol == "" {
		protocol = get("OTEL_EXPORTER_OTLP_PROTOCOL")
	}
	switch {
	case strings.EqualFold(get("OTEL_SDK_DISABLED"), "true"), exporter == "none", exporter == "" && endpoint == "":
		return false, nil
	case exporter != "" && exporter != "otlp":
		return false, usagef("OTEL_TRACES_EXPORTER is %q: only otlp and none are supported", exporter)
	case protocol != "" && protocol != "http/protobuf":
		return false, usagef("the OTLP protocol is %q: only http/protobuf is supported", protocol)
	}
	return true, nil
}

// tracingTo makes spans for a processor. What OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME say goes before
// the name of the service.
func tracingTo(ctx context.Context, service string, to sdktrace.TracerProviderOption) (*tracing, error) {
	about, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", "canopy-"+service), attribute.String("service.version", readBuild().Version)),
		resource.WithTelemetrySDK(), resource.WithHost(), resource.WithFromEnv())
	if err != nil {
		return nil, usagef("OpenTelemetry: %v", err)
	}
	return &tracing{sdktrace.NewTracerProvider(to, sdktrace.WithResource(about))}, nil
}

// stop sends the remaining spans. Failing to is no failure of the service.
func (t *tracing) stop(ctx context.Context) {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		otel.Handle(err)
	}
}

// spans returns a nil interface, not a nil pointer, without tracing.
func (t *tracing) spans() trace.TracerProvider {
	if t == nil {
		return nil
	}
	return t.provider
}

// database traces statements within a traced operation, without their arguments.
func (t *tracing) database() []pgfuncs.Option {
	if t == nil {
		return nil
	}
	return []pgfuncs.Option{pgfuncs.WithTracer(otelpgx.NewTracer(
		otelpgx.WithTracerProvider(t.provider), otelpgx.WithMeterProvider(noop.NewMeterProvider())))}
}

// requests traces HTTP requests, except sockets, which last for hours, and health checks and metrics, which come all
// the time.
func (t *tracing) requests() middleware {
	if t == nil {
		return nil
	}
	return otelhttp.NewMiddleware("request",
		otelhttp.WithTracerProvider(t.provider), otelhttp.WithMeterProvider(noop.NewMeterProvider()),
		otelhttp.WithPropagators(propagation.TraceContext{}),
		otelhttp.WithFilter(func(r *http.Request) bool {
			return strings.HasPrefix(r.URL.Path, "/v1/") && !strings.HasSuffix(r.URL.Path, "/ws")
		}),
		otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string { return r.Method + " " + r.Pattern }))
}
