package client

import (
	"database/sql"
	"fmt"
	"slices"
	"time"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// outboxColumns are in the order of scanOp.
const outboxColumns = `kind, ts, node, parent, order_key, key, value, 0, known, NULL`

// queued is an operation of the outbox.
type queued struct {
	op      moveop.Op
	edit    int64  // the local transaction that made it
	refused string // the code with which the server refused it for good; empty if it did not
	reason  string // the server's message
}

var outboxBulk = newBulk(`INSERT INTO outbox
	(ts, kind, node, parent, order_key, key, value, known, edit, refused, reason) VALUES `, 11, "")

// queue appends a new operation of this replica to the outbox. It is written with others: see flushQueue.
func (t *txn) queue(op *moveop.Op) error {
	t.meta.pending++
	t.meta.issued = op.TS
	q := queued{op: *op, edit: t.meta.version + 1}
	if t.unwritten = append(t.unwritten, q.args()...); len(t.unwritten) < bulkSizes[0]*outboxBulk.columns {
		return nil
	}
	return t.flushQueue()
}

// flushQueue writes what queue has gathered.
func (t *txn) flushQueue() error {
	args := t.unwritten
	t.unwritten = nil
	return t.execBulk(outboxBulk, args)
}

func (t *txn) insertQueued(q *queued) error { return t.execBulk(outboxBulk, q.args()) }

// args is a row of outbox, for outboxBulk.
func (q *queued) args() []any {
	op := &q.op
	var parent, orderKey, key, value, refused any
	if op.Kind == moveop.Move {
		parent, orderKey = op.Parent[:], op.OrderKey
	} else {
		key, value = op.Key, string(op.Value)
	}
	if q.refused != "" {
		refused = q.refused
	}
	return []any{op.TS[:], int(op.Kind), op.Node[:], parent, orderKey, key, value, op.Known, q.edit, refused, q.reason}
}

var unqueueBulk = newBulk("DELETE FROM outbox WHERE ts IN (VALUES ", 1,
	`) RETURNING kind, ts, node, coalesce(key, ''), refused IS NOT NULL`)

// unqueue takes an operation that the server has out of the outbox, if it is there.
func (t *txn) unqueue(ts moveop.Timestamp) error {
	_, err := t.unqueueAll([]any{ts[:]})
	return err
}

// unqueueAll is unqueue for many. For those that were there, it returns the fields that locate them in the log.
func (t *txn) unqueueAll(stamps []any) (ops []moveop.Op, err error) {
	err = t.eachBulk(unqueueBulk, stamps, func(rows *sql.Rows) error {
		var op moveop.Op
		var refused bool
		if err := rows.Scan(&op.Kind, (*blob)(&op.TS), (*blob)(&op.Node), &op.Key, &refused); err != nil {
			return err
		}
		ops = append(ops, op)
		t.meta.pending--
		if refused {
			t.meta.refused--
		}
		return nil
	})
	return ops, err
}

// outbox returns everything in it, in order.
func (s *session) outbox() (all []queued, err error) {
	return s.queued(`SELECT edit, coalesce(refused, ''), reason, ` + outboxColumns + ` FROM outbox ORDER BY ts`)
}

func (s *session) queued(query string) (all []queued, err error) {
	err = s.each(query, nil, func(rows *sql.Rows) error {
		var q queued
		q.op, err = scanOp(rows, &q.edit, &q.refused, &q.reason)
		all = append(all, q)
		return err
	})
	return all, err
}

// batch returns the first operations to push: at most n, and after the first one at most the given number of bytes.
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

// acknowledge records the server's answer to a batch. Operations that came back before it have already left the
// outbox.
func (t *txn) acknowledge(results []wire.Result) error {
	seqs := make(map[moveop.Timestamp]int64, len(results))
	stamps := make([]any, len(results))
	for i := range results {
		ts := &results[i].TS
		seqs[*ts], stamps[i] = results[i].Seq, ts[:]
	}
	ops, err := t.unqueueAll(stamps)
	if err != nil {
		return err
	}
	for i := range ops {
		op := &ops[i]
		if err := t.number(op, seqs[op.TS]); err != nil {
			return err
		}
		t.accept(op.TS)
		t.meta.acked = max(t.meta.acked, seqs[op.TS])
	}
	return nil
}

// setClock takes over the server's time and stamps everything in the outbox anew.
func (t *txn) setClock(offset time.Duration) error {
	t.meta.offset = offset
	return t.restamp()
}

// rename gives this replica a new id, because another copy of the file uses the old one. The outbox keeps its
// timestamps until the client has caught up (see strangers): operations that the server got under the old id
// without our knowing come back first, and must not be pushed a second time.
func (t *txn) rename() error {
	replica, err := moveop.NewReplicaID(t.store.random)
	if err != nil {
		return err
	}
	t.meta.replica = replica
	t.store.startClock(&t.meta)
	return t.own(replica)
}

// strangers reports whether the outbox has operations under a replica id other than ours.
func (s *session) strangers(replica moveop.ReplicaID) (found bool, err error) {
	_, err = s.row(`SELECT EXISTS (SELECT 1 FROM outbox WHERE substr(ts, 9) <> ?)`, []any{replicaBytes(replica)}, &found)
	return found, err
}

func replicaBytes(replica moveop.ReplicaID) []byte {
	ts := moveop.NewTimestamp(0, 0, replica)
	return ts[8:]
}

// restamp gives everything in the outbox new timestamps, in the same order, starting at the server's clock.
func (t *txn) restamp() error { return t.restampFrom(moveop.Timestamp{}) }

// restampFrom is restamp for the operations at or after a timestamp.
func (t *txn) restampFrom(first moveop.Timestamp) error {
	all, err := t.outbox()
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(q queued) bool { return q.op.TS.Before(first) })
	if err := t.takeBack(all); err != nil {
		return err
	}
	t.restartClock()
	return t.stampAnew(all)
}

// restartClock makes a clock to stamp operations anew: it need only be later than what the server has.
func (t *txn) restartClock() {
	t.store.clock = moveop.NewClock(t.meta.replica, t.meta.accepted, t.store.now)
	t.store.clock.SetOffset(t.meta.offset)
}

// takeBack removes operations from the outbox and from the log.
func (t *txn) takeBack(all []queued) error {
	if err := t.withdraw(operations(all)); err != nil { // which finds them by the outbox
		return fmt.Errorf("withdraw pending operations: %w", err)
	}
	for i := range all {
		if err := t.unqueue(all[i].op.TS); err != nil {
			return err
		}
	}
	return nil
}

// stampAnew puts operations that were taken back in again, with new timestamps, in the same order.
func (t *txn) stampAnew(all []queued) (err error) {
	renamed := make(map[moveop.Timestamp]moveop.Timestamp, len(all))
	ops := make([]moveop.Op, len(all))
	for i := range all {
		op := &all[i].op
		was := op.TS
		if op.TS, err = t.store.clock.Next(); err != nil {
			return err
		}
		renamed[was], ops[i] = op.TS, *op
		if err := t.insertQueued(&all[i]); err != nil {
			return err
		}
		t.meta.issued = op.TS
		t.meta.pending++
		if all[i].refused != "" {
			t.meta.refused++
		}
	}
	if err := t.add(ops); err != nil {
		return err
	}
	return t.renameVersions(renamed)
}
