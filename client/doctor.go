package client

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// Diagnosis is the result of Doctor.
type Diagnosis struct {
	// Findings lists the faults found; empty if there are none.
	Findings []Finding
	// Seq and Digest are the cursor and the recomputed digest of the examined state.
	Seq    int64
	Digest moveop.Digest
	// Compared is set if the digest was compared with the server's at the same cursor. It is not set if
	// the client has no services, if the file itself had findings, or if the room was too busy for the two
	// to be at the same cursor.
	Compared bool
	// Differences are the operations that differ between the logs, unless more than 10,000 do.
	Differences []Difference
}

// Difference is an operation that only the replica (Here) or only the server (There) has. If both are set,
// they have it with different bodies.
type Difference struct {
	TS          moveop.Timestamp
	Here, There bool
}

// Finding is one fault.
type Finding struct {
	Check  Check
	Detail string
}

// Check is the check that made a Finding.
type Check string

const (
	// CheckFile is SQLite's own check of the file: pages, rows and indexes.
	CheckFile Check = "file"
	// CheckDigest recomputes the digests from the data that they summarise.
	CheckDigest Check = "digest"
	// CheckTree looks for nodes in cycles.
	CheckTree Check = "tree"
	// CheckLog checks that the tables of the log agree with each other.
	CheckLog Check = "log"
	// CheckOutbox checks that the outbox agrees with the log and with the stored counts.
	CheckOutbox Check = "outbox"
	// CheckServer compares the digest, and if it differs the log, with the server's.
	CheckServer Check = "server"
)

// Doctor examines the replica while it is in use: whether the file is sound, its digests match its
// content, the tree has no cycles and the tables agree. If nothing is wrong and the client has services, it
// waits until the replica is in step, for as long as ctx allows, and checks that the server has the same
// digest at the same cursor, leaving out pending operations. Doctor changes nothing: see Repair. It makes a
// few passes over the whole file. An error means that the examination failed; the findings so far are
// returned with it.
func (c *Client) Doctor(ctx context.Context) (d Diagnosis, err error) {
	d, err = c.examine(ctx)
	if err == nil && c.opts.RealtimeURL != "" && len(d.Findings) == 0 {
		err = c.compare(ctx, &d)
	}
	if err != nil {
		return d, fmt.Errorf("examine replica: %w", err)
	}
	return d, nil
}

// examine looks at the file alone.
func (c *Client) examine(ctx context.Context) (d Diagnosis, err error) {
	err = c.store.view(ctx, func(s *session) error {
		e := examination{ctx: ctx, session: s, d: &d}
		return e.run()
	})
	return d, err
}

func (d *Diagnosis) find(check Check, format string, args ...any) {
	d.Findings = append(d.Findings, Finding{check, fmt.Sprintf(format, args...)})
}

// examination looks at one consistent state of the file.
type examination struct {
	*session
	ctx  context.Context // of the call that it lives in
	meta meta
	d    *Diagnosis
}

