package moveop

import (
	"encoding/json"
)

// opJSON is the protocol's form. Pointers tell a missing field from a zero one.
type opJSON struct {
	Kind     string          `json:"kind"`
	TS       *Timestamp      `json:"ts"`
	Node     *NodeID         `json:"node"`
	Parent   *NodeID         `json:"parent,omitempty"`
	OrderKey *string         `json:"order_key,omitempty"`
	Key      *string         `json:"key,omitempty"`
	Value    json.RawMessage `json:"value,omitempty"`
	Known    int64           `json:"known"`
	Seq      int64           `json:"seq,omitempty"`
	Cause    *Timestamp      `json:"cause,omitempty"`
}

// MarshalJSON writes the protocol's form; seq and cause only where they are set.
func (op Op) MarshalJSON() ([]byte, error) {
	j := opJSON{Kind: op.Kind.String(), TS: &op.TS, Node: &op.Node, Known: op.Known, Seq: op.Seq}
	switch op.Kind {
	case Move:
		j.Parent, j.OrderKey = &op.Parent, &op.OrderKey
	case Set:
		j.Key, j.Value = &op.Key, op.Value
	default:
		return nil, invalid("unknown kind %d", op.Kind)
	}
	if !op.Cause.IsZero() {
		j.Cause = &op.Cause
	}
	return json.Marshal(j)
}

// UnmarshalJSON reads the protocol's form and compacts the value; unknown fields are ignored. It
// checks the shape only: what comes from outside still has to pass Validate.
func (op *Op) UnmarshalJSON(text []byte) error {
	var j opJSON
	if err := json.Unmarshal(text, &j); err != nil {
		return invalid("%v", err)
	}
	if j.TS == nil || j.Node == nil {
		return invalid("ts and node are required")
	}
	*op = Op{TS: *j.TS, Node: *j.Node, Known: j.Known, Seq: j.Seq}
	if j.Cause != nil {
		op.Cause = *j.Cause
	}
	switch j.Kind {
	case "move":
		return op.fillMove(j)
	case "set":
		return op.fillSet(j)
	}
	return invalid("unknown kind %q", j.Kind)
}

func (op *Op) fillMove(j opJSON) error {
	if j.Parent == nil || j.OrderKey == nil {
		return invalid("a move needs parent and order_key")
	}
	op.Kind, op.Parent, op.OrderKey = Move, *j.Parent, *j.OrderKey
	return nil
}

func (op *Op) fillSet(j opJSON) error {
	if j.Key == nil || j.Value == nil {
		return invalid("a set needs key and value")
	}
	value, err := CompactValue(j.Value)
	if err != nil {
		return err
	}
	op.Kind, op.Key, op.Value = Set, *j.Key, value
	return nil
}
