package format

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/canopysync/canopy/moveop"
)

// ErrOtherSection is reported by Rows.Err if rows of one section are read as those of another.
var ErrOtherSection = errors.New("rows of another section")

// NodeRow is a node's last effective move, from the section nodes. Rows ascend by Node.
type NodeRow struct {
	Node     moveop.NodeID
	Parent   moveop.NodeID
	OrderKey []byte // valid until the next row
	TS       moveop.Timestamp
	Seq      int64
	Known    int64
	Cause    moveop.Timestamp // zero but for a correction
}

// ValueRow is a property's current write, from the section values. Rows ascend by (Node, Key).
type ValueRow struct {
	Node  moveop.NodeID
	Key   []byte // valid until the next row
	Value []byte // compact JSON, null for a cleared property; valid until the next row
	TS    moveop.Timestamp
	Seq   int64
	Known int64
}

// OpRow is an op that the other sections do not contain, from the section ops: a superseded or ineffective
// move, or an overwritten set. Rows ascend by TS.
type OpRow struct {
	Seq       int64
	TS        moveop.Timestamp
	Kind      moveop.Kind
	Node      moveop.NodeID
	Parent    moveop.NodeID // Move
	OrderKey  []byte        // Move; valid until the next row
	Key       []byte        // Set; valid until the next row
	Value     []byte        // Set: compact JSON; valid until the next row
	Known     int64
	Cause     moveop.Timestamp // zero but for a correction
	Effective bool             // Move; meaningless for a set
}

// NextNode reads the next row of the section nodes into n. It returns false at the end and on an error;
// see Err.
func (r *Rows) NextNode(n *NodeRow) bool {
	if !r.typed(TagNodes) || !r.Next() || !r.notNull(0, 1, 2, 3, 4, 5) {
		return false
	}
	n.Node, n.Parent, n.OrderKey = r.UUID(0), r.UUID(1), r.Bytes(2)
	n.TS, n.Seq, n.Known, n.Cause = r.UUID(3), r.Int64(4), r.Int64(5), r.UUID(6)
	return true
}

// NextValue reads the next row of the section values into v, as NextNode does.
func (r *Rows) NextValue(v *ValueRow) bool {
	if !r.typed(TagValues) || !r.Next() || !r.notNull(0, 1, 2, 3, 4, 5) {
		return false
	}
	v.Node, v.Key, v.Value = r.UUID(0), r.Bytes(1), r.Bytes(2)
	v.TS, v.Seq, v.Known = r.UUID(3), r.Int64(4), r.Int64(5)
	return true
}

// NextOp reads the next row of the section ops into o, as NextNode does. The fields that o's kind does not
// use become zero, whatever the row holds.
func (r *Rows) NextOp(o *OpRow) bool {
	if !r.typed(TagOps) || !r.Next() || !r.notNull(0, 1, 2, 3, 8) {
		return false
	}
	*o = OpRow{
		Seq: r.Int64(0), TS: r.UUID(1), Kind: moveop.Kind(r.Int16(2)), Node: r.UUID(3),
		Known: r.Int64(8), Cause: r.UUID(9),
	}
	switch r.Int16(2) {
	case int16(moveop.Move):
		o.Parent, o.OrderKey, o.Effective = r.UUID(4), r.Bytes(5), r.Bool(10)
		return r.notNull(4, 5, 10)
	case int16(moveop.Set):
		o.Key, o.Value = r.Bytes(6), r.Bytes(7)
		return r.notNull(6, 7)
	}
	return r.fail(r.corrupt("kind %d", r.Int16(2)))
}

// Op returns the row's move. It shares no memory with the row.
func (n NodeRow) Op() moveop.Op {
	return moveop.Op{
		Kind: moveop.Move, TS: n.TS, Node: n.Node, Parent: n.Parent, OrderKey: string(n.OrderKey),
		Known: n.Known, Seq: n.Seq, Cause: n.Cause,
	}
}

// Op returns the row's set. It shares no memory with the row.
func (v ValueRow) Op() moveop.Op {
	return moveop.Op{
		Kind: moveop.Set, TS: v.TS, Node: v.Node, Key: string(v.Key), Value: json.RawMessage(slices.Clone(v.Value)),
		Known: v.Known, Seq: v.Seq,
	}
}

// Op returns the row's op. It shares no memory with the row.
func (o OpRow) Op() moveop.Op {
	return moveop.Op{
		Kind: o.Kind, TS: o.TS, Node: o.Node, Parent: o.Parent, OrderKey: string(o.OrderKey),
		Key: string(o.Key), Value: json.RawMessage(slices.Clone(o.Value)),
		Known: o.Known, Seq: o.Seq, Cause: o.Cause,
	}
}

func (r *Rows) typed(tag int) bool {
	if r.err != nil || r.section.Tag == tag {
		return r.err == nil
	}
	return r.fail(fmt.Errorf("%w: section %d (%s) read as section %d", ErrOtherSection, r.section.Tag, r.section.Table, tag))
}

func (r *Rows) notNull(columns ...int) bool {
	for _, i := range columns {
		if r.IsNull(i) {
			return r.fail(r.corrupt("column %s is null", r.section.Columns[i].Name))
		}
	}
	return true
}

func (r *Rows) fail(err error) bool {
	r.err = err
	return false
}
