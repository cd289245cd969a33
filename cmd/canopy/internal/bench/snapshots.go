package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"runtime"
	"time"

	"github.com/canopysync/canopy/realtime/wire"
)

// snapshots compares the bootstrap service with what the database gives by itself: rows a second of a
// snapshot, to nowhere, and how much memory that takes.
func (b *clients) snapshots(ctx context.Context) ([]Result, error) {
	copyRows, by := b.copyRows()
	rows := float64(b.c.Nodes)
	var most int64 // of the service's heap
	name := fmt.Sprintf("a snapshot streamed, %s nodes, not compressed", count(b.c.Nodes))
	medians, rounds, err := b.c.alternate(ctx, name,
		func(ctx context.Context) (float64, time.Duration, error) {
			begin := time.Now()
			err := copyRows(ctx)
			took := time.Since(begin)
			return rows / took.Seconds(), took, err
		},
		func(ctx context.Context) (float64, time.Duration, error) {
			begin := time.Now()
			heap, err := b.stream(ctx)
			took := time.Since(begin)
			most = max(most, heap)
			return rows / took.Seconds(), took, err
		})
	if err != nil {
		return nil, err
	}
	const flat = 16e6
	return []Result{
		rate(name, "rows/s", "the same COPY by "+by+" to nowhere", 0.9, medians[0], medians[1], rounds),
		absolute("heap of the service and its client beyond what it was before, at most, while that is streamed", "B", flat, float64(most), rounds),
	}, nil
}

// copyRows returns a COPY of the room's nodes to nowhere, by psql or, where that is not installed, by pgx.
func (b *clients) copyRows() (run func(ctx context.Context) error, by string) {
	query := fmt.Sprintf(`copy (select node, parent, order_key, ts, seq, known, cause from canopy.nodes
		where room_id = (select room_id from canopy.rooms where name = '%s') order by node) to stdout (format binary)`, b.room.name)
	psql, err := exec.LookPath("psql")
	if err == nil {
		return func(ctx context.Context) error {
			cmd := exec.CommandContext(ctx, psql, "-X", "-q", "-d", b.pool.Config().ConnString(), "-c", query)
			if err := cmd.Run(); err != nil { // its output goes to the null device
				return fmt.Errorf("psql: %w", err)
			}
			return nil
		}, "psql"
	}
	return func(ctx context.Context) error {
		conn, err := b.pool.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release()
		_, err = conn.Conn().PgConn().CopyTo(ctx, io.Discard, query)
		return err
	}, "pgx"
}

// stream reads a snapshot, and returns by how much the heap was larger than before, at most.
func (b *clients) stream(ctx context.Context) (grown int64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.bootstrap+"/v1/rooms/"+b.room.name+"/snapshot", nil)
	if err != nil {
		return 0, err
	}
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	before := heap()
	var m runtime.MemStats
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, fmt.Errorf("read snapshot: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, wire.ReadError(resp)
	}
	for {
		n, err := io.CopyN(io.Discard, resp.Body, 8<<20)
		if runtime.ReadMemStats(&m); int64(m.HeapAlloc) > before {
			grown = max(grown, int64(m.HeapAlloc)-before)
		}
		if n < 8<<20 {
			if err == io.EOF {
				err = nil
			}
			return grown, err
		}
	}
}
