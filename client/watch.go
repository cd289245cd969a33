package client

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"

	"github.com/canopysync/canopy/moveop"
)

// Origin says where a change came from.
type Origin string

const (
	// Local is a change made by this client: Edit, Undo, Redo, Retry or Discard.
	Local Origin = "local"
	// Remote is a batch of operations from the server: other replicas' operations and its corrections.
	Remote Origin = "remote"
	// Preview is a part of the room that was fetched ahead of its first snapshot: see Status.Partial.
	Preview Origin = "preview"
	// Snapshot is a whole new state.
	Snapshot Origin = "snapshot"
)

// Event is the net change of one transaction.
type Event struct {
	// Version numbers the states of the file, and grows from event to event. A read includes this event
	// if and only if its View.Version is at least this.
	Version int64
	Origin  Origin
	// Reread is set if Changes is incomplete: the transaction was too large to list (over 1,024 nodes,
	// or 512 KiB of keys and values), or the reader too slow. Read what you show again, then skip the
	// events that this read includes: those up to its View.Version.
	Reread  bool
	Changes []Change
}

// Change is the net change of one node in a transaction. To keep a picture of the tree up to date, move
// the node from From to To, and apply Values. A created node may already have children and values that
// arrived before it.
type Change struct {
	Node moveop.NodeID
	// From and To are where the node was and is now, if it moved. The zero Place means that it did not or
	// does not exist, Trash as the parent that it is deleted. Both are zero if only properties changed.
	From, To Place
	// By is the replica whose operation put it there. It is zero if the node did not move or no longer
	// exists, and for a node fetched ahead of the snapshot, where the author is unknown.
	By moveop.ReplicaID
	// Corrected is set if the server put it there, to correct a delete by By that had not seen a
	// concurrent change in or below the node.
	Corrected bool
	// Values are the properties that were written, in order of their keys.
	Values []Write
}

// Write is the new value of one property.
type Write struct {
	Key   string
	Value json.RawMessage // compact; nil if the property was cleared
	By    moveop.ReplicaID
}

// ChangeKind classifies a change of a node's place.
type ChangeKind string

const (
	// Created means that the node did not exist before. It may have been created in Trash.
	Created ChangeKind = "created"
	// Moved means that it has another parent, and neither parent is Trash.
	Moved ChangeKind = "moved"
	// Reordered means that it has another position under the same parent.
	Reordered ChangeKind = "reordered"
	// Deleted means that it moved to Trash, Restored that it moved out of it. The nodes below it have no
	// Change of their own.
	Deleted  ChangeKind = "deleted"
	Restored ChangeKind = "restored"
	// Removed means that it no longer exists: its creation was discarded, or turned out not to be
	// effective.
	Removed ChangeKind = "removed"
)

// Kind classifies the change of the node's place; it is empty if only properties changed.
func (c Change) Kind() ChangeKind {
	switch {
	case c.From == c.To:
		return ""
	case c.From == Place{}:
		return Created
	case c.To == Place{}:
		return Removed
	case c.From.Parent == c.To.Parent:
		return Reordered
	case c.To.Parent == moveop.Trash:
		return Deleted
	case c.From.Parent == moveop.Trash:
		return Restored
	}
	return Moved
}

// Place is a parent and a position among its children, ordered by (OrderKey, node).
type Place struct {
	Parent   moveop.NodeID
	OrderKey string
}

// Watch returns a channel with one event for each transaction from now on. It is closed when ctx is
// done or the client is closed. When an Edit returns, its event is in the channel: who reads all that is
// there sees the edit at once. The channel buffers a bounded number of events: a reader that falls behind
// always gets one with Reread in place of those it missed.
func (c *Client) Watch(ctx context.Context) <-chan Event { return c.events.subscribe(ctx, feedBuffer) }

// maxChanges and maxChangeBytes bound an event: beyond either, reading again is cheaper than going
// through the list. The bytes are those of keys and values.
const (
	maxChanges     = 1024
	maxChangeBytes = 512 << 10
)

// changeSet gathers what a transaction changes.
type changeSet struct {
	nodes    map[moveop.NodeID]*Change
	bytes    int
	overflow bool
}

func (cs *changeSet) any() bool { return cs.overflow || len(cs.nodes) > 0 }

// all gives up listing.
func (cs *changeSet) all() { cs.nodes, cs.overflow = nil, true }

