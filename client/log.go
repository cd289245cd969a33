package client

import (
	"database/sql"
	"fmt"
	"slices"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/tree"
)

// moveLog is the file's move log as package tree replays it. A node's last effective move is its row
// in nodes, all its other moves are in ops: so a flag that flips may make a row change tables.
type moveLog struct{ *txn }

var _ tree.Log = moveLog{}

// placement is a row of nodes: the body and circumstances of a node's last effective move.
type placement struct {
	parent     moveop.NodeID
	orderKey   string
	ts         moveop.Timestamp
	seq, known int64
	cause      moveop.Timestamp
}

func placementOf(op *moveop.Op) placement {
	return placement{op.Parent, op.OrderKey, op.TS, op.Seq, op.Known, op.Cause}
}

func (p placement) place() Place { return Place{p.parent, p.orderKey} }

const placementColumns = `parent, order_key, ts, seq, known, cause`

// scan returns the destinations for placementColumns.
func (p *placement) scan() []any {
	return []any{(*blob)(&p.parent), &p.orderKey, (*blob)(&p.ts), &p.seq, &p.known, (*blob)(&p.cause)}
}

// placement returns where n is.
func (t *txn) placement(n moveop.NodeID) (p placement, ok bool, err error) {
	ok, err = t.row(`SELECT `+placementColumns+` FROM nodes WHERE node = ?`, []any{n[:]}, p.scan()...)
	return p, ok, err
}

// Newest implements tree.Log.
func (l moveLog) Newest() (moveop.Timestamp, error) { return l.meta.newest, nil }

// Horizon implements tree.Log.
func (l moveLog) Horizon() moveop.Timestamp { return l.meta.horizon }

// NamedAsParent implements tree.Log.
func (l moveLog) NamedAsParent(n moveop.NodeID) (named bool, err error) {
	_, err = l.row(`SELECT EXISTS (SELECT 1 FROM nodes WHERE parent = ?1)
		OR EXISTS (SELECT 1 FROM named WHERE node = ?1)`, []any{n[:]}, &named)
	return named, err
}

// ParentBefore implements tree.Log.
func (l moveLog) ParentBefore(n moveop.NodeID, t moveop.Timestamp) (parent moveop.NodeID, ok bool, err error) {
	var ts moveop.Timestamp
	ok, err = l.row(`SELECT parent, ts FROM nodes WHERE node = ?`, []any{n[:]}, (*blob)(&parent), (*blob)(&ts))
	if err != nil || !ok || ts.Before(t) {
		return parent, ok, err // a node without a row has no effective move at all
	}
	ok, err = l.row(`SELECT parent FROM ops WHERE node = ? AND key = '' AND ts < ? AND effective
		ORDER BY ts DESC LIMIT 1`, []any{n[:], t[:]}, (*blob)(&parent))
	return parent, ok, err
}

// NextEffective implements tree.Log.
func (l moveLog) NextEffective(n moveop.NodeID, t moveop.Timestamp) (next moveop.Timestamp, err error) {
	ok, err := l.row(`SELECT ts FROM ops WHERE node = ? AND key = '' AND ts > ? AND effective
		ORDER BY ts LIMIT 1`, []any{n[:], t[:]}, (*blob)(&next))
	if err != nil || ok {
		return next, err // the row in nodes is later than all in ops
	}
	ok, err = l.row(`SELECT ts FROM nodes WHERE node = ? AND ts > ?`, []any{n[:], t[:]}, (*blob)(&next))
	if !ok {
		next = moveop.MaxTimestamp
	}
	return next, err
}

// MovesOf implements tree.Log.
func (l moveLog) MovesOf(dst []tree.Move, n moveop.NodeID, from, to moveop.Timestamp) ([]tree.Move, error) {
	return l.moves(dst, `SELECT ts, node, parent, effective FROM ops
			WHERE node = ?1 AND key = '' AND ts > ?2 AND ts < ?3
		UNION ALL SELECT ts, node, parent, 1 FROM nodes WHERE node = ?1 AND ts > ?2 AND ts < ?3`,
		n[:], from[:], to[:])
}

