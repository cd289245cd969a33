package realtime_test

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// fakeStore keeps rooms in memory and refuses what the database refuses, but knows no cycles and
// makes no corrections: the service must not care.
type fakeStore struct {
	mu      sync.Mutex
	rooms   map[string]*fakeRoom
	applies [][]moveop.Op // every batch handed to Apply
	reads   int           // of rooms' rows and logs
	calls   int           // of anything about a room

	// What a test injects.
	gate   chan struct{}               // Apply waits for it before it begins
	before func(ops []moveop.Op) error // runs in Apply; may panic
	broken error                       // of every call
}

type fakeRoom struct {
	wire.Room
	ops  []moveop.Op
	byTS map[moveop.Timestamp]moveop.Op
	last map[moveop.ReplicaID]moveop.Timestamp
}

func newFakeStore() *fakeStore { return &fakeStore{rooms: map[string]*fakeRoom{}} }

func (f *fakeStore) set(change func(f *fakeStore)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fakeStore) room(name string) (*fakeRoom, error) {
	f.calls++
	if f.broken != nil {
		return nil, f.broken
	}
	if r := f.rooms[name]; r != nil {
		return r, nil
	}
	return nil, wire.ErrUnknownRoom
}

func (f *fakeStore) Ready(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.broken
}

// create makes a room.
func (f *fakeStore) create(name, epoch string) *fakeRoom {
	f.rooms[name] = &fakeRoom{
		Room: wire.Room{Name: name, Epoch: epoch},
		byTS: map[moveop.Timestamp]moveop.Op{},
		last: map[moveop.ReplicaID]moveop.Timestamp{},
	}
	return f.rooms[name]
}

func (f *fakeStore) ApplyFirst(ctx context.Context, name, epoch string, ops []moveop.Op) (wire.Room, wire.Applied, error) {
	f.mu.Lock()
	r, err := f.room(name)
	made := err == wire.ErrUnknownRoom
	if made {
		r, err = f.create(name, epoch), nil
	}
	if err != nil {
		f.mu.Unlock()
		return wire.Room{}, wire.Applied{}, err
	}
	before := r.Room
	f.mu.Unlock()
	if before.Epoch != epoch {
		return before, wire.Applied{}, nil
	}
	applied, err := f.Apply(ctx, name, ops)
	if err != nil && made {
		f.set(func(f *fakeStore) { delete(f.rooms, name) })
	}
	return before, applied, err
}

func (f *fakeStore) Room(_ context.Context, name string) (wire.Room, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	r, err := f.room(name)
	if err != nil {
		return wire.Room{}, err
	}
	return r.Room, nil
}

func (f *fakeStore) LastTimestamp(_ context.Context, name string, replica moveop.ReplicaID) (moveop.Timestamp, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, err := f.room(name)
	if err != nil {
		return moveop.Timestamp{}, err
	}
	return r.last[replica], nil
}

