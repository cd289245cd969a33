package bootstrap_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/canopysync/canopy/bootstrap"
	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/bootstrap/format/formattest"
	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

var errSource = errors.New("connection to the database lost")

// breaking fails in the middle of a section, or panics there.
type breaking struct {
	*formattest.Snapshot
	tag   int
	panic bool
}

func (b breaking) Copy(ctx context.Context, tag int, w io.Writer) (int64, error) {
	n, err := b.Snapshot.Copy(ctx, tag, w)
	if tag == b.tag && b.panic {
		panic("a bug")
	}
	if tag == b.tag {
		err = errSource
	}
	return n, err
}

// TestBrokenOff: a snapshot that fails under way is broken off, so that the client sees it at both
// levels: no trailer, and an HTTP body without its end.
func TestBrokenOff(t *testing.T) {
	t.Parallel()
	sample := formattest.Sample()
	for name, src := range map[string]*source{
		"nodes":  {snapshot: breaking{Snapshot: sample, tag: format.TagNodes}},
		"values": {snapshot: breaking{Snapshot: sample, tag: format.TagValues}},
		"ops":    {snapshot: breaking{Snapshot: sample, tag: format.TagOps}},
		"panic":  {snapshot: breaking{Snapshot: sample, tag: format.TagOps, panic: true}},
	} {
		for _, accept := range []string{"identity", "zstd"} {
			t.Run(name+"/"+accept, func(t *testing.T) {
				t.Parallel()
				f := setup(t, bootstrap.Config{Source: &source{snapshot: src.snapshot}})
				resp := f.get(t, "/v1/rooms/garden/snapshot", "Accept-Encoding", accept)
				if resp.StatusCode != http.StatusOK {
					t.Fatalf("status %d", resp.StatusCode)
				}
				_, err := format.Verify(decoded(t, resp))
				if !errors.Is(err, format.ErrTruncated) || !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("error %v", err)
				}
			})
		}
	}
}

// TestFailureAtTheEnd: a transaction that ends badly makes the snapshot bad, however late.
func TestFailureAtTheEnd(t *testing.T) {
	t.Parallel()
	for _, accept := range []string{"identity", "zstd"} {
		f := setup(t, bootstrap.Config{Source: &source{snapshot: formattest.Sample(), after: errSource}})
		resp := f.get(t, "/v1/rooms/garden/snapshot", "Accept-Encoding", accept)
		if _, err := io.ReadAll(decoded(t, resp)); err == nil {
			t.Errorf("%s: the body ends as if all were well", accept)
		}
	}
}

// TestFailureBeforeTheFirstByte is an ordinary error answer.
func TestFailureBeforeTheFirstByte(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err    error
		status int
		code   wire.Code
		result string
	}{
		{errSource, http.StatusInternalServerError, wire.CodeInternal, "failed"},
		{fmt.Errorf("connect: %w", wire.ErrUnavailable), http.StatusServiceUnavailable, wire.CodeBusy, "failed"},
		{wire.NewError(wire.CodeBusy, "too many connections"), http.StatusServiceUnavailable, wire.CodeBusy, "refused"},
		{wire.ErrUnknownRoom, http.StatusNotFound, wire.CodeForbidden, "refused"},
	} {
		f := setup(t, bootstrap.Config{Source: &source{
			snapshot: formattest.Sample(), before: func(context.Context) error { return tt.err },
		}})
		resp := f.get(t, "/v1/rooms/garden/snapshot", "Accept-Encoding", "zstd")
		wantError(t, resp, tt.status, tt.code)
		if resp.Header.Get("Content-Encoding") != "" || resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("headers %v", resp.Header)
		}
		if n := metric(t, f.registry, "canopy_bootstrap_snapshots_total", tt.result); n != 1 {
			t.Errorf("%v: %v counted as %s", tt.err, n, tt.result)
		}
	}
}

// TestLateRefusal: the error gets through although the source took longer than a write may.
func TestLateRefusal(t *testing.T) {
	t.Parallel()
	const stall = 200 * time.Millisecond // of real time: the deadline is the socket's
	f := setup(t, bootstrap.Config{StallTimeout: stall, Source: &source{
		snapshot: formattest.Sample(),
		before: func(context.Context) error {
			<-time.After(2 * stall)
			return wire.NewError(wire.CodeBusy, "too many connections")
		},
	}})
	wantError(t, f.get(t, "/v1/rooms/garden/snapshot"), http.StatusServiceUnavailable, wire.CodeBusy)
}

// endless has a section without an end: it goes on until its context or a write ends it.
type endless struct {
	*formattest.Snapshot
	ended chan<- error
}

func (e endless) Copy(ctx context.Context, _ int, w io.Writer) (rows int64, err error) {
	defer func() { e.ended <- err }()
	if _, err := w.Write(formattest.AppendCopyHeader(nil)); err != nil {
		return 0, err
	}
	// Many rows a write: the test is about bytes, of which some socket buffers take many.
	row := formattest.AppendCopyRow(nil, moveop.Root, moveop.Root, "a0", moveop.MaxTimestamp, int64(1), int64(0), nil)
	block := bytes.Repeat(row, 1000)
	for ; ctx.Err() == nil; rows += 1000 {
		if _, err := w.Write(block); err != nil {
			return rows, err
		}
	}
	return rows, ctx.Err()
}

func endlessSource() (*source, <-chan error) {
	ended := make(chan error, 1)
	return &source{snapshot: endless{formattest.Sample(), ended}}, ended
}

