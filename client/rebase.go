package client

import (
	"cmp"
	"database/sql"
	"errors"
	"math"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/moveop"
)

// held is what the server has according to its welcome: everything of this replica up to a timestamp, because a
// replica's operations reach the server in order.
type held struct {
	epoch string
	head  int64
	last  moveop.Timestamp
}

// has reports whether an operation is known to be in the history of a snapshot.
func (h held) has(ts moveop.Timestamp, epoch string) bool {
	return h.epoch == epoch && h.last.Replica() == ts.Replica() && !h.last.Before(ts)
}

// reapply applies the outbox to a log from the server. Operations already in it leave the outbox, and so do those that
// got through and were folded since. The server would refuse any from before the horizon: if one is left, all the
// remaining ones are stamped anew, in order. Lost operations are queued again unchanged.
func (t *txn) reapply(lost []queued) error {
	all, err := t.outbox()
	if err != nil {
		return err
	}
	missing, clash, err := t.missing(all)
	if err != nil {
		return err
	}
	var old, rest []queued
	for _, q := range lost {
		if t.settled(q.op.TS) {
			old = append(old, q)
		} else {
			rest = append(rest, q)
		}
	}
	if err := t.enqueueAgain(rest); err != nil {
		return err
	}
	if len(old) > 0 || len(missing) > 0 && t.settled(missing[0].op.TS) {
		clash = 0
	}
	if err := t.add(operations(missing[:clash])); err != nil {
		return err
	}
	missing = missing[clash:]
	if len(old) == 0 && len(missing) == 0 {
		return nil
	}
	for i := range missing {
		if err := t.unqueue(missing[i].op.TS); err != nil {
			return err
		}
	}
	t.restartClock()
	return t.stampAnew(append(old, missing...))
}

// settled reports whether a timestamp is from before the horizon.
func (t *txn) settled(ts moveop.Timestamp) bool { return !t.meta.horizon.Before(ts) }

// missing returns the operations of the outbox that the server does not have, and takes the others out. Those from
// clash on cannot have got through: the server has another operation under that timestamp (see giveWay).
func (t *txn) missing(all []queued) (missing []queued, clash int, err error) {
	logged, err := t.findAll(operations(all))
	if err != nil {
		return nil, 0, err
	}
	clash = len(all)
	for _, q := range all {
		known, ok := logged[q.op.TS]
		switch {
		case ok && !known.SameBody(q.op):
			clash = min(clash, len(missing))
			missing = append(missing, q)
		case ok, t.settled(q.op.TS) && t.store.held.has(q.op.TS, t.meta.epoch):
			if err := t.unqueue(q.op.TS); err != nil {
				return nil, 0, err
			}
		default:
			missing = append(missing, q)
		}
	}
	return missing, min(clash, len(missing)), nil
}

func operations(all []queued) []moveop.Op {
	ops := make([]moveop.Op, len(all))
	for i := range all {
		ops[i] = all[i].op
	}
	return ops
}

// lost returns this replica's acknowledged operations that a snapshot, in the draft tables, lacks: a server restored
// from a backup has lost them, with or without a new epoch. An operation from before the horizon counts only if it is
// known to be missing and is still current in our state: it will be stamped anew, and must not override later ones.
// Known, of pending operations too, is limited to the part of the history that the two have in common.
func (t *txn) lost(header *format.Header) (lost []queued, err error) {
	held := t.store.held
	epoch := cmp.Or(header.Epoch, held.epoch)
	cut := held.epoch == t.meta.epoch && held.head < t.meta.seq
	same := epoch == t.meta.epoch && !cut
	if t.meta.epoch == "" || same && t.meta.partial {
		return nil, nil
	}
	reach := int64(math.MaxInt64)
	if same { // what a snapshot has not got to yet is in the log behind it
		reach = header.Seq
	}
	err = t.each(`SELECT * FROM (`+everyOpQuery+`) AS o
		WHERE seq BETWEEN 1 AND ? AND substr(ts, 9) IN (SELECT replica FROM own)
			AND NOT EXISTS (SELECT 1 FROM draft_stamps d WHERE d.ts = o.ts) ORDER BY ts`, []any{reach}, func(rows *sql.Rows) error {
		var current bool
		op, err := scanOp(rows, &current)
		if err != nil {
			return err
		}
		if header.Horizon.Before(op.TS) || current && !same && held.epoch == epoch && !held.has(op.TS, epoch) {
			lost = append(lost, queued{op: op})
		}
		return nil
	})
	if err != nil || same && len(lost) == 0 {
		return nil, err
	}
	common := int64(0) // of a preview it is not known which operations it is made of
	if !t.meta.partial {
		if common, err = t.commonSeq(header.Horizon); err != nil {
			return nil, err
		}
	}
	for i := range lost {
		lost[i] = t.unacknowledged(lost[i].op, common)
	}
	return lost, t.unlearn(common)
}

// unacknowledged returns an operation for the outbox again, its Known limited to the history that the two logs have
// in common.
func (t *txn) unacknowledged(op moveop.Op, common int64) queued {
	op.Known, op.Seq = min(op.Known, common), 0
	return queued{op: op, edit: t.meta.version + 1}
}

// unlearn limits the Known of pending operations in the same way.
func (t *txn) unlearn(common int64) error {
	_, err := t.exec(`UPDATE outbox SET known = min(known, ?)`, common)
	return err
}

// errUnsure means that a snapshot cannot be swapped in before the server was asked what it holds.
var errUnsure = errors.New("it is not known yet which operations got through")

// mayBeFolded reports whether a pending operation may have got through without our knowing and been folded into a
// snapshot since. It is for the first snapshot, which does not wait for a connection.
func (t *txn) mayBeFolded(horizon moveop.Timestamp) (yes bool, err error) {
	if !t.meta.partial || !t.store.unsure.Load() {
		return false, nil
	}
	_, err = t.row(`SELECT EXISTS (SELECT 1 FROM outbox WHERE ts <= ?)`, []any{horizon[:]}, &yes)
	return yes, err
}

// commonSeq returns the seq up to which the log and the draft's, behind its horizon, are the same.
func (t *txn) commonSeq(horizon moveop.Timestamp) (seq int64, err error) {
	_, err = t.row(`SELECT coalesce(min(seq) - 1, (SELECT seq FROM meta)) FROM
		(SELECT ts, node, '' AS key, seq FROM nodes UNION ALL SELECT ts, node, key, seq FROM vals
			UNION ALL SELECT ts, node, key, seq FROM ops) AS o
		WHERE seq > 0 AND ts > ?
			AND NOT EXISTS (SELECT 1 FROM draft_nodes d WHERE d.node = o.node AND d.ts = o.ts AND d.seq = o.seq)
			AND NOT EXISTS (SELECT 1 FROM draft_vals d
				WHERE d.node = o.node AND d.key = o.key AND d.ts = o.ts AND d.seq = o.seq)
			AND NOT EXISTS (SELECT 1 FROM draft_ops d
				WHERE d.node = o.node AND d.key = o.key AND d.ts = o.ts AND d.seq = o.seq)`, []any{horizon[:]}, &seq)
	return seq, err
}

// enqueueAgain puts operations back into the outbox, and into the log.
func (t *txn) enqueueAgain(lost []queued) error {
	for i := range lost {
		if err := t.insertQueued(&lost[i]); err != nil {
			return err
		}
		t.meta.pending++
	}
	return t.add(operations(lost))
}