// node returns the change of a node, nil where listing was given up.
func (cs *changeSet) node(id moveop.NodeID) *Change {
	change, ok := cs.nodes[id]
	if ok || cs.overflow {
		return change
	}
	if len(cs.nodes) == maxChanges {
		cs.all()
		return nil
	}
	if cs.nodes == nil {
		cs.nodes = map[moveop.NodeID]*Change{}
	}
	change = &Change{Node: id}
	cs.nodes[id] = change
	return change
}

// moved records a changed placement; the zero placement stands for none.
func (cs *changeSet) moved(id moveop.NodeID, from, to placement) {
	change := cs.node(id)
	if change == nil {
		return
	}
	if change.From == (Place{}) && change.To == (Place{}) {
		change.From = from.place()
	}
	change.To = to.place()
	change.By, change.Corrected = author(to.ts)
}

// author takes the server's mark off the timestamp of a correction, which is the delete's but for that.
func author(ts moveop.Timestamp) (by moveop.ReplicaID, corrected bool) {
	by = ts.Replica()
	corrected = ts == ts.Correction()
	return by &^ (1 << 63), corrected
}

// written records a changed property; without a value it is cleared.
func (cs *changeSet) written(op *moveop.Op) {
	change := cs.node(op.Node)
	if change == nil {
		return
	}
	i, found := slices.BinarySearchFunc(change.Values, op.Key, func(w Write, key string) int { return strings.Compare(w.Key, key) })
	if !found {
		change.Values = slices.Insert(change.Values, i, Write{Key: op.Key})
		cs.bytes += len(op.Key)
	}
	w := &change.Values[i]
	cs.bytes += len(op.Value) - len(w.Value)
	w.By, _ = author(op.TS)
	if w.Value = op.Value; string(op.Value) == "null" {
		w.Value = nil
	}
	if cs.bytes > maxChangeBytes {
		cs.all()
	}
}

func (cs *changeSet) event(version int64, origin Origin) Event {
	e := Event{Version: version, Origin: origin, Reread: cs.overflow}
	for _, change := range cs.nodes {
		if change.From == change.To { // there and back
			change.From, change.To, change.By, change.Corrected = Place{}, Place{}, 0, false
		}
		if change.To != change.From || len(change.Values) > 0 {
			e.Changes = append(e.Changes, *change)
		}
	}
	slices.SortFunc(e.Changes, func(a, b Change) int { return a.Node.Compare(b.Node) })
	return e
}

// feedBuffer is how many events a watcher's channel holds. The last slot is for Reread.
const feedBuffer = 64

// sendEvent never blocks. A channel is full only when its last event is a Reread that nobody took
// yet; what is dropped then is in what its taker will read.
func sendEvent(ch chan Event, e Event) {
	switch room := cap(ch) - len(ch); {
	case room > 1:
		ch <- e
	case room == 1:
		ch <- Event{Version: e.Version, Origin: e.Origin, Reread: true}
	}
}

// sendLatest replaces the value that nobody took yet in a channel that holds one.
func sendLatest[T any](ch chan T, v T) {
	select {
	case <-ch:
	default:
	}
	ch <- v
}

// watchers are the channels that something is published to.
type watchers[T any] struct {
	mu       sync.Mutex // guards what follows; makes its holder the only sender
	channels map[chan T]func() bool
	closed   bool
}

// subscribe adds a channel that holds buffer values and begins with first. It is closed when ctx is
// done.
func (w *watchers[T]) subscribe(ctx context.Context, buffer int, first ...T) <-chan T {
	w.mu.Lock()
	defer w.mu.Unlock()
	ch := make(chan T, buffer)
	if w.closed {
		close(ch)
		return ch
	}
	for _, v := range first {
		ch <- v
	}
	if w.channels == nil {
		w.channels = map[chan T]func() bool{}
	}
	w.channels[ch] = context.AfterFunc(ctx, func() { w.unsubscribe(ch) })
	return ch
}

func (w *watchers[T]) unsubscribe(ch chan T) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.channels[ch]; ok {
		delete(w.channels, ch)
		close(ch)
	}
}

// publish hands v to send for every channel, one publisher after the other.
func (w *watchers[T]) publish(v T, send func(ch chan T, v T)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for ch := range w.channels {
		send(ch, v)
	}
}

func (w *watchers[T]) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for ch, stop := range w.channels {
		stop()
		close(ch)
	}
	w.channels, w.closed = nil, true
}
