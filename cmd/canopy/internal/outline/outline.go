// Package outline reads and writes trees as documents: JSON and OPML both ways, directory trees one
// way.
//
// A document is read as a sequence of entries in depth-first order and written the same way, so memory
// does not depend on its size, and nothing here recurses, so its depth is not limited either. Values
// are used from one goroutine.
package outline

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/canopysync/canopy/moveop"
)

// ErrFormat is wrapped by every error about a document that cannot be understood, as opposed to one
// that cannot be read.
var ErrFormat = errors.New("malformed document")

// Name is the property that holds a node's label: the file name in a directory tree, the text in OPML.
const Name = "name"

// Props are the properties of a node, as JSON.
type Props map[string]json.RawMessage

// Keys returns the keys in order.
func (p Props) Keys() []string { return slices.Sorted(maps.Keys(p)) }

// Entry is one step through a document. It opens a node, or says more about the one that was opened
// last at its depth.
type Entry struct {
	// Depth is 1 for the top nodes, one more for each level below. 0 stands for the document itself,
	// which is open from the beginning.
	Depth int
	// New is set where the entry opens a node.
	New bool
	// Props are properties of the node.
	Props Props
}

// Entries is a document being read. It ends at the first error.
type Entries = iter.Seq2[Entry, error]

// Document is what a document says about itself.
type Document struct {
	Room  string
	Props Props // of the root
}

// Node is a node to write.
type Node struct {
	ID    moveop.NodeID
	Props Props
}

// Writer writes a document. Nodes come in depth-first order, with depth 1 for the top ones and never
// more than one deeper than the node before. Close completes the document; it does not close what is
// written to.
type Writer interface {
	Node(depth int, n Node) error
	Close() error
}

// check refuses properties that no replica takes.
func (p Props) check() error {
	for _, key := range p.Keys() {
		value, err := moveop.CompactValue(p[key])
		if err != nil {
			return fmt.Errorf("property %.100q: %w", key, err)
		}
		op := moveop.Op{Kind: moveop.Set, TS: moveop.NewTimestamp(1, 0, 1), Node: moveop.Root, Key: key, Value: value}
		if err := op.Validate(moveop.DefaultLimits); err != nil {
			return fmt.Errorf("property %.100q: %w", key, err)
		}
	}
	return nil
}

// maxIndent bounds the indentation, or a deep chain would cost its depth squared.
const maxIndent = 32

const spaces = "                                "

func indent(depth int) string { return spaces[:min(depth, maxIndent)] }

// levels checks the depths that a Writer is given.
type levels struct{ open int }

// enter returns how many open nodes end before a node at depth begins.
func (l *levels) enter(depth int) (ended int, err error) {
	if depth < 1 || depth > l.open+1 {
		return 0, fmt.Errorf("write node: depth %d after %d", depth, l.open)
	}
	ended = l.open - depth + 1
	l.open = depth
	return ended, nil
}
