package proptest

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/canopysync/canopy/moveop"
)

// The scenarios' notation. A node's id and its default order key are made from its name, so that
// siblings stand in alphabetical order and a failure can be read:
//
//	ROOT{A{B},C}        a tree; the node names are letters and digits, 11 at most
//	a:5 X→A             replica a's move of X under A at 5 ms; a:5.1 is the second one of that ms
//	a:5 X→A@k           with another name's order key
//	a:5 N.title="x"     a set
//	a:5 X→A (knows 3)   known is 3; otherwise it is that of the scenario
const (
	rootName  = "ROOT"
	trashName = "TRASH"
)

// setupReplica authors the tree that a scenario starts from.
const setupReplica = 'S'

// node returns the node with that name.
func node(name string) moveop.NodeID {
	switch name {
	case rootName:
		return moveop.Root
	case trashName:
		return moveop.Trash
	}
	id := moveop.NodeID{0: 1}
	copy(id[1:12], name)
	return id
}

// nodeName is the inverse of node; ids that it did not make are written out.
func nodeName(id moveop.NodeID) string {
	switch id {
	case moveop.Root:
		return rootName
	case moveop.Trash:
		return trashName
	}
	if name := string(bytes.TrimRight(id[1:12], "\x00")); name != "" && id == node(name) {
		return name
	}
	return id.String()
}

// orderKey is a valid order key that sorts like the name.
func orderKey(name string) string { return "a0" + name + "V" }

func replica(letter byte) moveop.ReplicaID { return moveop.ReplicaID(letter) }

func replicaName(r moveop.ReplicaID) string {
	if r > ' ' && r < 0x7f {
		return string(rune(r))
	}
	return r.String()
}

// opTime writes a timestamp as in "a:5"; a correction's carries a "+".
func opTime(ts moveop.Timestamp) string {
	r, plus := ts.Replica(), ""
	if ts.IsCorrection() {
		r, plus = r&^(1<<63), "+"
	}
	s := fmt.Sprintf("%s:%d", replicaName(r), ts.Millis())
	if ts.Counter() > 0 {
		s += fmt.Sprintf(".%d", ts.Counter())
	}
	return s + plus
}

// opText writes an op in the notation.
func opText(op moveop.Op) string {
	s := opTime(op.TS) + " " + nodeName(op.Node)
	if op.Kind == moveop.Set {
		s += fmt.Sprintf(".%s=%s", op.Key, op.Value)
	} else {
		s += fmt.Sprintf("→%s@%s", nodeName(op.Parent), op.OrderKey)
	}
	s += fmt.Sprintf(" (knows %d)", op.Known)
	if op.Seq != 0 {
		s += fmt.Sprintf(" #%d", op.Seq)
	}
	if !op.Cause.IsZero() {
		s += " for " + opTime(op.Cause)
	}
	return s
}

func opsText(ops []moveop.Op) string {
	var b strings.Builder
	for _, op := range ops {
		b.WriteString("  " + opText(op) + "\n")
	}
	return b.String()
}

// parseTime reads "a:5", "a:5.1" or "a:5+".
func parseTime(s string) (moveop.Timestamp, error) {
	text, correction := strings.CutSuffix(s, "+")
	letter, reading, ok := strings.Cut(text, ":")
	if !ok || len(letter) != 1 {
		return moveop.Timestamp{}, fmt.Errorf("%q is not a time like a:5", s)
	}
	millis, counter, _ := strings.Cut(reading, ".")
	ms, err := strconv.ParseInt(millis, 10, 48)
	if err != nil {
		return moveop.Timestamp{}, err
	}
	n := uint64(0)
	if counter != "" {
		if n, err = strconv.ParseUint(counter, 10, 16); err != nil {
			return moveop.Timestamp{}, err
		}
	}
	ts := moveop.NewTimestamp(ms, uint16(n), replica(letter[0]))
	if correction {
		ts = ts.Correction()
	}
	return ts, nil
}

// parseOps reads ops separated by semicolons.
func parseOps(text string, known int64) ([]moveop.Op, error) {
	var ops []moveop.Op
	for part := range strings.SplitSeq(text, ";") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		op, err := parseOp(part, known)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", part, err)
		}
		ops = append(ops, op)
	}
	return ops, nil
}

func parseOp(text string, known int64) (op moveop.Op, err error) {
	op.Known = known
	if rest, annotation, ok := strings.Cut(text, " (knows "); ok {
		text = rest
		if op.Known, err = strconv.ParseInt(strings.TrimSuffix(annotation, ")"), 10, 64); err != nil {
			return op, err
		}
	}
	when, what, _ := strings.Cut(text, " ")
	if op.TS, err = parseTime(when); err != nil {
		return op, err
	}
	if name, to, ok := strings.Cut(what, "→"); ok {
		parent, key, ok := strings.Cut(to, "@")
		if !ok {
			key = name
		}
		op.Kind, op.Node, op.Parent, op.OrderKey = moveop.Move, node(name), node(parent), orderKey(key)
		return op, nil
	}
	property, value, ok := strings.Cut(what, "=")
	name, key, dot := strings.Cut(property, ".")
	if !ok || !dot {
		return op, fmt.Errorf("neither a move like X→A nor a set like X.title=\"x\"")
	}
	op.Kind, op.Node, op.Key, op.Value = moveop.Set, node(name), key, []byte(value)
	return op, nil
}

// parseTree returns the moves that make a tree, in the order of the text.
func parseTree(text string) ([]moveop.Op, error) {
	var (
		ops  []moveop.Op
		path []string
		last string
	)
	for len(text) > 0 {
		switch c := text[0]; c {
		case '{':
			path, text = append(path, last), text[1:]
			continue
		case '}':
			if len(path) == 0 {
				return nil, fmt.Errorf("%q: too many }", text)
			}
			path, text = path[:len(path)-1], text[1:]
			continue
		case ',':
			text = text[1:]
			continue
		}
		end := strings.IndexAny(text, "{},")
		if end < 0 {
			end = len(text)
		}
		last, text = text[:end], text[end:]
		if len(path) > 0 {
			ops = append(ops, moveop.Op{
				Kind: moveop.Move, TS: moveop.NewTimestamp(1, uint16(len(ops)), replica(setupReplica)),
				Node: node(last), Parent: node(path[len(path)-1]), OrderKey: orderKey(last),
			})
		}
	}
	return ops, nil
}
