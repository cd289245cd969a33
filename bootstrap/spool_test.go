package bootstrap_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/canopysync/canopy/bootstrap"
	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/bootstrap/format/formattest"
	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

const snapshotPath = "/v1/rooms/garden/snapshot"

func readBody(t *testing.T, resp *http.Response) []byte {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// bulky is a snapshot of more than any socket buffers.
func bulky() *formattest.Snapshot {
	snap := &formattest.Snapshot{Room: "garden", Epoch: "0193a0e0-0000-7000-8000-00000000cafe", Seq: 160}
	for i := range 160 {
		snap.Values = append(snap.Values, format.ValueRow{
			Node: moveop.NodeID{1, byte(i >> 8), byte(i)}, Key: []byte("text"),
			Value: fmt.Appendf(nil, `"%s"`, strings.Repeat("x", 100_000)), TS: moveop.NewTimestamp(int64(i+1), 0, 7), Seq: int64(i + 1),
		})
	}
	return snap
}

// The next clients get what the first one got, and the database is not asked again.
func TestSpoolServesTheNextClients(t *testing.T) {
	t.Parallel()
	for _, accept := range []string{"identity", "zstd"} {
		t.Run(accept, func(t *testing.T) {
			t.Parallel()
			f := setup(t, bootstrap.Config{SpoolDir: t.TempDir()})
			first := f.get(t, snapshotPath, "Accept-Encoding", accept)
			want := readBody(t, first)
			if etag := first.Header.Get("ETag"); len(etag) < 10 || etag[0] != '"' || first.Header.Get("Accept-Ranges") != "bytes" {
				t.Errorf("headers %v", first.Header)
			}
			for range 3 {
				next := f.get(t, snapshotPath, "Accept-Encoding", accept)
				if next.Header.Get("ETag") != first.Header.Get("ETag") {
					t.Error("another ETag")
				}
				if !bytes.Equal(readBody(t, next), want) {
					t.Error("other bytes")
				}
			}
			next := f.get(t, snapshotPath, "Accept-Encoding", accept)
			if _, err := format.Verify(decoded(t, next)); err != nil {
				t.Error(err)
			}
			if n := metric(t, f.registry, "canopy_bootstrap_spooled_total", ""); n != 1 {
				t.Errorf("%v snapshots were taken", n)
			}
		})
	}
}

// A part is of the very bytes whose ETag the client names, or it is not a part.
func TestSpoolRange(t *testing.T) {
	t.Parallel()
	f := setup(t, bootstrap.Config{SpoolDir: t.TempDir()})
	first := f.get(t, snapshotPath, "Accept-Encoding", "zstd")
	etag, want := first.Header.Get("ETag"), readBody(t, first)
	from := len(want) / 2
	rest := f.get(t, snapshotPath, "Accept-Encoding", "zstd", "Range", fmt.Sprintf("bytes=%d-", from), "If-Range", etag)
	if rest.StatusCode != http.StatusPartialContent || rest.Header.Get("ETag") != etag {
		t.Errorf("status %d, headers %v", rest.StatusCode, rest.Header)
	}
	if !bytes.Equal(readBody(t, rest), want[from:]) {
		t.Error("other bytes")
	}
	other := f.get(t, snapshotPath, "Accept-Encoding", "zstd", "Range", "bytes=1-", "If-Range", `"another"`)
	if other.StatusCode != http.StatusOK || !bytes.Equal(readBody(t, other), want) {
		t.Errorf("status %d", other.StatusCode)
	}
	// The same range of another coding is of something else.
	plain := f.get(t, snapshotPath, "Accept-Encoding", "identity", "Range", "bytes=1-", "If-Range", etag)
	if plain.StatusCode != http.StatusOK {
		t.Errorf("status %d", plain.StatusCode)
	}
	beyond := f.get(t, snapshotPath, "Accept-Encoding", "zstd", "Range", "bytes=1000000-")
	if e := wire.ReadError(beyond); beyond.StatusCode != http.StatusRequestedRangeNotSatisfiable || e.Code != wire.CodeBadRequest ||
		beyond.Header.Get("Content-Encoding") != "" || beyond.Header.Get("Content-Range") != fmt.Sprintf("bytes */%d", len(want)) {
		t.Errorf("status %d, %v, headers %v", beyond.StatusCode, e, beyond.Header)
	}
	_ = readBody(t, beyond)
	another := f.get(t, snapshotPath, "Accept-Encoding", "zstd", "If-Match", `"another"`)
	if e := wire.ReadError(another); another.StatusCode != http.StatusPreconditionFailed || e.Code != wire.CodeBadRequest {
		t.Errorf("status %d, %v", another.StatusCode, e)
	}
}

// ended tells when the transaction of a snapshot has.
type ended struct {
	*source
	once sync.Once
	done chan struct{}
}

func (s *ended) Snapshot(ctx context.Context, room string, f func(format.Snapshot) error) error {
	defer s.once.Do(func() { close(s.done) })
	return s.source.Snapshot(ctx, room, f)
}

// A client that reads nothing holds no transaction open.
func TestSpoolOutlivesTransaction(t *testing.T) {
	t.Parallel()
	src := &ended{source: &source{snapshot: bulky()}, done: make(chan struct{})}
	f := setupSource(t, src, bootstrap.Config{SpoolDir: t.TempDir()})
	resp := f.get(t, snapshotPath)
	<-src.done
	if n := atomic.LoadInt32(&src.open); n != 0 {
		t.Errorf("%d transactions are open", n)
	}
	if _, err := format.Verify(resp.Body); err != nil {
		t.Error(err)
	}
}

// Who was cut off can go on, although nobody else read the snapshot meanwhile.
func TestSpoolOutlivesClient(t *testing.T) {
	t.Parallel()
	f := setup(t, bootstrap.Config{Source: &source{snapshot: bulky()}, SpoolDir: t.TempDir()})
	resp := f.get(t, snapshotPath)
	head := make([]byte, 100_000)
	if _, err := io.ReadFull(resp.Body, head); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	rest := f.get(t, snapshotPath, "Range", "bytes=100000-", "If-Range", resp.Header.Get("ETag"))
	if rest.StatusCode != http.StatusPartialContent {
		t.Fatalf("status %d", rest.StatusCode)
	}
	if _, err := format.Verify(io.MultiReader(bytes.NewReader(head), rest.Body)); err != nil {
		t.Error(err)
	}
}

// A snapshot that is too far behind the room is not given to new clients, but those who have begun with
// it may end.
func TestSpoolGoesStale(t *testing.T) {
	t.Parallel()
	src := &source{snapshot: formattest.Sample()}
	f := setup(t, bootstrap.Config{Source: src, SpoolDir: t.TempDir(), SpoolTail: 5})
	first := f.get(t, snapshotPath)
	want := readBody(t, first)
	src.ahead = 5
	if next := f.get(t, snapshotPath); next.Header.Get("ETag") != first.Header.Get("ETag") {
		t.Error("a snapshot that is not too far behind was not used")
	}
	src.ahead = 6
	next := f.get(t, snapshotPath)
	if next.Header.Get("ETag") == first.Header.Get("ETag") {
		t.Error("a snapshot that is too far behind was used")
	}
	readBody(t, next)
	rest := f.get(t, snapshotPath, "Range", "bytes=10-", "If-Range", first.Header.Get("ETag"))
	if rest.StatusCode != http.StatusPartialContent || !bytes.Equal(readBody(t, rest), want[10:]) {
		t.Errorf("status %d", rest.StatusCode)
	}
}

// What does not fit into its space is served straight from the database, at the latest the next time.
func TestSpoolTooSmall(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]bootstrap.Config{
		"from the first byte":       {SpoolDir: t.TempDir(), SpoolBytes: 10},
		"in the middle":             {SpoolDir: t.TempDir(), SpoolBytes: 1 << 20},
		"no directory for spooling": {SpoolDir: t.TempDir() + "/none"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg.Source = &source{snapshot: bulky()}
			f := setup(t, cfg)
			_, err := format.Verify(f.get(t, snapshotPath).Body)
			if name != "in the middle" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, format.ErrTruncated) {
				t.Errorf("error %v", err)
			}
			if _, err := format.Verify(f.get(t, snapshotPath).Body); err != nil {
				t.Error(err)
			}
		})
	}
}