func (f *fakeStore) Apply(ctx context.Context, name string, ops []moveop.Op) (wire.Applied, error) {
	f.mu.Lock()
	gate, before := f.gate, f.before
	f.applies = append(f.applies, slices.Clone(ops))
	f.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return wire.Applied{}, ctx.Err()
		}
	}
	if before != nil {
		if err := before(ops); err != nil {
			return wire.Applied{}, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	r, err := f.room(name)
	if err != nil {
		return wire.Applied{}, err
	}
	for _, op := range ops {
		if err := r.check(op); err != nil {
			return wire.Applied{}, err
		}
	}
	applied, known := wire.Applied{}, r.Head
	for _, op := range ops {
		op.Known = min(op.Known, known)
		applied.Results = append(applied.Results, r.add(op))
	}
	applied.Head = r.Head
	return applied, nil
}

func (r *fakeRoom) check(op moveop.Op) error {
	if old, ok := r.byTS[op.TS]; ok {
		if !old.SameBody(op) {
			return wire.OpError(wire.CodeConflict, op.TS, "another body")
		}
		return nil
	}
	if op.TS.Time().After(time.Now().Add(time.Minute)) {
		return wire.OpError(wire.CodeClockSkew, op.TS, "in the future")
	}
	if !r.last[op.TS.Replica()].Before(op.TS) {
		return wire.OpError(wire.CodeOutOfOrder, op.TS, "behind the replica's newest")
	}
	return nil
}

func (r *fakeRoom) add(op moveop.Op) wire.Result {
	if old, ok := r.byTS[op.TS]; ok {
		return wire.Result{TS: op.TS, Seq: old.Seq, Status: wire.StatusDuplicate}
	}
	r.Head++
	op.Seq = r.Head
	r.ops = append(r.ops, op)
	r.byTS[op.TS] = op
	r.last[op.TS.Replica()] = op.TS
	r.Digest.Ops++
	r.Digest.Log ^= op.LogHash()
	return wire.Result{TS: op.TS, Seq: op.Seq, Status: wire.StatusApplied}
}

func (f *fakeStore) OpsAfter(_ context.Context, name string, after int64, limit int) ([]moveop.Op, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	r, err := f.room(name)
	if err != nil {
		return nil, err
	}
	if after < r.MinSeq {
		return nil, wire.NewError(wire.CodeCompacted, "ops up to %d are gone", r.MinSeq)
	}
	if after > r.Head {
		return nil, nil
	}
	return slices.Clone(r.ops[after:min(after+int64(limit), r.Head)]), nil
}

// Children knows only how the handlers call it: it answers with what it was asked for.
func (f *fakeStore) Children(_ context.Context, name string, parent moveop.NodeID, after string, limit, most int) (wire.Page, error) {
	return f.page(name, parent, after, map[string]any{"limit": limit, "count": most})
}

func (f *fakeStore) Subtree(_ context.Context, name string, node moveop.NodeID, depth int, after string, limit int) (wire.Page, error) {
	return f.page(name, node, after, map[string]any{"limit": limit, "depth": depth})
}

func (f *fakeStore) page(name string, parent moveop.NodeID, after string, others map[string]any) (wire.Page, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, err := f.room(name)
	if err != nil {
		return wire.Page{}, err
	}
	if after == "garbage" {
		return wire.Page{}, wire.NewError(wire.CodeBadRequest, "not a cursor")
	}
	others["after"] = after
	asked, _ := json.Marshal(others)
	node := wire.Node{ID: parent, Parent: parent, OrderKey: "a0", Props: map[string]json.RawMessage{"asked": asked}}
	return wire.Page{Nodes: []wire.Node{node}, Seq: r.Head, Epoch: r.Epoch}, nil
}

func (f *fakeStore) Stats(_ context.Context, name string) (wire.Stats, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, err := f.room(name)
	if err != nil {
		return wire.Stats{}, err
	}
	return wire.Stats{Room: name, Epoch: r.Epoch, Head: r.Head, MinSeq: r.MinSeq, Ops: r.Digest.Ops, Digest: r.Digest}, nil
}

func (f *fakeStore) Buckets(_ context.Context, name string, span wire.Span) (wire.Buckets, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, err := f.room(name)
	if err != nil {
		return wire.Buckets{}, err
	}
	tally := wire.Tally{}
	for _, op := range r.ops {
		if span.Contains(op.TS) {
			tally.Add(wire.SpanOf(op.TS, len(span)+2), wire.Count{Ops: 1, Log: op.LogHash()})
		}
	}
	return wire.Buckets{Epoch: r.Epoch, Seq: r.Head, Buckets: tally.Buckets()}, nil
}

func (f *fakeStore) OpsBetween(_ context.Context, name string, after, last moveop.Timestamp, limit int) ([]moveop.Op, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, err := f.room(name)
	if err != nil {
		return nil, err
	}
	ops := slices.DeleteFunc(slices.Clone(r.ops), func(op moveop.Op) bool { return !after.Before(op.TS) || last.Before(op.TS) })
	slices.SortFunc(ops, func(a, b moveop.Op) int { return a.TS.Compare(b.TS) })
	return ops[:min(limit, len(ops))], nil
}