// MovesIn implements tree.Log.
func (l moveLog) MovesIn(dst []tree.Move, from, to moveop.Timestamp, limit int) ([]tree.Move, error) {
	start := len(dst)
	dst, err := l.moves(dst, `WITH s AS (
			SELECT * FROM (SELECT ts, node FROM stamps WHERE ts > ?1 AND ts < ?2 AND key = '' ORDER BY ts LIMIT ?3)
			UNION ALL
			SELECT * FROM (SELECT ts, node FROM outbox WHERE ts > ?1 AND ts < ?2 AND kind = 1 ORDER BY ts LIMIT ?3))
		SELECT n.ts, n.node, n.parent, 1 FROM s CROSS JOIN nodes n ON n.node = s.node AND n.ts = s.ts
		UNION ALL SELECT o.ts, o.node, o.parent, o.effective
			FROM s CROSS JOIN ops o ON o.node = s.node AND o.key = '' AND o.ts = s.ts`,
		from[:], to[:], limit)
	return dst[:min(len(dst), start+limit)], err
}

// moves appends what a query gives, in timestamp order.
func (l moveLog) moves(dst []tree.Move, query string, args ...any) ([]tree.Move, error) {
	start := len(dst)
	err := l.each(query, args, func(rows *sql.Rows) error {
		var m tree.Move
		err := rows.Scan((*blob)(&m.TS), (*blob)(&m.Node), (*blob)(&m.Parent), &m.Effective)
		dst = append(dst, m)
		return err
	})
	slices.SortFunc(dst[start:], func(a, b tree.Move) int { return a.TS.Compare(b.TS) })
	return dst, err
}

// Add implements tree.Log.
func (l moveLog) Add(op moveop.Op, effective bool) error {
	if l.meta.newest.Before(op.TS) {
		l.meta.newest = op.TS
	}
	l.count(&op)
	if err := l.stamp(&op); err != nil {
		return err
	}
	if !effective {
		return l.insertMove(op.Node, placementOf(&op), false)
	}
	return l.enter(op.Node, placementOf(&op))
}

// append adds a move that is effective and later than all in the log; now is where its node is.
func (l moveLog) append(op *moveop.Op, now placement) error {
	l.meta.newest = op.TS
	l.count(op)
	if now.ts.IsZero() {
		return l.insertNode(op.Node, placementOf(op))
	}
	return l.replace(op.Node, now, placementOf(op))
}

// replace makes a later move of a node current in place of the one that was.
func (l moveLog) replace(n moveop.NodeID, was, p placement) error {
	if err := l.insertMove(n, was, true); err != nil {
		return err
	}
	return l.updateNode(n, was, p)
}

// enter adds an effective move that is in neither table.
func (l moveLog) enter(n moveop.NodeID, p placement) error {
	now, placed, err := l.placement(n)
	switch {
	case err != nil:
		return err
	case !placed:
		return l.insertNode(n, p)
	case p.ts.Before(now.ts):
		return l.insertMove(n, p, true)
	}
	return l.replace(n, now, p)
}

// SetEffective implements tree.Log.
func (l moveLog) SetEffective(m tree.Move, effective bool) error {
	if effective {
		p, err := l.takeMove(m.Node, m.TS)
		if err != nil {
			return err
		}
		return l.enter(m.Node, p)
	}
	now, placed, err := l.placement(m.Node)
	if err != nil {
		return err
	}
	if !placed || now.ts != m.TS {
		_, err := l.exec(`UPDATE ops SET effective = 0 WHERE node = ? AND key = '' AND ts = ?`, m.Node[:], m.TS[:])
		return err
	}
	return l.fallBack(m.Node, now)
}

