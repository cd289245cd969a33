package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// Refusal is an operation that the server refused for good. It is in quarantine: part of this replica's
// tree, not of anybody else's, and no obstacle to other operations.
type Refusal struct {
	Op      moveop.Op `json:"op"`
	Edit    int64     `json:"edit"`    // the local transaction that made it: Version of its Event
	Code    wire.Code `json:"code"`    // the reason
	Message string    `json:"message"` // the reason in the server's words
}

const refusedQuery = `SELECT edit, refused, reason, ` + outboxColumns + ` FROM outbox WHERE refused IS NOT NULL ORDER BY ts`

// Refused lists the operations in quarantine, in the order in which they were made.
func (c *Client) Refused(ctx context.Context) (refusals []Refusal, err error) {
	err = c.store.view(ctx, func(s *session) error {
		all, err := s.queued(refusedQuery)
		for _, q := range all {
			refusals = append(refusals, Refusal{q.op, q.edit, wire.Code(q.refused), q.reason})
		}
		return err
	})
	return refusals, err
}

// ExportRefused writes the operations in quarantine to w, one Refusal per line as JSON.
func (c *Client) ExportRefused(ctx context.Context, w io.Writer) error {
	refusals, err := c.Refused(ctx)
	if err != nil {
		return err
	}
	out := json.NewEncoder(w)
	for i := range refusals {
		if err := out.Encode(&refusals[i]); err != nil {
			return fmt.Errorf("export refused operations: %w", err)
		}
	}
	return nil
}

// Retry takes operations out of quarantine, all of them if none is named, and pushes them again. Call it
// once the reason for the refusal is gone. They get new timestamps, because later operations of this
// replica may have gone through; operations superseded since are discarded, or they would win with their
// new timestamps. Operations that are no longer in quarantine are ignored.
func (c *Client) Retry(ctx context.Context, ops ...moveop.Timestamp) error {
	return c.release(ctx, ops, func(t *txn, all []queued) error {
		current, err := t.stillCurrent(all)
		if err != nil {
			return err
		}
		if err := t.takeBack(all); err != nil {
			return err
		}
		for i := range current {
			current[i].refused, current[i].reason = "", ""
		}
		return t.stampAnew(current)
	})
}

// Discard drops operations from quarantine, all of them if none is named, and rolls back their effect
// here, as if they had never been made. Operations that are no longer in quarantine are ignored. Operations
// that did go through stay: if a node's creation is discarded, nodes that others put below it, or that went
// through, are no longer reachable, so move them elsewhere first.
func (c *Client) Discard(ctx context.Context, ops ...moveop.Timestamp) error {
	return c.release(ctx, ops, (*txn).takeBack)
}

// release has fn take the operations of that name, or all, out of quarantine.
func (c *Client) release(ctx context.Context, names []moveop.Timestamp, fn func(t *txn, all []queued) error) error {
	err := c.store.update(ctx, Local, func(t *txn) error {
		all, err := t.queued(refusedQuery)
		if err != nil {
			return err
		}
		if len(names) > 0 {
			all = slices.DeleteFunc(all, func(q queued) bool { return !slices.Contains(names, q.op.TS) })
		}
		if len(all) == 0 {
			return nil
		}
		return fn(t, all)
	})
	if err != nil {
		return fmt.Errorf("release refused operations: %w", err)
	}
	c.wake()
	return nil
}

// stillCurrent returns those operations that are a node's placement or a property's current write.
func (t *txn) stillCurrent(all []queued) (current []queued, err error) {
	for i := range all {
		op, is := &all[i].op, false
		if op.Kind == moveop.Move {
			_, err = t.row(`SELECT EXISTS (SELECT 1 FROM nodes WHERE node = ? AND ts = ?)`, []any{op.Node[:], op.TS[:]}, &is)
		} else {
			_, err = t.row(`SELECT EXISTS (SELECT 1 FROM vals WHERE node = ? AND key = ? AND ts = ?)`,
				[]any{op.Node[:], op.Key, op.TS[:]}, &is)
		}
		if err != nil {
			return nil, err
		}
		if is {
			current = append(current, all[i])
		}
	}
	return current, nil
}

// refuse puts an operation that the server will never take into quarantine.
func (t *txn) refuse(ts moveop.Timestamp, e *wire.Error) error {
	n, err := t.exec(`UPDATE outbox SET refused = ?, reason = ? WHERE ts = ? AND refused IS NULL`,
		string(e.Code), e.Message, ts[:])
	t.meta.refused += n
	return err
}
