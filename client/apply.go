package client

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/canopysync/canopy/moveop"
)

var (
	// errConflict means that the server sent an operation under the timestamp of another one.
	errConflict = errors.New("another operation has this timestamp")
	// errInvalid means that the server sent an operation that it must not accept.
	errInvalid = errors.New("not an operation that a server sends")
)

// receive merges the operations that directly follow the cursor, and advances it. During the first load,
// some may bring nodes into sight.
func (t *txn) receive(ops []moveop.Op) (foreign bool, err error) {
	var unknown []moveop.NodeID
	if t.meta.partial {
		if unknown, err = t.unknownNodes(ops); err != nil {
			return false, err
		}
	}
	if foreign, err = t.merge(ops); err != nil {
		return false, err
	}
	t.meta.seq = ops[len(ops)-1].Seq
	if held := &t.store.held; held.epoch == t.meta.epoch {
		held.head = max(held.head, t.meta.seq)
	}
	return foreign, t.sight(unknown)
}

// merge applies the new ones among the operations that came from the server, in any order. One that is
// already here gets its seq, and leaves the outbox. Foreign is set if one of them has this replica's id but
// was never made here: the file is a copy, or was restored.
func (t *txn) merge(ops []moveop.Op) (foreign bool, err error) {
	var fresh []moveop.Op
	seen := map[moveop.Timestamp]int{} // where in fresh
	logged, err := t.findAll(ops)
	if err == nil {
		foreign, err = t.giveWay(ops, logged)
	}
	if err != nil {
		return false, err
	}
	for i := range ops {
		op := &ops[i]
		if op.TS.IsZero() || op.Kind == moveop.Move && op.Node.IsReserved() {
			return false, fmt.Errorf("%w: %s", errInvalid, op.TS)
		}
		if j, ok := seen[op.TS]; ok {
			if !fresh[j].SameBody(*op) {
				return false, fmt.Errorf("%w: %s", errConflict, op.TS)
			}
			continue
		}
		if known, ok := logged[op.TS]; ok {
			if err := t.settle(&known, op); err != nil {
				return false, err
			}
			continue
		}
		foreign = foreign || op.TS.Replica() == t.meta.replica
		seen[op.TS] = len(fresh)
		fresh = append(fresh, *op)
	}
	for i := range ops {
		t.accept(ops[i].TS)
	}
	return foreign, t.add(fresh)
}

// giveWay stamps pending operations anew if the server has another operation under the timestamp of one of them,
// made by a copy of this file: that one and all later ones, which therefore cannot have got through. It reports
// whether there was one.
func (t *txn) giveWay(ops []moveop.Op, logged map[moveop.Timestamp]moveop.Op) (clash bool, err error) {
	first := moveop.MaxTimestamp
	for i := range ops {
		ours, ok := logged[ops[i].TS]
		if ok && ours.Seq == 0 && !ours.SameBody(ops[i]) && ours.TS.Before(first) {
			first, clash = ours.TS, true
		}
	}
	if !clash {
		return false, nil
	}
	for i := range ops {
		t.accept(ops[i].TS)
	}
	maps.DeleteFunc(logged, func(ts moveop.Timestamp, op moveop.Op) bool { return op.Seq == 0 && !ts.Before(first) })
	return true, t.restampFrom(first)
}

// accept notes that the server has an operation: all later timestamps are greater.
func (t *txn) accept(ts moveop.Timestamp) {
	if t.meta.accepted.Before(ts) {
		t.meta.accepted = ts
	}
	t.store.clock.Observe(ts)
}

// add logs operations that are not in the log.
func (t *txn) add(ops []moveop.Op) error {
	moves, sets := make([]moveop.Op, 0, len(ops)), []moveop.Op(nil)
	for i := range ops {
		if ops[i].Kind == moveop.Move {
			moves = append(moves, ops[i])
		} else {
			sets = append(sets, ops[i])
		}
	}
	if err := t.addSets(sets); err != nil {
		return err
	}
	return t.addMoves(moves)
}

// settle records what the server says about an operation that is in the log.
func (t *txn) settle(logged, op *moveop.Op) error {
	if !logged.SameBody(*op) {
		return fmt.Errorf("%w: %s", errConflict, op.TS)
	}
	if logged.Seq == op.Seq {
		return nil
	}
	if err := t.number(logged, op.Seq); err != nil {
		return err
	}
	return t.unqueue(op.TS)
}

