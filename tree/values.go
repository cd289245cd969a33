package tree

import (
	"encoding/json"
	"iter"
	"slices"
	"strings"

	"github.com/canopysync/canopy/moveop"
)

// values are the sets on one node: each property's last write, by key, and all others, by timestamp.
type values struct {
	current []write
	past    []write
}

type write struct {
	ts    moveop.Timestamp
	key   string
	value json.RawMessage
}

func (v *values) find(key string) (int, bool) {
	return slices.BinarySearchFunc(v.current, key, func(w write, key string) int { return strings.Compare(w.key, key) })
}

func (v *values) keep(w write) {
	i, _ := v.findPast(w.ts)
	v.past = slices.Insert(v.past, i, w)
}

func (v *values) findPast(ts moveop.Timestamp) (int, bool) {
	return slices.BinarySearchFunc(v.past, ts, func(w write, ts moveop.Timestamp) int { return w.ts.Compare(ts) })
}

// at returns the write with that timestamp, which must be there.
func (v *values) at(ts moveop.Timestamp) write {
	if i, ok := v.findPast(ts); ok {
		return v.past[i]
	}
	return v.current[slices.IndexFunc(v.current, func(w write) bool { return w.ts == ts })]
}

// applySet logs a new set: the last writer wins, by timestamp.
func (t *Tree) applySet(op *moveop.Op) {
	n := t.nodes.intern(op.Node)
	t.timeline.add(op.TS, n, moveop.Set)
	more := t.nodes.at(n).extend()
	if more.values == nil {
		more.values = new(values)
	}
	v, w := more.values, write{op.TS, op.Key, op.Value}
	i, ok := v.find(op.Key)
	if !ok {
		v.current = slices.Insert(v.current, i, w)
		t.hashWrite(op.Node, w)
		return
	}
	if w.ts.Before(v.current[i].ts) {
		v.keep(w)
		return
	}
	old := v.current[i]
	v.keep(old)
	v.current[i] = w
	t.hashWrite(op.Node, old)
	t.hashWrite(op.Node, w)
}

// Value is a property's current write.
type Value struct {
	Key  string
	JSON json.RawMessage // null if the property was cleared
	TS   moveop.Timestamp
}

// Cleared reports whether the last write cleared the property.
func (v Value) Cleared() bool { return string(v.JSON) == "null" }

// Values visits the current writes on n in key order, including cleared properties. A node may have
// values before it is created.
func (t *Tree) Values(n moveop.NodeID) iter.Seq[Value] {
	return func(yield func(Value) bool) {
		i := t.nodes.find(n)
		if i == none || t.nodes.at(i).more == nil || t.nodes.at(i).more.values == nil {
			return
		}
		for _, w := range t.nodes.at(i).more.values.current {
			if !yield(Value{w.key, w.value, w.ts}) {
				return
			}
		}
	}
}
