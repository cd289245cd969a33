package client

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// Refusal is an operation that the server refused for good. It is part of what is read here, and of
// nobody else's tree.
type Refusal struct {
	Op   moveop.Op
	Edit int64     // the local transaction that made it: Version of its Event
	Code wire.Code // why
}

// Refused lists the operations that the server refused for good, in the order in which they were made.
func (c *Client) Refused(ctx context.Context) (refusals []Refusal, err error) {
	err = c.store.view(ctx, func(s *session) error {
		return s.each(`SELECT edit, refused, `+outboxColumns+` FROM outbox WHERE refused IS NOT NULL ORDER BY ts`,
			nil, func(rows *sql.Rows) error {
				var r Refusal
				r.Op, err = scanOp(rows, &r.Edit, &r.Code)
				refusals = append(refusals, r)
				return err
			})
	})
	return refusals, err
}

// outboxColumns are in the order of scanOp.
const outboxColumns = `kind, ts, node, parent, order_key, key, value, 0, known, NULL`

// queue appends a new operation of this replica to the outbox.
func (t *txn) queue(op *moveop.Op) error {
	t.meta.pending++
	t.meta.issued = op.TS
	return t.insertQueued(op, t.meta.version+1, nil)
}

func (t *txn) insertQueued(op *moveop.Op, edit int64, refused any) error {
	var parent, orderKey, key, value any
	if op.Kind == moveop.Move {
		parent, orderKey = op.Parent[:], op.OrderKey
	} else {
		key, value = op.Key, string(op.Value)
	}
	_, err := t.exec(`INSERT INTO outbox (ts, kind, node, parent, order_key, key, value, known, edit, refused)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		op.TS[:], int(op.Kind), op.Node[:], parent, orderKey, key, value, op.Known, edit, refused)
	return err
}

// unqueue takes an operation that the server has out of the outbox, if it is there.
func (t *txn) unqueue(ts moveop.Timestamp) error {
	var refused bool
	ok, err := t.row(`SELECT refused IS NOT NULL FROM outbox WHERE ts = ?`, []any{ts[:]}, &refused)
	if err != nil || !ok {
		return err
	}
	t.meta.pending--
	if refused {
		t.meta.refused--
	}
	_, err = t.exec(`DELETE FROM outbox WHERE ts = ?`, ts[:])
	return err
}

// queued is an operation of the outbox.
type queued struct {
	op      moveop.Op
	edit    int64
	refused sql.NullString
}

// outbox returns everything in it, in order.
func (t *txn) outbox() (all []queued, err error) {
	err = t.each(`SELECT edit, refused, `+outboxColumns+` FROM outbox ORDER BY ts`, nil, func(rows *sql.Rows) error {
		var q queued
		q.op, err = scanOp(rows, &q.edit, &q.refused)
		all = append(all, q)
		return err
	})
	return all, err
}

// batch returns the first operations to push: at most n, and no more bytes than given but for the
// first one.
func (s *session) batch(n int, bytes int64) (ops []moveop.Op, err error) {
	err = s.each(`SELECT `+outboxColumns+` FROM outbox WHERE refused IS NULL ORDER BY ts LIMIT ?`, []any{n},
		func(rows *sql.Rows) error {
			op, err := scanOp(rows)
			if bytes -= pushBytes(&op); bytes >= 0 || len(ops) == 0 {
				ops = append(ops, op)
			}
			return err
		})
	return ops, err
}

// pushBytes is at least what an operation takes in a push, in either form.
func pushBytes(op *moveop.Op) int64 {
	const fixed = 256                                                      // three ids as text, kind, known, the names of the fields
	return int64(fixed + len(op.OrderKey) + 6*len(op.Key) + len(op.Value)) // a key's bytes may need \u escapes
}

// acknowledge records what the server answered for a batch.
func (t *txn) acknowledge(results []wire.Result) error {
	for _, r := range results {
		op := moveop.Op{TS: r.TS, Seq: r.Seq}
		ok, err := t.row(`SELECT kind, node, coalesce(key, '') FROM outbox WHERE ts = ?`, []any{r.TS[:]},
			&op.Kind, (*blob)(&op.Node), &op.Key)
		if err != nil {
			return err
		}
		if !ok {
			continue // it came back before its acknowledgement did
		}
		if err := t.number(&op, r.Seq); err != nil {
			return err
		}
		if err := t.unqueue(r.TS); err != nil {
			return err
		}
		t.accept(r.TS)
		t.meta.acked = max(t.meta.acked, r.Seq)
	}
	return nil
}

// refuse marks an operation that the server will never take. It stays in the outbox, out of the way
// of the others.
func (t *txn) refuse(ts moveop.Timestamp, code wire.Code) error {
	n, err := t.exec(`UPDATE outbox SET refused = ? WHERE ts = ? AND refused IS NULL`, string(code), ts[:])
	t.meta.refused += n
	return err
}

// setClock takes over the server's time and stamps everything in the outbox anew.
func (t *txn) setClock(offset time.Duration) error {
	t.meta.offset = offset
	return t.restamp()
}

// rename gives this replica a new id, because another copy of the file goes by the old one. What is in
// the outbox keeps its timestamps until the client has caught up (see strangers): what the server got
// under the old id without our knowing comes back first, and must not be pushed a second time.
func (t *txn) rename() error {
	replica, err := moveop.NewReplicaID(t.store.random)
	if err != nil {
		return err
	}
	t.meta.replica = replica
	t.store.startClock(&t.meta)
	return t.own(replica)
}

// strangers reports whether the outbox has operations under another replica's id than ours.
func (s *session) strangers(replica moveop.ReplicaID) (found bool, err error) {
	_, err = s.row(`SELECT EXISTS (SELECT 1 FROM outbox WHERE substr(ts, 9) <> ?)`, []any{replicaBytes(replica)}, &found)
	return found, err
}

func replicaBytes(replica moveop.ReplicaID) []byte {
	ts := moveop.NewTimestamp(0, 0, replica)
	return ts[8:]
}

// restamp gives everything in the outbox new timestamps, in the same order: in the log and the tree
// they replace the old ones.
func (t *txn) restamp() error {
	all, err := t.outbox()
	if err != nil {
		return err
	}
	ops := make([]moveop.Op, len(all))
	for i := range all {
		ops[i] = all[i].op
	}
	if err := t.withdraw(ops); err != nil {
		return fmt.Errorf("withdraw pending operations: %w", err)
	}
	if _, err := t.exec(`DELETE FROM outbox`); err != nil {
		return err
	}
	renamed := make(map[moveop.Timestamp]moveop.Timestamp, len(all))
	t.store.clock = moveop.NewClock(t.meta.replica, t.meta.accepted, t.store.now)
	t.store.clock.SetOffset(t.meta.offset)
	for i := range all {
		op := &all[i].op
		was := op.TS
		if op.TS, err = t.store.clock.Next(); err != nil {
			return err
		}
		renamed[was] = op.TS
		var refused any
		if all[i].refused.Valid {
			refused = all[i].refused.String
		}
		if err := t.insertQueued(op, all[i].edit, refused); err != nil {
			return err
		}
		t.meta.issued = op.TS
		ops[i] = *op
	}
	if err := t.add(ops); err != nil {
		return err
	}
	return t.renameVersions(renamed)
}
