// Package moveop defines the basic types of Canopy: node and replica ids, hybrid logical timestamps,
// operations and their codecs, order keys and digests.
//
// It is a leaf: standard library only, no I/O, no goroutines, no package state. Values are plain
// data and safe to copy; Clock is safe for concurrent use.
package moveop

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// Kind is the kind of an operation. Its numeric values are part of the binary codec and of the database
// schema.
type Kind uint8

const (
	// Move creates, moves, reorders, deletes (Parent = Trash) or restores a node.
	Move Kind = 1
	// Set writes a property: the last writer wins per (Node, Key).
	Set Kind = 2
)

// String returns the wire name of the kind.
func (k Kind) String() string {
	switch k {
	case Move:
		return "move"
	case Set:
		return "set"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Op is one operation. TS is its identity: two ops with the same TS have the same body.
type Op struct {
	Kind Kind
	TS   Timestamp
	Node NodeID

	Parent   NodeID // Move: the new parent
	OrderKey string // Move: the place among the new siblings, ordered by (OrderKey, Node)

	Key   string          // Set: the property
	Value json.RawMessage // Set: JSON in CompactValue's form; null clears

	// Known is the author's knowledge cutoff: the greatest room sequence number that it had
	// applied when making the op.
	Known int64

	// Seq is the room's sequence number, given by the server; 0 before that.
	Seq int64
	// Cause is set on a server correction: the timestamp of the op that made it necessary.
	Cause Timestamp
}

// SameBody reports whether two ops with the same timestamp are the same operation. Known, Seq and
// Cause are metadata, not part of the body.
func (op Op) SameBody(other Op) bool {
	return op.Kind == other.Kind && op.TS == other.TS && op.Node == other.Node &&
		op.Parent == other.Parent && op.OrderKey == other.OrderKey &&
		op.Key == other.Key && string(op.Value) == string(other.Value)
}

// ErrInvalidOp is wrapped by every error of Op.Validate and of the codecs.
var ErrInvalidOp = errors.New("invalid operation")

// Limits bounds the content of one operation. Use DefaultLimits unless configured otherwise.
type Limits struct {
	KeyBytes   int // property name, in bytes
	ValueBytes int // property value, in bytes of compact JSON
	ValueDepth int // nesting of arrays and objects in a value
}

// DefaultLimits are the default limits of services and clients. With the largest value, an operation
// still fits into a frame of 1 MiB.
var DefaultLimits = Limits{KeyBytes: 255, ValueBytes: 1000 << 10, ValueDepth: 64}

// Validate checks an operation made by a replica. The server accepts only valid operations, so a client
// puts only those into its outbox. The error wraps ErrInvalidOp and gives the reason. Corrections are
// invalid here: only the server makes them.
func (op Op) Validate(limits Limits) error {
	if r := op.TS.Replica(); !r.Valid() {
		return invalid("timestamp %s carries replica %s, which is zero or has the top bit set", op.TS, r)
	}
	if !op.Cause.IsZero() {
		return invalid("only a correction by the server has a cause")
	}
	if op.Known < 0 {
		return invalid("known %d is negative", op.Known)
	}
	switch op.Kind {
	case Move:
		return op.validateMove()
	case Set:
		return op.validateSet(limits)
	}
	return invalid("unknown kind %d", op.Kind)
}

func (op Op) validateMove() error {
	if op.Node.IsReserved() {
		return invalid("Root and Trash cannot be moved")
	}
	if op.Key != "" || op.Value != nil {
		return invalid("a move has no key and no value")
	}
	return ValidateOrderKey(op.OrderKey)
}

func (op Op) validateSet(limits Limits) error {
	if op.Parent != (NodeID{}) || op.OrderKey != "" {
		return invalid("a set has no parent and no order_key")
	}
	if err := validateKey(op.Key, limits.KeyBytes); err != nil {
		return err
	}
	return ValidateValue(op.Value, limits)
}

func validateKey(key string, maxBytes int) error {
	if key == "" {
		return invalid("the key is empty")
	}
	if len(key) > maxBytes {
		return invalid("the key has %d bytes, the limit is %d", len(key), maxBytes)
	}
	if !utf8.ValidString(key) {
		return invalid("the key is not valid UTF-8")
	}
	for _, r := range key {
		if r < 0x20 || r == 0x7f {
			return invalid("the key contains the control character %U", r)
		}
	}
	return nil
}

// ValidateValue checks that a value is within limits and is JSON in the canonical form of CompactValue,
// which all replicas hash and store alike. The error wraps ErrInvalidOp.
func ValidateValue(value json.RawMessage, limits Limits) error {
	if len(value) > limits.ValueBytes {
		return invalid("the value has %d bytes, the limit is %d", len(value), limits.ValueBytes)
	}
	if d := jsonDepth(value); d > limits.ValueDepth {
		return invalid("the value is nested %d deep, the limit is %d", d, limits.ValueDepth)
	}
	compact, err := CompactValue(value)
	if err != nil {
		return err
	}
	if !bytes.Equal(compact, value) {
		return invalid("the value is not in the canonical form of CompactValue")
	}
	return nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalidOp, fmt.Sprintf(format, args...))
}
