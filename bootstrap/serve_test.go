package bootstrap_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/canopysync/canopy/bootstrap"
	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/bootstrap/format/formattest"
)

// serving is a Server behind its own Serve.
type serving struct {
	url    string
	client *http.Client
	stop   context.CancelFunc
	closed <-chan struct{} // no more connections
	ended  <-chan error
}

func serve(t *testing.T, cfg bootstrap.Config) *serving {
	t.Helper()
	s, err := bootstrap.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	closed := make(chan struct{})
	go func() { ended <- s.Serve(ctx, &listener{ln, sync.OnceFunc(func() { close(closed) })}) }()
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	t.Cleanup(client.CloseIdleConnections)
	t.Cleanup(stop)
	return &serving{"http://" + ln.Addr().String(), client, stop, closed, ended}
}

// listener tells when it is closed.
type listener struct {
	net.Listener
	told func()
}

func (l *listener) Close() error {
	defer l.told()
	return l.Listener.Close()
}

func (s *serving) get(t *testing.T, path string) *http.Response {
	t.Helper()
	resp, err := s.client.Get(s.url + path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// TestStopLetsSnapshotsFinish: what is running is served to its end, while nobody new gets in.
func TestStopLetsSnapshotsFinish(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	src := &source{snapshot: gated{formattest.Sample(), gate}}
	s := serve(t, bootstrap.Config{Source: src, DrainTimeout: time.Minute})
	resp := s.get(t, "/v1/rooms/garden/snapshot")
	s.stop()
	<-s.closed
	select {
	case err := <-s.ended:
		t.Fatalf("Serve returned %v with a snapshot running", err)
	default:
	}
	close(gate)
	if _, err := format.Verify(resp.Body); err != nil {
		t.Error(err)
	}
	if err := <-s.ended; err != nil {
		t.Error(err)
	}
}

// TestStopBreaksOff: past DrainTimeout the snapshots that are left are broken off, and Serve returns
// only after they are.
func TestStopBreaksOff(t *testing.T) {
	t.Parallel()
	src, ended := endlessSource()
	s := serve(t, bootstrap.Config{Source: src, DrainTimeout: time.Millisecond})
	resp := s.get(t, "/v1/rooms/garden/snapshot")
	s.stop()
	if err := <-s.ended; err != nil {
		t.Error(err)
	}
	if n := atomic.LoadInt32(&src.open); n != 0 {
		t.Errorf("Serve returned with %d transactions open", n)
	}
	if err := <-ended; err == nil {
		t.Error("the copy was not broken off")
	}
	if _, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Error("the body ends as if all were well")
	}
}

func TestServeReportsBrokenListener(t *testing.T) {
	t.Parallel()
	s, err := bootstrap.New(bootstrap.Config{Source: &source{snapshot: formattest.Sample()}})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if err := s.Serve(t.Context(), ln); !errors.Is(err, net.ErrClosed) {
		t.Errorf("error %v", err)
	}
}

// TestSlowRequests: a request that does not come, or that goes on in a body, does not keep its connection.
func TestSlowRequests(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ request, status string }{
		"nothing":       {"", ""},
		"head":          {"GET /healthz HTTP/1.1\r\nHost: x\r\n", ""},
		"body":          {"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{", "400 Bad Request"},
		"chunked body":  {"GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", "400 Bad Request"},
		"without route": {"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{", "400 Bad Request"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, bootstrap.Config{Source: &source{snapshot: formattest.Sample()}, HeaderTimeout: 50 * time.Millisecond})
			conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(conn, tt.request); err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(conn) // to the end of the connection
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("the connection stays open: %q", answer)
			}
			if status, _, _ := strings.Cut(strings.TrimPrefix(string(answer), "HTTP/1.1 "), "\r\n"); status != tt.status {
				t.Errorf("answered %q, want %q", status, tt.status)
			}
		})
	}
}
