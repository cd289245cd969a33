package client_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/bootstrap/format/formattest"
	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
)

// cutting is a bootstrap service that breaks every answer off after some bytes, and counts them.
type cutting struct {
	stream []byte
	etag   string
	length int  // of what is answered before the connection is cut
	other  bool // after the first cut, there is another snapshot

	mu           sync.Mutex
	whole, parts int // answers
}

func (c *cutting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	etag := c.etag
	if c.other && c.whole+c.parts > 0 {
		etag = `"another"`
	}
	w.Header().Set("ETag", etag)
	w.Header().Set("Content-Encoding", "zstd")
	part := r.Header.Get("Range") != "" && r.Header.Get("If-Range") == etag
	if part {
		c.parts++
	} else {
		c.whole++
	}
	length := c.length
	if c.other && etag != c.etag {
		length = len(c.stream) // whole, at last
	}
	http.ServeContent(&cut{w, length}, r, "", time.Time{}, bytes.NewReader(c.stream))
}

// cut is an answer of which only so many bytes get through.
type cut struct {
	http.ResponseWriter
	left int
}

func (c *cut) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p[:min(len(p), c.left)])
	if c.left -= n; n < len(p) && err == nil {
		_ = http.NewResponseController(c.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, err
}

// compressed is the snapshot that the server would send now.
func (s *server) compressed(t testing.TB) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/v1/rooms/garden/snapshot", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept-Encoding", "zstd")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	stream, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func TestCutDownload(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		etag  string
		other bool
		whole int // answers with the whole
	}{
		"goes on where it was":              {`"one"`, false, 1},
		"starts over with another snapshot": {`"one"`, true, 3},
		"starts over where it cannot go on": {`W/"one"`, true, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := planted(t)
			service := &cutting{stream: s.compressed(t), etag: tt.etag, length: 50, other: tt.other}
			web := httptest.NewServer(service)
			t.Cleanup(web.Close)
			opts := s.options()
			opts.BootstrapURL = web.URL
			c := open(t, offline(t), opts)
			s.synced(t, c)
			if got := strings.Fields(titles(t, c)); len(got) != 3 {
				t.Errorf("the titles are %v", got)
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			service.mu.Lock()
			defer service.mu.Unlock()
			if service.whole != tt.whole || !tt.other && service.parts != (len(service.stream)-1)/service.length {
				t.Errorf("%d answers with the whole of %d bytes, %d with a part", service.whole, len(service.stream), service.parts)
			}
		})
	}
}

// inMemory answers with a snapshot until the request is given up.
type inMemory struct {
	stream []byte
	asked  int
}

func (m *inMemory) RoundTrip(r *http.Request) (*http.Response, error) {
	m.asked++
	body := io.NopCloser(&untilDone{r.Context(), bytes.NewReader(m.stream)})
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: body, Request: r}, nil
}

type untilDone struct {
	ctx  context.Context
	from io.Reader
}

func (u *untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.from.Read(p)
}

// Loading waits for the edits of the application, and the server must not be given up for it.
func TestALongEditDoesNotCutADownloadOff(t *testing.T) {
	t.Parallel()
	snapshot := &formattest.Snapshot{Room: "garden", Epoch: "0193a0e0-0000-7000-8000-00000000cafe", Seq: 5000}
	for i := range snapshot.Seq {
		row := format.NodeRow{Parent: moveop.Root, OrderKey: []byte("a0"), TS: moveop.NewTimestamp(i+1, 0, 1), Seq: i + 1}
		binary.BigEndian.PutUint64(row.Node[:], uint64(i+1))
		snapshot.Nodes = append(snapshot.Nodes, row)
	}
	service := &inMemory{stream: formattest.Encode(snapshot)}
	path := filepath.Join(t.TempDir(), "replica")
	synctest.Test(t, func(t *testing.T) {
		const nobody = "http://127.0.0.1:1" // but for snapshots
		c := open(t, path, client.Options{
			RealtimeURL: nobody, BootstrapURL: nobody, HTTPClient: &http.Client{Transport: service},
			PreviewTimeout: -1, RetryMin: time.Hour, RetryMax: time.Hour,
		})
		edit(t, c, func(*client.Tx) error {
			time.Sleep(5 * time.Minute)
			return nil
		})
		waitFor(t, c, "loaded", func(st client.Status) bool { return !st.Partial })
		if service.asked != 1 {
			t.Errorf("asked %d times", service.asked)
		}
	})
}
