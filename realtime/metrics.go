package realtime

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

const namespace = "canopy_realtime_"

// metrics are the server's counters. None is labelled by room, replica or user, whose number has no
// bound.
type metrics struct {
	rooms      prometheus.Gauge
	lingering  prometheus.Gauge
	sockets    prometheus.Gauge
	accepted   prometheus.Counter
	closed     *prometheus.CounterVec // by close code
	pushes     *prometheus.CounterVec // by result: ack or the code of the nack
	pushedOps  prometheus.Counter
	commits    prometheus.Histogram
	grouped    prometheus.Histogram
	relayed    prometheus.Counter
	sentFrames *prometheus.CounterVec // by what they hold
	sentBytes  prometheus.Counter
	catchUps   prometheus.Counter
	resyncs    *prometheus.CounterVec // by reason
	panics     prometheus.Counter
	storeFails prometheus.Counter
	requests   *prometheus.CounterVec // by route and status
	limited    *prometheus.CounterVec // by limit
	hintsLive  prometheus.Gauge
	hintsHeard prometheus.Counter
	processes  prometheus.Gauge

	compactions *prometheus.CounterVec // by result
	foldedOps   prometheus.Counter
	purged      prometheus.Counter
	compacted   prometheus.Gauge

	transportSent, transportHeard, transportFails, transportOps prometheus.Counter
}

// registration makes metrics and registers them; it keeps the first error.
type registration struct {
	registry prometheus.Registerer
	err      error
}

func (r *registration) add(c prometheus.Collector) {
	if err := r.registry.Register(c); err != nil && r.err == nil {
		r.err = fmt.Errorf("register metrics: %w", err)
	}
}

func (r *registration) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: namespace + name, Help: help})
	r.add(c)
	return c
}

func (r *registration) counters(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: namespace + name, Help: help}, labels)
	r.add(c)
	return c
}

func (r *registration) gauge(name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: namespace + name, Help: help})
	r.add(g)
	return g
}

func (r *registration) histogram(name, help string, buckets []float64) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: namespace + name, Help: help, Buckets: buckets})
	r.add(h)
	return h
}

func registerMetrics(registry prometheus.Registerer) (*metrics, error) {
	r := &registration{registry: registry}
	m := &metrics{
		rooms:      r.gauge("rooms", "Rooms in memory, in use or lingering."),
		lingering:  r.gauge("rooms_lingering", "Unused rooms kept in memory for those who come back."),
		sockets:    r.gauge("sockets", "Open sockets."),
		accepted:   r.counter("sockets_accepted_total", "Sockets accepted."),
		closed:     r.counters("sockets_closed_total", "Sockets closed, by the server's close code.", "code"),
		pushes:     r.counters("pushes_total", "Pushes answered, by result: ack or the code of the nack.", "result"),
		pushedOps:  r.counter("pushed_ops_total", "Operations acknowledged, including duplicates."),
		commits:    r.histogram("commit_seconds", "Duration of one apply.", prometheus.ExponentialBuckets(0.0005, 2, 16)),
		grouped:    r.histogram("commit_pushes", "Pushes in one apply.", prometheus.ExponentialBuckets(1, 2, 10)),
		relayed:    r.counter("relayed_ops_total", "Operations taken from the committed log, once per room."),
		sentFrames: r.counters("sent_frames_total", "Frames sent, by kind.", "kind"),
		sentBytes:  r.counter("sent_bytes_total", "Bytes of frames sent."),
		catchUps:   r.counter("catch_up_reads_total", "Reads of the log for sockets that were behind the tail."),
		resyncs:    r.counters("resyncs_total", "Cursors that could not be served, by reason.", "reason"),
		panics:     r.counter("panics_total", "Panics recovered; each one is a bug to report."),
		storeFails: r.counter("store_failures_total", "Store calls that failed, except refusals."),
		requests:   r.counters("http_requests_total", "HTTP requests, by route and status.", "route", "status"),
		limited:    r.counters("limited_total", "Sockets turned away and pushes delayed, by limit.", "limit"),
		hintsLive:  r.gauge("hints_live", "1 while messages of other processes arrive, 0 while their commits are found by polling."),
		processes:  r.gauge("processes", "Other processes on the same database that this one hears."),
		hintsHeard: r.counter("hints_heard_total", "Hints of commits unknown to this process, in rooms that it has in use."),

		compactions: r.counters("compactions_total", "Rounds of compaction of all rooms, by result: done, failed, or busy if another process was compacting; and room_failed for each room that failed.", "result"),
		foldedOps:   r.counter("compacted_ops_total", "Operations removed from logs by compaction."),
		purged:      r.counter("purged_nodes_total", "Deleted nodes purged by compaction."),
		compacted:   r.gauge("compacted_timestamp_seconds", "Time when this process last finished compacting all rooms; 0 for never."),

		transportSent:  r.counter("transport_sent_bytes_total", "Bytes sent to other processes."),
		transportHeard: r.counter("transport_heard_bytes_total", "Bytes heard from other processes, about rooms in use here."),
		transportOps:   r.counter("transport_ops_total", "Operations heard from other processes, and so not read from the log."),
		transportFails: r.counter("transport_failures_total", "Batches for other processes that could not be sent and are retried."),
	}
	return m, r.err
}
