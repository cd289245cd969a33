//go:build unix

package bootstrap_test

import (
	"context"
	"encoding/binary"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/canopysync/canopy/bootstrap"
	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/bootstrap/format/formattest"
	"github.com/canopysync/canopy/moveop"
)

// prepared is a Snapshot whose sections are there already, to be written a row at a time like those
// of a database.
type prepared struct {
	*formattest.Snapshot
	rows [][]byte
}

func (p prepared) Copy(ctx context.Context, tag int, w io.Writer) (int64, error) {
	if tag != format.TagNodes {
		return p.Snapshot.Copy(ctx, tag, w)
	}
	if _, err := w.Write(formattest.AppendCopyHeader(nil)); err != nil {
		return 0, err
	}
	for i, row := range p.rows {
		if _, err := w.Write(row); err != nil {
			return int64(i), err
		}
	}
	_, err := w.Write(formattest.AppendCopyTrailer(nil))
	return int64(len(p.rows)), err
}

// BenchmarkSnapshot is the service without the database: what it adds to COPY.
func BenchmarkSnapshot(b *testing.B) {
	p := prepared{Snapshot: formattest.Sample()}
	size := 0
	for i := range 200_000 {
		var id, parent moveop.NodeID
		binary.BigEndian.PutUint64(id[8:], uint64(i)*0x9e3779b97f4a7c15)
		binary.BigEndian.PutUint64(parent[8:], uint64(i/20)*0x9e3779b97f4a7c15)
		ts := moveop.NewTimestamp(1_700_000_000_000+int64(i), 0, 0x1234)
		p.rows = append(p.rows, formattest.AppendCopyRow(nil, id, parent, "a0V3", ts, int64(i), int64(0), nil))
		size += len(p.rows[i])
	}
	s, err := bootstrap.New(bootstrap.Config{Source: &source{snapshot: p}})
	if err != nil {
		b.Fatal(err)
	}
	srv := httptest.NewServer(s.Handler())
	defer srv.Close()
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	defer client.CloseIdleConnections()
	for _, coding := range []string{"identity", "zstd"} {
		b.Run("coding="+coding, func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			var sent int64
			for b.Loop() {
				sent = download(b, client, srv.URL, coding)
			}
			b.ReportMetric(float64(sent)/float64(size), "sent/raw")
		})
	}
}

func download(b *testing.B, client *http.Client, url, coding string) int64 {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, url+"/v1/rooms/garden/snapshot", nil)
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Accept-Encoding", coding)
	resp, err := client.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		b.Fatalf("status %d, %v", resp.StatusCode, err)
	}
	return n
}