// number gives a logged operation its seq. It is no longer pending then.
func (t *txn) number(op *moveop.Op, seq int64) (err error) {
	var n int64
	if op.Kind == moveop.Move {
		n, err = t.exec(`UPDATE nodes SET seq = ? WHERE node = ? AND ts = ?`, seq, op.Node[:], op.TS[:])
	} else {
		n, err = t.exec(`UPDATE vals SET seq = ? WHERE node = ? AND key = ? AND ts = ?`, seq, op.Node[:], op.Key, op.TS[:])
	}
	if err == nil && n == 0 {
		_, err = t.exec(`UPDATE ops SET seq = ? WHERE node = ? AND key = ? AND ts = ?`, seq, op.Node[:], op.Key, op.TS[:])
	}
	if err != nil {
		return err
	}
	return t.stamp(&moveop.Op{TS: op.TS, Node: op.Node, Key: op.Key, Seq: seq})
}

// withdraw takes operations that nobody else has seen out of the log, and undoes their effect on later
// ones. Whether a move is effective depends only on the moves before it, so withdraw takes back all moves
// from the first one on, newest first, and applies those that stay again. Cost: the moves since the oldest
// one.
func (t *txn) withdraw(ops []moveop.Op) error {
	gone := make(map[moveop.Timestamp]bool, len(ops))
	for i := range ops {
		gone[ops[i].TS] = true
	}
	var moves, sets []moveop.Op
	err := t.logged(earliest(ops), moveop.MaxTimestamp, func(op moveop.Op) error {
		if op.Kind == moveop.Move {
			moves = append(moves, op)
		} else if gone[op.TS] {
			sets = append(sets, op)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i := range sets {
		if err := t.removeSet(&sets[i]); err != nil {
			return err
		}
	}
	slices.SortFunc(moves, func(a, b moveop.Op) int { return b.TS.Compare(a.TS) })
	for i := range moves {
		if err := t.removeMove(&moves[i]); err != nil {
			return err
		}
	}
	return t.add(slices.DeleteFunc(moves, func(op moveop.Op) bool { return gone[op.TS] }))
}

// earliest is the smallest timestamp of some operations, moveop.MaxTimestamp of none.
func earliest(ops []moveop.Op) moveop.Timestamp {
	first := moveop.MaxTimestamp
	for i := range ops {
		if ops[i].TS.Before(first) {
			first = ops[i].TS
		}
	}
	return first
}

// removeMove takes out the newest move of the log.
func (t *txn) removeMove(op *moveop.Op) error {
	log := moveLog{t}
	now, placed, err := t.placement(op.Node)
	if err != nil {
		return err
	}
	if placed && now.ts == op.TS {
		if err := log.fallBack(op.Node, now); err != nil {
			return err
		}
	}
	t.meta.digest.Ops--
	t.meta.digest.Log ^= op.LogHash()
	if _, err := t.exec(`DELETE FROM ops WHERE node = ? AND key = '' AND ts = ?`, op.Node[:], op.TS[:]); err != nil {
		return err
	}
	return t.unstamp(op)
}

// removeSet takes out a set; where it was current, the last one before it is again.
func (t *txn) removeSet(op *moveop.Op) error {
	t.meta.digest.Ops--
	t.meta.digest.Log ^= op.LogHash()
	if err := t.unstamp(op); err != nil {
		return err
	}
	n, err := t.exec(`DELETE FROM vals WHERE node = ? AND key = ? AND ts = ?`, op.Node[:], op.Key, op.TS[:])
	if err != nil {
		return err
	}
	if n == 0 {
		return t.removePastSet(op)
	}
	t.meta.digest.State ^= moveop.ValueHash(op.Node, op.Key, op.TS)
	t.changes.written(&moveop.Op{Node: op.Node, Key: op.Key}) // unless there is one before it
	var value string
	before := moveop.Op{Kind: moveop.Set, Node: op.Node, Key: op.Key}
	ok, err := t.row(`SELECT value, ts, seq, known FROM ops WHERE node = ? AND key = ? ORDER BY ts DESC LIMIT 1`,
		[]any{op.Node[:], op.Key}, &value, (*blob)(&before.TS), &before.Seq, &before.Known)
	if err != nil || !ok {
		return err
	}
	if err := t.removePastSet(&before); err != nil {
		return err
	}
	before.Value = []byte(value)
	return t.putValue(&before)
}

func (t *txn) removePastSet(op *moveop.Op) error {
	_, err := t.exec(`DELETE FROM ops WHERE node = ? AND key = ? AND ts = ?`, op.Node[:], op.Key, op.TS[:])
	return err
}
