package client

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

const (
	// leafDigits is the length of the spans for which our log is summed up in one pass. Shorter parts of
	// such a span, which is 65 s, are summed up when needed.
	leafDigits = 8
	// fewOps is the number of operations in a span, theirs and ours, up to which they are compared one by one.
	fewOps = 256
	// maxDifferences bounds the operations and spans that differ: if more do, a snapshot is cheaper.
	maxDifferences = 10_000
	// maxSpanBytes bounds what is read of the operations of a span.
	maxSpanBytes = 64 << 20
)

var (
	// errTooDifferent means that a snapshot is cheaper.
	errTooDifferent = fmt.Errorf("more than %d operations or spans differ", maxDifferences)
	// errOtherLog means that the server's log was replaced meanwhile.
	errOtherLog = errors.New("the server has another history")
	// errNotAsked means that the server's answer does not match the request.
	errNotAsked = errors.New("the server's answer about its log does not match the question")
)

// logComparison finds the operations in which our log, up to our cursor, differs from the server's. Both are
// Merkle trees over time (wire.Span), and it descends where they differ. It ignores the server's later commits
// and our pending operations, so neither log needs to stand still.
type logComparison struct {
	c      *Client
	epoch  string
	seq    int64            // our cursor
	behind moveop.Timestamp // only later operations can be compared: none of them was compacted, here or there
	tally  wire.Tally       // of ours, by spans of leafDigits
	spans  int              // that differ

	lacking []moveop.Op // theirs that we do not have, or have with another body
	surplus []moveop.Op // ours that they do not have, or have with another body
}

// compareLogs goes through our log once, and sends the server O(log n) requests for each place where the logs
// differ. The error is errTooDifferent if a snapshot would be cheaper.
func (c *Client) compareLogs(ctx context.Context) (*logComparison, error) {
	l := &logComparison{c: c, tally: wire.Tally{}}
	err := c.store.view(ctx, func(s *session) error {
		var m meta
		if err := m.load(s); err != nil {
			return err
		}
		l.epoch, l.seq, l.behind = m.epoch, m.seq, m.horizon
		return s.everyOp(func(op moveop.Op, _ bool) error {
			if l.counts(&op) {
				l.tally.Add(wire.SpanOf(op.TS, leafDigits), wire.Count{Ops: 1, Log: op.LogHash()})
			}
			return ctx.Err()
		})
	})
	if err == nil {
		err = l.descend(ctx, "")
	}
	if err != nil {
		return nil, fmt.Errorf("compare with the server's log: %w", err)
	}
	return l, nil
}

// counts reports whether both must have an operation.
func (l *logComparison) counts(op *moveop.Op) bool { return op.Seq > 0 && op.Seq <= l.seq }

