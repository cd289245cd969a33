package bootstrap

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are the server's metrics. None is labelled by room or user, whose number is unbounded.
type metrics struct {
	running   prometheus.Gauge
	snapshots *prometheus.CounterVec // by result
	seconds   prometheus.Histogram
	raw, sent prometheus.Counter
	spools    prometheus.Counter
	requests  *prometheus.CounterVec // by route and status
	panics    prometheus.Counter
}

func newMetrics(registry prometheus.Registerer) *metrics {
	f := promauto.With(registry)
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: "canopy_bootstrap_" + name, Help: help})
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: "canopy_bootstrap_" + name, Help: help}, labels)
	}
	return &metrics{
		running: f.NewGauge(prometheus.GaugeOpts{
			Name: "canopy_bootstrap_snapshots_running", Help: "Snapshots being streamed.",
		}),
		snapshots: counters("snapshots_total", "Snapshots requested, by result.", "result"),
		seconds: f.NewHistogram(prometheus.HistogramOpts{
			Name: "canopy_bootstrap_snapshot_seconds", Help: "Duration of complete snapshots.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 18),
		}),
		raw:      counter("snapshot_bytes_total", "Bytes of snapshots before compression."),
		sent:     counter("sent_bytes_total", "Bytes of snapshots after compression."),
		spools:   counter("spooled_total", "Snapshots written to a file, for any number of clients."),
		requests: counters("http_requests_total", "HTTP requests, by route and status.", "route", "status"),
		panics:   counter("panics_total", "Panics recovered; each one is a bug to report."),
	}
}

func (m *metrics) request(route string, status int) {
	m.requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
}
