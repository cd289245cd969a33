package client

import (
	"context"
	"errors"
	"log/slog"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
	"github.com/canopysync/canopy/tree"
)

// mend makes our log equal to the server's by exchanging only the operations in which they differ. It reports
// whether it found the fault and left none that it can detect; if not, a snapshot must be loaded. After an error,
// nothing has changed.
func (s *syncer) mend(ctx context.Context) (mended bool, err error) {
	if s.c.store.meta.Load().epoch == "" {
		return false, nil // there is nothing yet
	}
	var found *logComparison
	err = s.c.store.exclusively(ctx, (*session).stampAll) // they are what the comparison finds operations by
	if err == nil {
		found, err = s.c.compareLogs(ctx)
	}
	changed := false
	if err == nil {
		err = s.c.store.update(ctx, Snapshot, func(t *txn) (err error) {
			changed, err = t.mend(ctx, found)
			return err
		})
	}
	if beyondMending(err) {
		s.log.Warn("the log cannot be mended piece by piece", "error", err)
		return false, nil
	}
	if err != nil || !changed {
		return false, err
	}
	left, err := s.c.examine(ctx)
	s.log.Info("mended the log", slog.Int("fetched", len(found.lacking)), slog.Int("dropped", len(found.surplus)),
		slog.Int("findings", len(left.Findings)))
	return err == nil && len(left.Findings) == 0, err
}

// beyondMending reports whether an error calls for a snapshot; after any other, trying again may help.
func beyondMending(err error) bool {
	if e, ok := errors.AsType[*wire.Error](err); ok { // such as a service that has no buckets
		return !e.Retryable && e.Code != wire.CodeUnauthorized
	}
	return errors.Is(err, errTooDifferent) || errors.Is(err, errOtherLog) || errors.Is(err, errNotAsked) ||
		errors.Is(err, ErrCorrupt) || errors.As(err, new(*tree.CycleError))
}

// mend adds the lacking operations, removes the surplus ones, and recomputes the digest. It reports whether anything
// was wrong.
func (t *txn) mend(ctx context.Context, found *logComparison) (changed bool, err error) {
	if err := t.affordWithdrawal(found.surplus); err != nil {
		return false, err
	}
	lost, err := t.lostOf(found)
	if err != nil {
		return false, err
	}
	if len(found.surplus) > 0 {
		if err := t.withdraw(found.surplus); err != nil {
			return false, err
		}
	}
	for i := range found.lacking {
		t.accept(found.lacking[i].TS)
	}
	if err := t.add(found.lacking); err != nil {
		return false, err
	}
	if err := t.enqueueAgain(lost); err != nil {
		return false, err
	}
	digest, err := t.addUp(ctx, t.meta.folded)
	if err != nil {
		return false, err
	}
	changed = len(found.surplus)+len(found.lacking) > 0 || digest != t.meta.digest
	if t.meta.digest = digest; changed {
		t.changes.all()
	}
	return changed, nil
}

// lostOf returns our operations that the server acknowledged but no longer has: it was restored without a new epoch,
// and others have filled the gap. Their Known is limited to the part of the log that the two have in common.
func (t *txn) lostOf(found *logComparison) (lost []queued, err error) {
	common, theirs := t.meta.seq, map[moveop.Timestamp]bool{}
	for i := range found.lacking {
		common, theirs[found.lacking[i].TS] = min(common, found.lacking[i].Seq-1), true
	}
	for i := range found.surplus {
		common = min(common, found.surplus[i].Seq-1)
	}
	for _, op := range found.surplus {
		ours, err := t.gotThrough(op.TS)
		if err != nil {
			return nil, err
		}
		if ours && !theirs[op.TS] {
			lost = append(lost, t.unacknowledged(op, common))
		}
	}
	if len(lost) > 0 {
		err = t.unlearn(common)
	}
	return lost, err
}

// gotThrough reports whether an operation of the log was made here and is no longer pending.
func (s *session) gotThrough(ts moveop.Timestamp) (yes bool, err error) {
	_, err = s.row(`SELECT EXISTS (SELECT 1 FROM own WHERE replica = ?) AND NOT EXISTS (SELECT 1 FROM outbox WHERE ts = ?)`,
		[]any{replicaBytes(ts.Replica()), ts[:]}, &yes)
	return yes, err
}

// affordWithdrawal refuses to take out operations if too many followed the first of them.
func (t *txn) affordWithdrawal(ops []moveop.Op) error {
	if len(ops) == 0 {
		return nil
	}
	after := 0
	return t.logged(earliest(ops), moveop.MaxTimestamp, func(moveop.Op) error {
		if after++; after > maxDifferences {
			return errTooDifferent
		}
		return nil
	})
}

// addUp computes the digest from the data that it summarises and from folded, the part that was compacted.
func (s *session) addUp(ctx context.Context, folded moveop.Digest) (digest moveop.Digest, err error) {
	digest = folded
	err = s.everyOp(func(op moveop.Op, current bool) error {
		digest.Ops++
		digest.Log ^= op.LogHash()
		if current && op.Kind == moveop.Move {
			digest.State ^= moveop.PlacementHash(op.Node, op.Parent, op.OrderKey)
		} else if current {
			digest.State ^= moveop.ValueHash(op.Node, op.Key, op.TS)
		}
		return ctx.Err()
	})
	return digest, err
}