// fallBack makes a node's current move history that is not effective, and the last effective one
// before it, if any, current.
func (l moveLog) fallBack(n moveop.NodeID, now placement) error {
	if err := l.insertMove(n, now, false); err != nil {
		return err
	}
	var ts moveop.Timestamp
	ok, err := l.row(`SELECT ts FROM ops WHERE node = ? AND key = '' AND effective ORDER BY ts DESC LIMIT 1`,
		[]any{n[:]}, (*blob)(&ts))
	if err != nil {
		return err
	}
	if !ok {
		l.meta.digest.State ^= moveop.PlacementHash(n, now.parent, now.orderKey)
		l.changes.moved(n, now, placement{})
		_, err = l.exec(`DELETE FROM nodes WHERE node = ?`, n[:])
		return err
	}
	p, err := l.takeMove(n, ts)
	if err != nil {
		return err
	}
	return l.updateNode(n, now, p)
}

func (l moveLog) insertNode(n moveop.NodeID, p placement) error {
	l.meta.digest.State ^= moveop.PlacementHash(n, p.parent, p.orderKey)
	l.changes.moved(n, placement{}, p)
	_, err := l.exec(`INSERT INTO nodes (node, `+placementColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		n[:], p.parent[:], p.orderKey, p.ts[:], p.seq, p.known, orNull(p.cause))
	return err
}

func (l moveLog) updateNode(n moveop.NodeID, was, p placement) error {
	l.meta.digest.State ^= moveop.PlacementHash(n, was.parent, was.orderKey) ^ moveop.PlacementHash(n, p.parent, p.orderKey)
	l.changes.moved(n, was, p)
	_, err := l.exec(`UPDATE nodes SET parent = ?, order_key = ?, ts = ?, seq = ?, known = ?, cause = ? WHERE node = ?`,
		p.parent[:], p.orderKey, p.ts[:], p.seq, p.known, orNull(p.cause), n[:])
	return err
}

// insertMove puts a move into the history.
func (l moveLog) insertMove(n moveop.NodeID, p placement, effective bool) error {
	_, err := l.exec(`INSERT INTO ops (ts, kind, node, parent, order_key, key, seq, known, cause, effective)
		VALUES (?, 1, ?, ?, ?, '', ?, ?, ?, ?)`,
		p.ts[:], n[:], p.parent[:], p.orderKey, p.seq, p.known, orNull(p.cause), effective)
	if err != nil {
		return err
	}
	return l.execBulk(namedBulk, []any{p.parent[:]})
}

// takeMove takes a move of a node out of the history.
func (l moveLog) takeMove(n moveop.NodeID, ts moveop.Timestamp) (p placement, err error) {
	ok, err := l.row(`SELECT `+placementColumns+` FROM ops WHERE node = ? AND key = '' AND ts = ?`,
		[]any{n[:], ts[:]}, p.scan()...)
	if err == nil && !ok {
		err = fmt.Errorf("%w: move %s is in neither table", ErrCorrupt, ts)
	}
	if err != nil {
		return p, err
	}
	_, err = l.exec(`DELETE FROM ops WHERE node = ? AND key = '' AND ts = ?`, n[:], ts[:])
	return p, err
}

// supersede logs a set that is newer than the current write of its property.
func (t *txn) supersede(now, op *moveop.Op) error {
	t.count(op)
	t.meta.digest.State ^= moveop.ValueHash(op.Node, op.Key, now.TS)
	if err := t.insertSet(now); err != nil {
		return err
	}
	return t.putValue(op)
}

// stampsBulk replaces, because then SQLite does not look whether there is something to replace first.
var stampsBulk = newBulk("INSERT OR REPLACE INTO stamps (ts, node, key) VALUES ", 3, "")

// stampArgs appends the row of stamps that an operation has, for stampsBulk: none while it is pending.
func stampArgs(args []any, op *moveop.Op) []any {
	if op.Seq == 0 {
		return args
	}
	return append(args, op.TS[:], op.Node[:], op.Key)
}

// stamp notes the timestamp of a logged operation that is not pending.
func (t *txn) stamp(op *moveop.Op) error { return t.execBulk(stampsBulk, stampArgs(nil, op)) }

// unstamp forgets the timestamp of an operation that is taken out of the log.
func (t *txn) unstamp(op *moveop.Op) error {
	if op.Seq == 0 {
		return nil
	}
	_, err := t.exec(`DELETE FROM stamps WHERE ts = ?`, op.TS[:])
	return err
}

