package client_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
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
