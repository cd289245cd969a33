package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

const (
	// minPreviewPage and maxPreviewPage bound how many children are fetched at a time.
	minPreviewPage, maxPreviewPage = 100, 1000
	// previewLast is how many children of a node are fetched to find the last one.
	previewLast = 10 * maxPreviewPage
	// previewNodes bounds what is fetched ahead of the snapshot, in nodes since Open.
	previewNodes = 100_000
	// previewBytes bounds the answer with one page.
	previewBytes = 64 << 20
)

// errNotNow means that no children are fetched from the realtime service now: it failed a moment ago, or the limit
// is reached.
var errNotNow = errors.New("no children are fetched now")

// preview is the state of fetching children ahead of the snapshot. What was fetched is in the file, see
// childPage.
type preview struct {
	mu       sync.Mutex // guards what follows
	nodes    int        // fetched
	failures int        // in a row
	until    time.Time  // no attempt before
}

// begin reports whether an attempt may be made.
func (p *preview) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.nodes < previewNodes && !time.Now().Before(p.until)
}

// end notes the outcome of an attempt. After a failure there is a pause, so that not every read waits.
func (p *preview) end(nodes int, err error, opts *Options) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.nodes += nodes
	if err == nil {
		p.failures, p.until = 0, time.Time{}
		return
	}
	p.until = time.Now().Add(min(opts.RetryMin<<min(p.failures, 16), opts.RetryMax))
	p.failures++
}

// again allows an attempt at once.
func (p *preview) again() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.until = time.Time{}
}

// partial reports whether a replica at m has only a part of the room, or may have: it has not heard of
// the server yet.
func (c *Client) partial(m *meta) bool {
	return m.partial || m.epoch == "" && c.opts.RealtimeURL != ""
}

// previews reports whether missing children should be fetched.
func (c *Client) previews(m *meta) bool {
	return !c.store.whole.Load() && (m.partial || m.epoch == "") && c.opts.RealtimeURL != "" && c.opts.BootstrapURL != "" && c.opts.PreviewTimeout > 0
}

// meta returns the meta row that a View or Tx must use.
func (v *View) meta() *meta {
	if v.t != nil {
		return &v.t.meta
	}
	return v.client.store.meta.Load()
}

// fetch fetches the missing ones of the first limit children of parent after a cursor. If it cannot, the caller makes
// do with those that are here. A View that fetches advances to the newest state.
func (v *View) fetch(parent moveop.NodeID, after Cursor, limit int) error {
	for v.client.previews(v.meta()) {
		if err := v.renew(); err != nil {
			return err
		}
		p, missing, err := v.missing(parent, after, limit)
		if err != nil || !missing {
			return err
		}
		page, err := v.client.fetchPage(v.ctx, p, limit)
		if err != nil {
			return v.ctx.Err()
		}
		err = v.take(p, page)
		if errors.Is(err, errOtherHistory) || errors.Is(err, errInvalid) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// missing returns the page to fetch next. The first one is always Root's: it makes the cursor.
func (v *View) missing(parent moveop.NodeID, after Cursor, limit int) (p childPage, missing bool, err error) {
	if v.meta().epoch == "" {
		return childPage{parent: moveop.Root}, true, nil
	}
	return v.s.missingPage(parent, after, limit)
}

// renew advances a View to the newest state.
func (v *View) renew() error {
	if v.t != nil {
		return nil
	}
	if _, err := v.s.exec("ROLLBACK"); err != nil {
		return err
	}
	_, err := v.s.exec("BEGIN")
	return err
}

// take takes in a page, in a transaction of its own or in that of the Tx.
func (v *View) take(p childPage, page wire.Page) error {
	if v.t != nil {
		return v.t.takePage(p, page)
	}
	return v.client.takePage(v.ctx, p, page)
}

// takePage takes in a page. If it is of another history than those before, the preview begins anew.
func (c *Client) takePage(ctx context.Context, p childPage, page wire.Page) error {
	err := c.store.update(ctx, Preview, func(t *txn) error { return t.takePage(p, page) })
	if errors.Is(err, errOtherHistory) {
		err = c.forgetPreview(ctx, page.Epoch)
	}
	return err
}

// forgetPreview begins the preview anew, because the server, now in the given epoch, cannot continue from it.
func (c *Client) forgetPreview(ctx context.Context, epoch string) error {
	return c.store.update(ctx, Preview, func(t *txn) error {
		if !t.meta.partial {
			return nil // the snapshot has just come in
		}
		return t.forgetPreview(epoch)
	})
}

// fetchPage requests a page from the realtime service, within a bounded time.
func (c *Client) fetchPage(ctx context.Context, p childPage, limit int) (wire.Page, error) {
	if !c.preview.begin() {
		return wire.Page{}, errNotNow
	}
	asking, cancel := context.WithTimeout(ctx, c.opts.PreviewTimeout)
	defer cancel()
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-c.store.closed: // Close does not wait for the network
			cancel()
		case <-done:
		}
	}()
	page, err := c.opts.askChildren(asking, p, min(max(limit, minPreviewPage), maxPreviewPage))
	if err != nil && ctx.Err() != nil {
		return page, ctx.Err()
	}
	c.preview.end(len(page.Nodes), err, &c.opts)
	if err != nil {
		c.opts.Logger.Info("children are not fetched", "parent", p.parent.String(), "error", err)
	}
	return page, err
}

// askChildren asks for a page of children.
func (o *Options) askChildren(ctx context.Context, p childPage, limit int) (page wire.Page, err error) {
	// Whether there are children at all is enough to know, and costs the server no counting.
	query := url.Values{"parent": {p.parent.String()}, "limit": {strconv.Itoa(limit)}, "count": {"1"}}
	if p.cursor != "" {
		query.Set("after", p.cursor)
	}
	if err := o.askFor(ctx, "children?"+query.Encode(), &page, previewBytes); err != nil {
		return wire.Page{}, fmt.Errorf("read children: %w", err)
	}
	if err := checkPage(p.parent, &page); err != nil {
		return wire.Page{}, err
	}
	return page, nil
}

// checkPage refuses pages that no server sends, and brings values into canonical form.
func checkPage(parent moveop.NodeID, page *wire.Page) error {
	if page.Epoch == "" || page.Seq < 0 {
		return fmt.Errorf("%w: a page without epoch and seq", errInvalid)
	}
	for i := range page.Nodes {
		n := &page.Nodes[i]
		if n.Parent != parent || n.ID.IsReserved() {
			return fmt.Errorf("%w: %s with parent %s among the children of %s", errInvalid, n.ID, n.Parent, parent)
		}
		if err := moveop.ValidateOrderKey(n.OrderKey); err != nil {
			return fmt.Errorf("%w: %w", errInvalid, err)
		}
		if n.Props == nil {
			n.Props = map[string]json.RawMessage{}
		}
		for key, value := range n.Props {
			compact, err := moveop.CompactValue(value)
			if err != nil {
				return fmt.Errorf("%w: %w", errInvalid, err)
			}
			n.Props[key] = compact
		}
	}
	return nil
}