// stampAll makes stamps anew from what it summarises.
func (s *session) stampAll() error {
	return s.sorting(func() error { return s.atomically(`DELETE FROM stamps`, fillStamps("")) })
}

// count adds an operation to the digest of the log.
func (t *txn) count(op *moveop.Op) {
	t.meta.digest.Ops++
	t.meta.digest.Log ^= op.LogHash()
}

// write returns the current write of a property, as the set that it is.
func (t *txn) write(n moveop.NodeID, key string) (op moveop.Op, ok bool, err error) {
	var value string
	op = moveop.Op{Kind: moveop.Set, Node: n, Key: key}
	ok, err = t.row(`SELECT value, ts, seq, known FROM vals WHERE node = ? AND key = ?`, []any{n[:], key},
		&value, (*blob)(&op.TS), &op.Seq, &op.Known)
	op.Value = []byte(value)
	return op, ok, err
}

// putValue makes a set its property's current write. What was there is the caller's business.
func (t *txn) putValue(op *moveop.Op) error {
	t.meta.digest.State ^= moveop.ValueHash(op.Node, op.Key, op.TS)
	t.changes.written(op)
	_, err := t.exec(`INSERT INTO vals (node, key, value, ts, seq, known) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET value = excluded.value, ts = excluded.ts, seq = excluded.seq, known = excluded.known`,
		op.Node[:], op.Key, string(op.Value), op.TS[:], op.Seq, op.Known)
	return err
}

func (t *txn) insertSet(op *moveop.Op) error {
	_, err := t.exec(`INSERT INTO ops (ts, kind, node, key, value, seq, known, effective) VALUES (?, 2, ?, ?, ?, ?, ?, 1)`,
		op.TS[:], op.Node[:], op.Key, string(op.Value), op.Seq, op.Known)
	return err
}

// stampedQuery gives the whole operations that s names, by timestamp, node and key.
const stampedQuery = `
	SELECT 1, n.ts, n.node, n.parent, n.order_key, NULL, NULL, n.seq, n.known, n.cause
		FROM s CROSS JOIN nodes n ON n.node = s.node AND n.ts = s.ts
	UNION ALL SELECT 2, v.ts, v.node, NULL, NULL, v.key, v.value, v.seq, v.known, NULL
		FROM s CROSS JOIN vals v ON v.node = s.node AND v.key = s.key AND v.ts = s.ts
	UNION ALL SELECT o.kind, o.ts, o.node, o.parent, o.order_key, o.key, o.value, o.seq, o.known, o.cause
		FROM s CROSS JOIN ops o ON o.node = s.node AND o.key = s.key AND o.ts = s.ts`

// logged calls fn for the operations from and to included, in no useful order. Fn must not use the session.
func (s *session) logged(from, to moveop.Timestamp, fn func(op moveop.Op) error) error {
	return s.each(`WITH s AS NOT MATERIALIZED (
			SELECT ts, node, key FROM stamps WHERE ts BETWEEN ?1 AND ?2
			UNION ALL SELECT ts, node, coalesce(key, '') FROM outbox WHERE ts BETWEEN ?1 AND ?2)`+stampedQuery,
		[]any{from[:], to[:]}, func(rows *sql.Rows) error {
			op, err := scanOp(rows)
			if err != nil {
				return err
			}
			return fn(op)
		})
}

// scanOp reads an operation from a row that ends with kind, ts, node, parent, order_key, key, value,
// seq, known, cause; first is where the columns before go.
func scanOp(rows *sql.Rows, first ...any) (op moveop.Op, err error) {
	var orderKey, key, value sql.NullString
	err = rows.Scan(append(first, &op.Kind, (*blob)(&op.TS), (*blob)(&op.Node), (*blob)(&op.Parent),
		&orderKey, &key, &value, &op.Seq, &op.Known, (*blob)(&op.Cause))...)
	op.OrderKey, op.Key = orderKey.String, key.String
	if op.Kind == moveop.Set {
		op.Value = []byte(value.String)
	}
	return op, err
}
