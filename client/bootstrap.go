package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/canopysync/canopy/realtime/wire"
)

// maxWindow bounds the memory that decompressing takes, in bytes.
const maxWindow = 64 << 20

// errRoomGone means that the room of this file no longer exists, or is not for us. We keep everything.
var errRoomGone = errors.New("the room no longer exists, or the token gives no access to it")

// bootstrap replaces the state with the server's, and applies what is pending on top.
func (s *syncer) bootstrap(ctx context.Context) error {
	if s.c.opts.BootstrapURL == "" {
		return s.startOver(ctx)
	}
	s.c.setProgress(func(p *progress) { p.loading, p.rows, p.rowsTotal = true, 0, 0 })
	began := time.Now()
	l := &loader{st: s.c.store, report: func(rows, total int64) {
		s.c.setProgress(func(p *progress) { p.rows, p.rowsTotal, p.loadErr = rows, total, nil })
	}}
	found, err := s.download(ctx, l)
	if err == nil && found {
		err = l.install(ctx)
	}
	if err != nil {
		err = errors.Join(err, s.dropDrafts(ctx))
	}
	s.c.setProgress(func(p *progress) {
		if p.loading = false; ctx.Err() != nil {
			return // Close ended it, which is no failure
		}
		if p.loadErr = err; err == nil && (s.first == nil || p.state == "") {
			p.state = StateConnecting // the next step
		}
	})
	if err != nil {
		return err
	}
	s.log.Info("bootstrapped", slog.Int64("seq", l.header.Seq), slog.Int64("rows", l.rows), slog.Duration("took", time.Since(began)))
	return nil
}

// download loads the snapshot into the draft; found is false if the room does not exist yet.
func (s *syncer) download(ctx context.Context, l *loader) (found bool, err error) {
	ctx, l.abort = context.WithCancel(ctx)
	defer l.abort()
	body, err := s.fetch(ctx)
	if err != nil || body == nil {
		return false, err
	}
	defer body.Close()
	if err := l.load(ctx, body, s.c.opts.Room); err != nil {
		return false, fmt.Errorf("load snapshot: %w", err)
	}
	return true, nil
}

// startOver does without a bootstrap service: the replica starts (again) at seq 0. If the server has not
// kept everything since then, it will say so.
func (s *syncer) startOver(ctx context.Context) error {
	if m := s.c.store.meta.Load(); m.seq == 0 && !m.partial {
		return nil
	}
	l := &loader{st: s.c.store}
	if err := l.prepare(ctx); err != nil {
		return err
	}
	return l.install(ctx)
}

// fetch requests the snapshot. The body is nil if the room does not exist yet, and so is empty.
func (s *syncer) fetch(ctx context.Context) (io.ReadCloser, error) {
	resp, err := s.c.opts.askSnapshot(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("fetch snapshot: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, s.noSnapshot(resp)
	}
	body := &snapshotBody{ctx: ctx, opts: &s.c.opts, log: s.log, body: resp.Body, etag: strongETag(resp)}
	if resp.Header.Get("Content-Encoding") != "zstd" {
		return body, nil
	}
	decoder, err := zstd.NewReader(body, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("fetch snapshot: %w", err), body.Close())
	}
	return &decodedBody{decoder, body}, nil
}

// noSnapshot returns the error for a response without a snapshot; nil if the room does not exist yet.
func (s *syncer) noSnapshot(resp *http.Response) error {
	err := wire.ReadError(resp)
	if resp.StatusCode != http.StatusNotFound || err.Code != wire.CodeForbidden { // another one's 404 is about the URL
		return fmt.Errorf("fetch snapshot: %w", err)
	}
	if s.c.store.meta.Load().seq == 0 {
		return nil
	}
	return fmt.Errorf("fetch snapshot: %w", errRoomGone)
}

type decodedBody struct {
	*zstd.Decoder
	body io.Closer
}

func (b *decodedBody) Close() error {
	b.Decoder.Close()
	return b.body.Close()
}

// dropDrafts removes the remains of a failed load, even if ctx is done.
func (s *syncer) dropDrafts(ctx context.Context) error {
	return s.c.store.exclusively(context.WithoutCancel(ctx), dropDrafts)
}