// Older files make room for newer ones.
func TestSpoolIsBounded(t *testing.T) {
	t.Parallel()
	size := int64(len(formattest.Encode(formattest.Sample())))
	src := &source{snapshot: formattest.Sample()}
	f := setup(t, bootstrap.Config{Source: src, SpoolDir: t.TempDir(), SpoolTail: 1, SpoolBytes: 2*size + size/2})
	var tags []string
	src.ahead = 2 // every snapshot is too far behind
	for range 3 {
		resp := f.get(t, snapshotPath)
		readBody(t, resp)
		tags = append(tags, resp.Header.Get("ETag"))
	}
	for i, want := range []int{http.StatusOK, http.StatusPartialContent} {
		rest := f.get(t, snapshotPath, "Range", "bytes=10-", "If-Range", tags[2*i])
		if readBody(t, rest); rest.StatusCode != want {
			t.Errorf("status %d for snapshot %d, want %d", rest.StatusCode, 2*i, want)
		}
	}
}

// A snapshot that failed is never found whole, nor found again.
func TestSpoolBrokenOff(t *testing.T) {
	t.Parallel()
	src := &source{snapshot: breaking{Snapshot: formattest.Sample(), tag: format.TagOps}}
	f := setup(t, bootstrap.Config{Source: src, SpoolDir: t.TempDir()})
	for range 2 {
		// Where it breaks before the reader has come to the first byte, the answer is an error instead.
		resp := f.get(t, snapshotPath)
		if _, err := format.Verify(resp.Body); resp.StatusCode == http.StatusOK && !errors.Is(err, format.ErrTruncated) {
			t.Errorf("error %v", err)
		} else if resp.StatusCode != http.StatusOK && resp.StatusCode < http.StatusInternalServerError {
			t.Errorf("status %s", resp.Status)
		}
	}
	if n := metric(t, f.registry, "canopy_bootstrap_spooled_total", ""); n != 0 {
		t.Errorf("%v snapshots were spooled", n)
	}
}

// Close leaves nothing behind.
func TestSpoolCleansUp(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := setup(t, bootstrap.Config{SpoolDir: dir})
	readBody(t, f.get(t, snapshotPath))
	f.close()
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 0 {
		t.Errorf("left: %v, %v", files, err)
	}
}