// TestStalledReader: somebody who takes the header and then nothing more loses the snapshot, and with
// it the transaction.
func TestStalledReader(t *testing.T) {
	t.Parallel()
	src, ended := endlessSource()
	f := setup(t, bootstrap.Config{Source: src, StallTimeout: 500 * time.Millisecond})
	resp := f.get(t, "/v1/rooms/garden/snapshot")
	if err := <-ended; err == nil {
		t.Error("the copy was not broken off")
	}
	if _, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Error("the body ends as if all were well")
	}
	wantResult(t, f, "stalled")
}

// wantResult checks that one snapshot is counted under the result. The count comes after what the
// client can see, so the service has to end first.
func wantResult(t *testing.T, f *fixture, result string) {
	t.Helper()
	f.close()
	if n := metric(t, f.registry, "canopy_bootstrap_snapshots_total", result); n != 1 {
		t.Errorf("%v snapshots are counted as %s, want 1", n, result)
	}
}

// TestSteadyButEndless: reading on does not help past MaxDuration.
func TestSteadyButEndless(t *testing.T) {
	t.Parallel()
	src, ended := endlessSource()
	f := setup(t, bootstrap.Config{Source: src, MaxDuration: 500 * time.Millisecond})
	resp := f.get(t, "/v1/rooms/garden/snapshot")
	if _, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Error("the body ends as if all were well")
	}
	<-ended
	wantResult(t, f, "expired")
}

// TestClientGone: the copy ends when the client does.
func TestClientGone(t *testing.T) {
	t.Parallel()
	for _, accept := range []string{"identity", "zstd"} {
		src, ended := endlessSource()
		f := setup(t, bootstrap.Config{Source: src})
		resp := f.get(t, "/v1/rooms/garden/snapshot", "Accept-Encoding", accept)
		if _, err := io.CopyN(io.Discard, resp.Body, 1000); err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if err := <-ended; err == nil {
			t.Error("the copy was not broken off")
		}
		wantResult(t, f, "gone")
	}
}

// TestClientGoneWhileDatabaseWorks: it is noticed also where nothing is being written.
func TestClientGoneWhileDatabaseWorks(t *testing.T) {
	t.Parallel()
	begun, ended := make(chan struct{}), make(chan error, 1)
	f := setup(t, bootstrap.Config{Source: &source{snapshot: formattest.Sample(), before: func(ctx context.Context) error {
		close(begun)
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	}}})
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url+"/v1/rooms/garden/snapshot", nil)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if resp, err := f.client.Do(req); err == nil {
			resp.Body.Close()
		}
	}()
	<-begun
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the source ended with %v", err)
	}
	<-done
	wantResult(t, f, "gone")
}

// TestHeaderComesFirst: a client sees the header while the database has yet to give a row.
func TestHeaderComesFirst(t *testing.T) {
	t.Parallel()
	for _, accept := range []string{"identity", "zstd"} {
		gate := make(chan struct{})
		f := setup(t, bootstrap.Config{Source: &source{snapshot: gated{formattest.Sample(), gate}}})
		resp := f.get(t, "/v1/rooms/garden/snapshot", "Accept-Encoding", accept)
		r, err := format.NewReader(&oneRead{decoded(t, resp)})
		if err != nil {
			t.Fatal(err)
		}
		if r.Header().Seq != 8 {
			t.Errorf("header %+v", r.Header())
		}
		close(gate)
		for err == nil {
			_, err = r.Next()
		}
		if err != io.EOF {
			t.Error(err)
		}
	}
}

// oneRead hands out what there is, a little at a time, so that nobody above waits for more.
type oneRead struct{ io.Reader }

func (r *oneRead) Read(p []byte) (int, error) { return r.Reader.Read(p[:1]) }

// gated gives no row before the gate is opened.
type gated struct {
	*formattest.Snapshot
	gate <-chan struct{}
}

func (g gated) Copy(ctx context.Context, tag int, w io.Writer) (int64, error) {
	<-g.gate
	return g.Snapshot.Copy(ctx, tag, w)
}

func TestTooManySnapshots(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	f := setup(t, bootstrap.Config{Source: &source{snapshot: gated{formattest.Sample(), gate}}, MaxSnapshots: 2})
	running := []*http.Response{f.get(t, "/v1/rooms/garden/snapshot"), f.get(t, "/v1/rooms/garden/snapshot")}
	if n := atomic.LoadInt32(&f.open); n != 2 {
		t.Errorf("%d transactions, want 2", n)
	}
	e := wantError(t, f.get(t, "/v1/rooms/garden/snapshot"), http.StatusServiceUnavailable, wire.CodeBusy)
	if !e.Retryable {
		t.Error("busy is not retryable")
	}
	if resp := f.get(t, "/v1/rooms/garden/stats"); resp.StatusCode != http.StatusOK {
		t.Errorf("statistics meanwhile: status %d", resp.StatusCode)
	}
	close(gate)
	for _, resp := range running {
		if _, err := format.Verify(resp.Body); err != nil {
			t.Error(err)
		}
	}
}

func TestPlacesAreGivenBack(t *testing.T) {
	t.Parallel()
	f := setup(t, bootstrap.Config{MaxSnapshots: 1})
	for range 3 {
		rec := httptest.NewRecorder()
		f.handler.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/v1/rooms/garden/snapshot", nil))
		if _, err := format.Verify(rec.Body); err != nil {
			t.Errorf("status %d: %v", rec.Code, err)
		}
	}
}
