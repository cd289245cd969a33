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
	// Local is an Edit of this client.
	Local Origin = "local"
	// Remote is a batch of operations from the server, other clients' and its own corrections.
	Remote Origin = "remote"
	// Preview is a part of the room that was fetched ahead of its first snapshot: see Status.Partial.
	Preview Origin = "preview"
	// Snapshot is a whole new state.
	Snapshot Origin = "snapshot"
)

// Event is what one transaction changed.
type Event struct {
	// Version numbers the states of the file: View.Version of a read that includes this event is at
	// least this. Later events have greater ones.
	Version int64
	Origin  Origin
	// Reread is set where Changes does not tell it all: the transaction was too large to list (over
	// 1,024 nodes, or 512 KiB of values), or the reader too slow. Read again what is shown. Events that follow may be included in what was read
	// then: those up to its View.Version.
	Reread  bool
	Changes []Change
}

// Change is what became of one node: what it is now that the transaction is done, not the steps there.
// To keep a picture of the tree, take the node from where it was and put it where To says, and take
// over Values. A node that was created may have children and values already, which came before it.
type Change struct {
	Node moveop.NodeID
	// From and To are where the node was and is now, if it moved: the zero Place stands for not being
	// there. Trash as the parent means deleted. Both are zero where only properties were written.
	From, To Place
	// By is whose operation put it there. Zero where it did not move, is not there any more, or was
	// fetched ahead of the snapshot, which does not tell.
	By moveop.ReplicaID
	// Corrected is set where the server put it there, against a delete of By's that did not know what
	// it would take away.
	Corrected bool
	// Values are the properties that were written, by key.
	Values []Write
}

// Write is what became of one property.
type Write struct {
	Key   string
	Value json.RawMessage // compact; nil where it was cleared
	By    moveop.ReplicaID
}

// ChangeKind says what became of a node's place.
type ChangeKind string

const (
	// Created means that the node was not there. It may have come to Trash at once.
	Created ChangeKind = "created"
	// Moved means that it has another parent, with neither of the two Trash.
	Moved ChangeKind = "moved"
	// Reordered means that it is elsewhere among the children of the same parent.
	Reordered ChangeKind = "reordered"
	// Deleted means that it went to Trash, Restored that it came from there. For what is below it
	// there is no Change.
	Deleted  ChangeKind = "deleted"
	Restored ChangeKind = "restored"
	// Removed means that it is not there any more: its creation was discarded, or turned out not to be
	// effective.
	Removed ChangeKind = "removed"
)

// Kind says what became of the node's place; it is empty where only properties were written.
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
// done or the client is closed. It holds a bounded number of events: a reader that falls behind gets
// one with Reread in place of those that it missed, never silence.
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
