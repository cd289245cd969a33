package client

import (
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// childPage is a row of pages: a page of a node's children as the realtime service serves them. The pages of one
// parent follow each other without a gap, and the last one may be missing.
type childPage struct {
	parent moveop.NodeID
	number int
	cursor string // the server's, empty for the first page
	after  Cursor // the position behind which it begins
}

type pageState int

const (
	pageMissing pageState = iota // to be fetched when it is read
	pageHere
	// pageStale is here, but contains a new node of which only the placement is known.
	pageStale
)

// Pages do not contain the timestamps of the operations behind them. So a page is taken in as operations that
// stand in for those, with timestamps of their own: without a replica, in the order of arrival, before all real
// ones. Every real operation goes on top of them, and the snapshot removes them all.

// standInSeq is the seq of operations that stand in: neither pending nor the server's.
const standInSeq = -1

// isStandIn is a condition on a timestamp.
const isStandIn = `substr(ts, 9) = zeroblob(8)`

// standIn returns the next timestamp for an operation that stands in: the version of the file that this transaction
// makes, and a counter.
func (t *txn) standIn() moveop.Timestamp {
	t.standIns++
	serial := uint64(t.meta.version+1)<<24 | t.standIns&(1<<24-1)
	return moveop.NewTimestamp(int64(serial>>16), uint16(serial), 0)
}

const pageColumns = `parent, page, cursor, order_key, node`

func (p *childPage) scan() []any {
	return []any{(*blob)(&p.parent), &p.number, &p.cursor, &p.after.OrderKey, (*blob)(&p.after.Node)}
}

// missingPage returns the page to fetch next in order to have the first limit children of parent after a cursor.
func (s *session) missingPage(parent moveop.NodeID, after Cursor, limit int) (p childPage, missing bool, err error) {
	missing, err = s.row(`SELECT `+pageColumns+` FROM pages WHERE parent = ? AND state = ?`,
		[]any{parent[:], int(pageMissing)}, p.scan()...)
	if err != nil || !missing {
		return p, false, err
	}
	here := 0
	if p.number > 0 {
		_, err = s.row(`SELECT count(*) FROM (SELECT 1 FROM nodes
				WHERE parent = ? AND (order_key, node) > (?, ?) AND (order_key, node) <= (?, ?) LIMIT ?)`,
			[]any{parent[:], after.OrderKey, after.Node[:], p.after.OrderKey, p.after.Node[:], limit}, &here)
	}
	return p, here < limit, err
}

// stalePage returns one of the pages that should be fetched again.
func (s *session) stalePage() (p childPage, stale bool, err error) {
	stale, err = s.row(`SELECT `+pageColumns+` FROM pages WHERE state = ? LIMIT 1`, []any{int(pageStale)}, p.scan()...)
	return p, stale, err
}

// addPage notes a page, if it is not noted yet.
func (t *txn) addPage(p childPage, state pageState) error {
	_, err := t.exec(`INSERT INTO pages (`+pageColumns+`, state) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		p.parent[:], p.number, p.cursor, p.after.OrderKey, p.after.Node[:], int(state))
	return err
}

// errOtherHistory means that the server's history was replaced since the preview began.
var errOtherHistory = errors.New("the server has another history")

// takePage takes in a fetched page. The first one gives the replica its cursor: that of the page. Operations after
// the cursor are applied on top of this page and of later ones alike, so every page shown includes at least
// everything up to the cursor.
func (t *txn) takePage(p childPage, page wire.Page) error {
	switch {
	case t.store.whole.Load():
		return nil // the snapshot was quicker
	case t.meta.epoch == "":
		if err := t.beginPreview(page.Epoch, page.Seq); err != nil {
			return err
		}
	case !t.meta.partial:
		return nil // likewise, a moment ago
	case t.meta.epoch != page.Epoch:
		return errOtherHistory
	case page.Seq < t.store.previewed:
		return fmt.Errorf("%w: a page at seq %d after one at %d", errInvalid, page.Seq, t.store.previewed)
	}
	if err := t.standInFor(page.Nodes); err != nil {
		return err
	}
	state := pageHere
	if page.Seq < t.meta.seq {
		state = pageStale // operations in between may be about nodes that were unknown here then
	}
	_, err := t.exec(`UPDATE pages SET state = ? WHERE parent = ? AND page = ?`, int(state), p.parent[:], p.number)
	if err != nil || page.Next == nil || len(page.Nodes) == 0 {
		return err
	}
	last := page.Nodes[len(page.Nodes)-1]
	next := childPage{p.parent, p.number + 1, *page.Next, Cursor{last.OrderKey, last.ID}}
	return t.addPage(next, pageMissing)
}

// beginPreview puts the cursor where the first page was read.
func (t *txn) beginPreview(epoch string, seq int64) error {
	t.meta.epoch, t.meta.seq, t.meta.partial = epoch, seq, true
	t.store.previewed = seq
	for _, top := range []moveop.NodeID{moveop.Root, moveop.Trash} {
		if err := t.addPage(childPage{parent: top}, pageMissing); err != nil {
			return err
		}
	}
	return nil
}

// standInFor makes operations that give the nodes of a page their place and properties on it, unless an earlier page
// has done so.
func (t *txn) standInFor(nodes []wire.Node) error {
	var ops []moveop.Op
	for i := range nodes {
		n := &nodes[i]
		place, values, err := t.stoodInFor(n.ID)
		if err != nil {
			return err
		}
		if place != (Place{n.Parent, n.OrderKey}) {
			ops = append(ops, moveop.Op{Kind: moveop.Move, Node: n.ID, Parent: n.Parent, OrderKey: n.OrderKey})
		}
		for key := range values {
			if _, ok := n.Props[key]; !ok {
				n.Props[key] = []byte("null")
			}
		}
		for _, key := range slices.Sorted(maps.Keys(n.Props)) {
			if value := n.Props[key]; values[key] != string(value) {
				ops = append(ops, moveop.Op{Kind: moveop.Set, Node: n.ID, Key: key, Value: value})
			}
		}
		if n.Children > 0 {
			if err := t.addPage(childPage{parent: n.ID}, pageMissing); err != nil {
				return err
			}
		}
	}
	for i := range ops {
		ops[i].TS, ops[i].Seq = t.standIn(), standInSeq
	}
	return t.add(ops)
}

// stoodInFor returns what earlier pages said about a node.
func (t *txn) stoodInFor(n moveop.NodeID) (place Place, values map[string]string, err error) {
	_, err = t.row(`SELECT parent, order_key FROM (
			SELECT ts, parent, order_key FROM nodes WHERE node = ?1
			UNION ALL SELECT ts, parent, order_key FROM ops WHERE node = ?1 AND key = '')
		WHERE `+isStandIn+` ORDER BY ts DESC LIMIT 1`, []any{n[:]}, (*blob)(&place.Parent), &place.OrderKey)
	if err != nil {
		return place, nil, err
	}
	values = map[string]string{}
	err = t.each(`SELECT key, value FROM (
			SELECT ts, key, value FROM vals WHERE node = ?1
			UNION ALL SELECT ts, key, value FROM ops WHERE node = ?1 AND key <> '')
		WHERE `+isStandIn+` ORDER BY ts`, []any{n[:]}, func(rows *sql.Rows) error {
		var key, value string
		err := rows.Scan(&key, &value)
		values[key] = value
		return err
	})
	return place, values, err
}

// unknownNodes returns the nodes that operations move and that are not here.
func (t *txn) unknownNodes(ops []moveop.Op) (unknown []moveop.NodeID, err error) {
	for i := range ops {
		if ops[i].Kind != moveop.Move {
			continue
		}
		_, known, err := t.placement(ops[i].Node)
		if err != nil {
			return nil, err
		}
		if !known {
			unknown = append(unknown, ops[i].Node)
		}
	}
	return unknown, nil
}

// sight notes what to fetch for nodes that an operation has brought into sight: their children, and the pages that
// contain them, because those have their properties.
func (t *txn) sight(nodes []moveop.NodeID) error {
	for _, n := range nodes {
		now, ok, err := t.placement(n)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if err := t.addPage(childPage{parent: n}, pageMissing); err != nil {
			return err
		}
		if err := t.stale(now.parent, Cursor{now.orderKey, n}); err != nil {
			return err
		}
	}
	return nil
}

// stale notes that the page at a position must be fetched again, if it is here. A node without pages had no children,
// so all of them were here.
func (t *txn) stale(parent moveop.NodeID, at Cursor) error {
	if _, known, err := t.placement(parent); err != nil || !known && !parent.IsReserved() {
		return err
	}
	if err := t.addPage(childPage{parent: parent}, pageStale); err != nil {
		return err
	}
	_, err := t.exec(`UPDATE pages SET state = ? WHERE parent = ? AND state = ? AND page =
		(SELECT max(page) FROM pages WHERE parent = ? AND (order_key, node) < (?, ?))`,
		int(pageStale), parent[:], int(pageHere), parent[:], at.OrderKey, at.Node[:])
	return err
}

// forgetPreview removes everything that was not made here. Acknowledged operations stay, pending again, unless the
// server still has all of the history in which it acknowledged them.
func (t *txn) forgetPreview(epoch string) error {
	var own []queued
	held := &t.store.held
	if epoch != t.meta.epoch || held.epoch == epoch && held.head < t.meta.seq {
		var err error
		if own, err = t.acknowledged(); err != nil {
			return err
		}
		if _, err := t.exec(`UPDATE outbox SET known = 0`); err != nil {
			return err
		}
	}
	for _, table := range []string{"nodes", "vals", "ops", "named", "stamps", "pages"} {
		if _, err := t.exec("DELETE FROM " + table); err != nil {
			return err
		}
	}
	t.meta.epoch, t.meta.seq, t.meta.acked, t.meta.partial = "", 0, 0, false
	t.meta.digest, t.meta.newest = moveop.Digest{}, moveop.Timestamp{}
	t.changes.all()
	return t.reapply(own)
}

// acknowledged returns this replica's acknowledged operations, to be made again.
func (t *txn) acknowledged() (own []queued, err error) {
	ops, err := t.since(0)
	if err != nil {
		return nil, err
	}
	err = t.each(`SELECT replica FROM own`, nil, func(rows *sql.Rows) error {
		var replica []byte
		if err := rows.Scan(&replica); err != nil {
			return err
		}
		for _, op := range ops {
			if string(op.TS[8:]) == string(replica) {
				op.Seq, op.Known = 0, 0
				own = append(own, queued{op: op, edit: t.meta.version + 1})
			}
		}
		return nil
	})
	slices.SortFunc(own, func(a, b queued) int { return a.op.TS.Compare(b.op.TS) })
	return own, err
}

// since returns the server's operations behind a seq.
func (t *txn) since(seq int64) (ops []moveop.Op, err error) {
	err = t.each(`SELECT 1, ts, node, parent, order_key, NULL, NULL, seq, known, cause FROM nodes WHERE seq > ?1
		UNION ALL SELECT 2, ts, node, NULL, NULL, key, value, seq, known, NULL FROM vals WHERE seq > ?1
		UNION ALL SELECT kind, ts, node, parent, order_key, key, value, seq, known, cause FROM ops WHERE seq > ?1`,
		[]any{seq}, func(rows *sql.Rows) error {
			op, err := scanOp(rows)
			ops = append(ops, op)
			return err
		})
	return ops, err
}
