package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/canopysync/canopy/realtime/wire"
)

const (
	// stalled is how long a download may make no progress before it counts as cut off.
	stalled = 30 * time.Second
	// maxResumes is how often in a row a download may be resumed without progress.
	maxResumes = 5
)

// errOtherSnapshot means that the server has a snapshot, but not the one whose beginning we have.
var errOtherSnapshot = errors.New("the snapshot no longer exists")

// snapshotBody is a snapshot as it comes over the network. If the server identifies it by a strong ETag, a
// download that was cut off resumes where it was.
type snapshotBody struct {
	ctx  context.Context // of the download
	opts *Options
	log  *slog.Logger

	body    io.ReadCloser
	etag    string // empty: cannot go on
	at      int64  // bytes that came
	resumes int    // since then
}

func (b *snapshotBody) Read(p []byte) (int, error) {
	for {
		n, err := b.body.Read(p)
		if n > 0 {
			b.at += int64(n)
			b.resumes = 0
			return n, nil // an error comes again
		}
		if err == nil || errors.Is(err, io.EOF) {
			return n, err
		}
		if err := b.resume(err); err != nil {
			return 0, err
		}
	}
}

// Close ends the download.
func (b *snapshotBody) Close() error { return b.body.Close() }

// resume gets the rest after the download was cut off by cause.
func (b *snapshotBody) resume(cause error) error {
	for ; b.etag != "" && b.resumes < maxResumes && b.ctx.Err() == nil; b.resumes++ {
		b.log.Info("snapshot cut off, resuming", slog.Int64("at", b.at), slog.Any("error", cause))
		if err := b.pause(); err != nil {
			return err
		}
		resp, err := b.opts.askSnapshot(b.ctx, b)
		if err != nil {
			cause = err
			continue
		}
		if resp.StatusCode == http.StatusPartialContent && b.continuedBy(resp) {
			b.resumes++
			_ = b.body.Close() // it was cut off
			b.body = resp.Body
			return nil
		}
		err = errOtherSnapshot
		if resp.StatusCode >= http.StatusBadRequest {
			err = wire.ReadError(resp)
		}
		return errors.Join(err, resp.Body.Close())
	}
	return cause
}

func (b *snapshotBody) continuedBy(resp *http.Response) bool {
	return strongETag(resp) == b.etag && strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", b.at))
}

// pause waits longer with every attempt.
func (b *snapshotBody) pause() error {
	wait := min(b.opts.RetryMin<<b.resumes, b.opts.RetryMax)
	timer := time.NewTimer(wait/2 + rand.N(wait/2+1))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-b.ctx.Done():
		return b.ctx.Err()
	}
}

// strongETag is empty where the server does not say which bytes these are.
func strongETag(resp *http.Response) string {
	if etag := resp.Header.Get("ETag"); strings.HasPrefix(etag, `"`) {
		return etag
	}
	return ""
}

// askSnapshot requests the room's snapshot, or the rest of one. A download that makes no progress for too long
// is cut off.
func (o *Options) askSnapshot(ctx context.Context, rest *snapshotBody) (*http.Response, error) {
	header, err := o.authorization(ctx)
	if err != nil {
		return nil, err
	}
	header.Set("Accept-Encoding", "zstd")
	if rest != nil {
		header.Set("Range", fmt.Sprintf("bytes=%d-", rest.at))
		header.Set("If-Range", rest.etag)
	}
	ctx, cancel := context.WithCancel(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint(o.BootstrapURL, o.Room, "snapshot"), nil)
	if err != nil {
		cancel()
		return nil, err
	}
	req.Header = header
	watchdog := time.AfterFunc(stalled, cancel)
	resp, err := o.HTTPClient.Do(req)
	if err != nil {
		watchdog.Stop()
		cancel()
		return nil, err
	}
	resp.Body = &watchedBody{resp.Body, watchdog, cancel}
	return resp, nil
}

// watchedBody runs its watchdog only during reads: the time that we take in between, perhaps because of a long
// edit, is not the server's fault.
type watchedBody struct {
	io.ReadCloser
	watchdog *time.Timer
	cancel   context.CancelFunc
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.watchdog.Reset(stalled)
	defer b.watchdog.Stop()
	return b.ReadCloser.Read(p)
}

func (b *watchedBody) Close() error {
	b.watchdog.Stop()
	defer b.cancel()
	return b.ReadCloser.Close()
}