// descend compares the parts of a span.
func (l *logComparison) descend(ctx context.Context, span wire.Span) error {
	theirs, err := l.c.buckets(ctx, span)
	if err != nil {
		return err
	}
	if theirs.Epoch != l.epoch {
		return errOtherLog
	}
	if l.behind.Before(theirs.Horizon) {
		l.behind = theirs.Horizon
	}
	ours, err := l.parts(ctx, span)
	if err != nil {
		return err
	}
	pairs := map[wire.Span][2]wire.Bucket{}
	for _, b := range theirs.Buckets {
		pairs[b.Span] = [2]wire.Bucket{b, {Span: b.Span}}
	}
	for _, b := range ours.Buckets() {
		pairs[b.Span] = [2]wire.Bucket{pairs[b.Span][0], b}
	}
	for _, part := range slices.Sorted(maps.Keys(pairs)) {
		a, b := pairs[part][0], pairs[part][1]
		if a.Ops == b.Ops && a.Log == b.Log || !l.behind.Before(part.Last()) {
			continue
		}
		if l.spans++; l.spans > maxDifferences { // a server could go on for ever
			return errTooDifferent
		}
		if a.Ops+b.Ops > fewOps && len(part) < wire.MaxSpan {
			err = l.descend(ctx, part)
		} else {
			err = l.compareOps(ctx, part)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// parts adds up our log by the parts of a span.
func (l *logComparison) parts(ctx context.Context, span wire.Span) (wire.Tally, error) {
	parts, digits := wire.Tally{}, len(span)+2
	if digits <= leafDigits {
		for leaf, count := range l.tally {
			if leaf[:len(span)] == span {
				parts.Add(leaf[:digits], *count)
			}
		}
		return parts, nil
	}
	err := l.within(ctx, span, func(op moveop.Op) {
		parts.Add(wire.SpanOf(op.TS, digits), wire.Count{Ops: 1, Log: op.LogHash()})
	})
	return parts, err
}

// within calls fn for our operations in a span that count.
func (l *logComparison) within(ctx context.Context, span wire.Span, fn func(moveop.Op)) error {
	return l.c.store.view(ctx, func(s *session) error {
		return s.logged(span.First(), span.Last(), func(op moveop.Op) error {
			if l.counts(&op) {
				fn(op)
			}
			return nil
		})
	})
}

// compareOps compares operation by operation. It reads theirs first, so that an operation that only we have then
// was never theirs.
func (l *logComparison) compareOps(ctx context.Context, span wire.Span) error {
	theirs := map[moveop.Timestamp]moveop.Op{}
	err := l.c.spanOps(ctx, span, func(op moveop.Op) error {
		if !span.Contains(op.TS) {
			return errNotAsked
		}
		if l.counts(&op) && l.behind.Before(op.TS) {
			theirs[op.TS] = op
		}
		if len(theirs) > maxDifferences {
			return errTooDifferent
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = l.within(ctx, span, func(op moveop.Op) {
		switch other, ok := theirs[op.TS]; {
		case ok && other.SameBody(op):
			delete(theirs, op.TS)
		case l.behind.Before(op.TS):
			l.surplus = append(l.surplus, op)
		}
	})
	for _, op := range theirs {
		l.lacking = append(l.lacking, op)
	}
	if err == nil && len(l.lacking)+len(l.surplus) > maxDifferences {
		err = errTooDifferent
	}
	return err
}

// buckets asks for the parts of a span. Each is two digits longer, or there would be no end of asking.
func (c *Client) buckets(ctx context.Context, span wire.Span) (buckets wire.Buckets, err error) {
	err = c.opts.askFor(ctx, "buckets?prefix="+url.QueryEscape(string(span)), &buckets, maxAnswer)
	before := span // it sorts before its parts
	for _, b := range buckets.Buckets {
		part, malformed := wire.ParseSpan(string(b.Span))
		if malformed != nil || len(part) != len(span)+2 || part[:len(span)] != span || part <= before {
			return wire.Buckets{}, errNotAsked
		}
		before = part
	}
	return buckets, err
}

// spanOps asks for the operations of a span.
func (c *Client) spanOps(ctx context.Context, span wire.Span, fn func(moveop.Op) error) error {
	body, err := c.opts.ask(ctx, "buckets/ops?prefix="+url.QueryEscape(string(span)))
	if err != nil {
		return err
	}
	defer body.Close()
	for lines := json.NewDecoder(http.MaxBytesReader(nil, body, maxSpanBytes)); ; {
		var op moveop.Op
		if err := lines.Decode(&op); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := fn(op); err != nil {
			return err
		}
	}
}

// maxAnswer bounds what is read of an answer about the room, in bytes.
const maxAnswer = 64 << 10

// askFor requests and decodes something about the room, of at most limit bytes. Errors are those of ask and of
// decoding.
func (o *Options) askFor(ctx context.Context, what string, answer any, limit int64) error {
	body, err := o.ask(ctx, what)
	if err != nil {
		return err
	}
	defer body.Close()
	return json.NewDecoder(http.MaxBytesReader(nil, body, limit)).Decode(answer)
}

// ask requests something about the room from the realtime service. The caller closes the body. The error for an
// unsuccessful response is a *wire.Error, which for 404 also wraps wire.ErrUnknownRoom.
func (o *Options) ask(ctx context.Context, what string) (io.ReadCloser, error) {
	header, err := o.authorization(ctx)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint(o.RealtimeURL, o.Room, what), nil)
	if err != nil {
		return nil, err
	}
	req.Header = header
	resp, err := o.HTTPClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		if err = wire.ReadError(resp); resp.StatusCode == http.StatusNotFound {
			err = fmt.Errorf("%w: %w", wire.ErrUnknownRoom, err)
		}
		return nil, err
	}
	return resp.Body, nil
}

// everyOp calls fn for every operation of the log, in no useful order, and says which of them are in nodes
// or vals: the current ones. Fn must not use the session.
func (s *session) everyOp(fn func(op moveop.Op, current bool) error) error {
	return s.each(everyOpQuery, nil, func(rows *sql.Rows) error {
		var current bool
		op, err := scanOp(rows, &current)
		if err != nil {
			return err
		}
		return fn(op, current)
	})
}

const everyOpQuery = `SELECT 1 AS current, 1, ts, node, parent, order_key, NULL, NULL, seq, known, cause FROM nodes
	UNION ALL SELECT 1, 2, ts, node, NULL, NULL, key, value, seq, known, NULL FROM vals
	UNION ALL SELECT 0, kind, ts, node, parent, order_key, key, value, seq, known, cause FROM ops`