func (e *examination) run() error {
	if err := e.meta.load(e.session); err != nil {
		return err
	}
	e.d.Seq = e.meta.seq
	for _, step := range []func() error{e.file, e.digest, e.tree, e.rules} {
		if err := e.ctx.Err(); err != nil {
			return err
		}
		// What the damage makes unreadable is a finding, and no reason not to look at the rest.
		err := step()
		if errors.Is(err, ErrCorrupt) {
			e.d.find(CheckFile, "%v", err)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// maxFindings bounds what is reported of damaged pages.
const maxFindings = 20

func (e *examination) file() error {
	return e.each(fmt.Sprintf(`PRAGMA integrity_check(%d)`, maxFindings), nil, func(rows *sql.Rows) error {
		var found string
		err := rows.Scan(&found)
		if err == nil && found != "ok" {
			e.d.find(CheckFile, "%s", found)
		}
		return err
	})
}

// digest recomputes the digest.
func (e *examination) digest() (err error) {
	e.d.Digest, err = e.addUp(e.ctx, e.meta.folded)
	if err == nil && e.d.Digest != e.meta.digest {
		e.d.find(CheckDigest, "the content adds up to %+v, the file records %+v", e.d.Digest, e.meta.digest)
	}
	return err
}

// tree counts what hangs on something that has no place itself: Root, Trash, or a node that nobody has
// created yet. What does not is in a circle, or below one.
func (e *examination) tree() error {
	var circling int64
	_, err := e.row(`WITH RECURSIVE down (node) AS (
			SELECT n.node FROM nodes n WHERE NOT EXISTS (SELECT 1 FROM nodes p WHERE p.node = n.parent)
			UNION ALL SELECT n.node FROM down JOIN nodes n ON n.parent = down.node)
		SELECT (SELECT count(*) FROM nodes) - (SELECT count(*) FROM down)`, nil, &circling)
	if err == nil && circling != 0 {
		e.d.find(CheckTree, "%d nodes are in or below cycles", circling)
	}
	return err
}

// rules are statements that count what breaks them.
var rules = []struct {
	check  Check
	detail string
	count  string
}{
	{CheckLog, "effective moves are newer than the place of their node", `SELECT count(*) FROM ops o
		LEFT JOIN nodes n ON n.node = o.node WHERE o.kind = 1 AND o.effective AND (n.node IS NULL OR n.ts <= o.ts)`},
	{CheckLog, "writes are newer than the value of their property", `SELECT count(*) FROM ops o
		LEFT JOIN vals v ON v.node = o.node AND v.key = o.key WHERE o.kind = 2 AND (v.node IS NULL OR v.ts <= o.ts)`},
	{CheckLog, "parents of former moves are not noted", `SELECT count(*) FROM ops o
		WHERE o.kind = 1 AND NOT EXISTS (SELECT 1 FROM named p WHERE p.node = o.parent)`},
	{CheckLog, "timestamps are noted wrongly", `SELECT abs(count(*) - (SELECT count(*) FROM stamps))
			+ count(*) FILTER (WHERE NOT EXISTS (SELECT 1 FROM stamps s WHERE s.ts = o.ts AND s.node = o.node AND s.key = o.key))
		FROM (SELECT ts, node, '' AS key, seq FROM nodes UNION ALL SELECT ts, node, key, seq FROM vals
			UNION ALL SELECT ts, node, key, seq FROM ops) AS o WHERE seq <> 0`},
	{CheckLog, "operations share a timestamp", `SELECT count(*) - count(DISTINCT ts) FROM
		(SELECT ts FROM nodes UNION ALL SELECT ts FROM vals UNION ALL SELECT ts FROM ops)`},
	{CheckLog, "operations share a seq", `SELECT count(*) - count(DISTINCT seq) FROM
		(SELECT seq FROM nodes UNION ALL SELECT seq FROM vals UNION ALL SELECT seq FROM ops) WHERE seq > 0`},
	{CheckLog, "operations have a seq that is not reached yet", `SELECT count(*) FROM
		(SELECT seq FROM nodes UNION ALL SELECT seq FROM vals UNION ALL SELECT seq FROM ops)
		WHERE seq > (SELECT max(seq, acked) FROM meta)`},
	{CheckLog, "moves are newer than the newest", `SELECT count(*) FROM
		(SELECT ts FROM nodes UNION ALL SELECT ts FROM ops WHERE kind = 1) WHERE ts > (SELECT newest FROM meta)`},
	{CheckOutbox, "operations are neither pending nor acknowledged", `SELECT count(*) FROM
		(SELECT ts, seq FROM nodes UNION ALL SELECT ts, seq FROM vals UNION ALL SELECT ts, seq FROM ops)
		WHERE seq = 0 AND ts NOT IN (SELECT ts FROM outbox)`},
	{CheckOutbox, "pending moves are not in the log", `SELECT count(*) FROM outbox x WHERE kind = 1
		AND NOT EXISTS (SELECT 1 FROM nodes n WHERE n.node = x.node AND n.ts = x.ts AND n.seq = 0
			AND n.parent = x.parent AND n.order_key = x.order_key)
		AND NOT EXISTS (SELECT 1 FROM ops o WHERE o.node = x.node AND o.key = '' AND o.ts = x.ts AND o.seq = 0
			AND o.parent = x.parent AND o.order_key = x.order_key)`},
	{CheckOutbox, "pending writes are not in the log", `SELECT count(*) FROM outbox x WHERE kind = 2
		AND NOT EXISTS (SELECT 1 FROM vals v WHERE v.node = x.node AND v.key = x.key AND v.ts = x.ts AND v.seq = 0
			AND v.value = x.value)
		AND NOT EXISTS (SELECT 1 FROM ops o WHERE o.node = x.node AND o.key = x.key AND o.ts = x.ts AND o.seq = 0
			AND o.value = x.value)`},
	{CheckOutbox, "pending operations are counted wrongly",
		`SELECT abs(pending - (SELECT count(*) FROM outbox)) FROM meta`},
	{CheckOutbox, "refused operations are counted wrongly",
		`SELECT abs(refused - (SELECT count(*) FROM outbox WHERE refused IS NOT NULL)) FROM meta`},
}

func (e *examination) rules() error {
	for _, rule := range rules {
		if err := e.ctx.Err(); err != nil {
			return err
		}
		var n int64
		if err := e.once(rule.count, &n); err != nil {
			return err
		}
		if n > 0 {
			e.d.find(rule.check, "%d %s", n, rule.detail)
		}
	}
	return nil
}

// maxComparisons bounds the attempts to meet the server at one cursor.
const maxComparisons = 10

// compare compares with the server as soon as both are at the same cursor.
func (c *Client) compare(ctx context.Context, d *Diagnosis) error {
	for range maxComparisons {
		if err := c.WaitSynced(ctx); err != nil && !errors.Is(err, ErrRefused) {
			return err
		}
		theirs, err := c.stats(ctx)
		if err != nil {
			return err
		}
		m, ours, err := c.settled(ctx)
		if err != nil {
			return err
		}
		if m.epoch != theirs.Epoch || m.seq != theirs.Head || m.acked > m.seq {
			continue // it goes on meanwhile
		}
		d.Compared = true
		if m.pending > 0 { // what is pending cannot be taken out of the state
			theirs.Digest.State, ours.State = 0, 0
		}
		if ours != theirs.Digest {
			d.find(CheckServer, "at seq %d the server has digest %+v, the replica %+v", m.seq, theirs.Digest, ours)
			return c.narrow(ctx, d)
		}
		return nil
	}
	return nil
}

// narrow finds out in which operations the logs differ.
func (c *Client) narrow(ctx context.Context, d *Diagnosis) error {
	found, err := c.compareLogs(ctx)
	if beyondMending(err) {
		d.find(CheckServer, "%v", err)
		return nil
	}
	if err != nil {
		return err
	}
	differences := map[moveop.Timestamp]Difference{}
	for i := range found.surplus {
		differences[found.surplus[i].TS] = Difference{TS: found.surplus[i].TS, Here: true}
	}
	for i := range found.lacking {
		ts := found.lacking[i].TS
		differences[ts] = Difference{TS: ts, Here: differences[ts].Here, There: true}
	}
	d.Differences = slices.SortedFunc(maps.Values(differences), func(a, b Difference) int { return a.TS.Compare(b.TS) })
	d.find(CheckServer, "the logs differ in %d operations", len(d.Differences))
	return nil
}

// settled is the digest without the operations that are pending, with the meta row that it belongs to.
func (c *Client) settled(ctx context.Context) (m meta, digest moveop.Digest, err error) {
	err = c.store.view(ctx, func(s *session) error {
		if err := m.load(s); err != nil {
			return err
		}
		digest = m.digest
		return s.each(`SELECT `+outboxColumns+` FROM outbox`, nil, func(rows *sql.Rows) error {
			op, err := scanOp(rows)
			digest.Ops--
			digest.Log ^= op.LogHash()
			return err
		})
	})
	return m, digest, err
}

// stats asks the realtime service where the room stands.
func (c *Client) stats(ctx context.Context) (stats wire.Stats, err error) {
	err = c.opts.askFor(ctx, "stats", &stats, maxAnswer)
	if errors.Is(err, wire.ErrUnknownRoom) && c.store.meta.Load().seq == 0 {
		return wire.Stats{Room: c.opts.Room, Epoch: c.store.meta.Load().epoch}, nil // it is not made yet
	}
	if err != nil {
		return stats, fmt.Errorf("ask for the room's digest: %w", err)
	}
	return stats, nil
}

// Repair corrects what Doctor finds. If the log differs from the server's in few operations and nothing
// else is wrong, it exchanges those; otherwise it loads the room anew and applies the pending operations
// on top. It returns when the replica is in step again. No pending operation is lost, and the old state
// stays until the new one is complete. If the file is too damaged even for that, the error is ErrCorrupt:
// see Salvage.
func (c *Client) Repair(ctx context.Context) error {
	if c.opts.RealtimeURL == "" {
		return fmt.Errorf("repair replica: %w", ErrOffline)
	}
	err := c.store.update(ctx, Local, (*txn).recountOutbox)
	if err == nil {
		err = c.mend(ctx)
	}
	if err != nil {
		return fmt.Errorf("repair replica: %w", err)
	}
	return c.WaitSynced(ctx)
}

// mend has the sync loop put right what is wrong, and waits until it has.
func (c *Client) mend(ctx context.Context) error {
	outcome := make(chan error, 1)
	select {
	case c.repairs <- outcome:
	case <-c.store.closed:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-outcome:
		return err
	case <-c.store.closed:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// recountOutbox makes what is counted agree with what is there.
func (t *txn) recountOutbox() error {
	return t.once(`SELECT count(*), count(refused) FROM outbox`, &t.meta.pending, &t.meta.refused)
}
