package main

import (
	"fmt"
	"unicode"

	"github.com/canopysync/canopy/moveop"
)

// opLine is an operation for people: seq, time, author, what.
func opLine(op moveop.Op) string {
	return fmt.Sprintf("%8d  %s  %s  %s", op.Seq, op.TS.Time().Local().Format("15:04:05.000"), author(op), action(op))
}

// author is the replica, shortened. A correction is the server's.
func author(op moveop.Op) string {
	if op.TS.IsCorrection() {
		return "server  "
	}
	return op.TS.Replica().String()[:8]
}

func action(op moveop.Op) string {
	switch {
	case op.Kind == moveop.Set && string(op.Value) == "null":
		return fmt.Sprintf("clear   %s  %s", nodeName(op.Node), visible(op.Key))
	case op.Kind == moveop.Set:
		return fmt.Sprintf("set     %s  %s = %s", nodeName(op.Node), visible(op.Key), visible(string(op.Value)))
	case op.TS.IsCorrection():
		return fmt.Sprintf("restore %s  to %s, for the sake of %s", nodeName(op.Node), nodeName(op.Parent), op.Cause)
	case op.Parent == moveop.Trash:
		return fmt.Sprintf("delete  %s", nodeName(op.Node))
	}
	return fmt.Sprintf("move    %s  to %s at %s", nodeName(op.Node), nodeName(op.Parent), visible(op.OrderKey))
}

// nodeName is the random end of an id, which tells nodes made together apart.
func nodeName(id moveop.NodeID) string {
	switch id {
	case moveop.Root:
		return "Root"
	case moveop.Trash:
		return "Trash"
	}
	text := id.String()
	return "…" + text[len(text)-12:]
}

// maxVisible is the length of a value, in characters, from which on it is cut.
const maxVisible = 120

// visible is text that cannot do anything to a terminal, and no longer than maxVisible.
func visible(s string) string {
	n := 0
	for end := range s {
		if n++; n > maxVisible {
			return escape(s[:end], unicode.IsPrint) + "…"
		}
	}
	return escape(s, unicode.IsPrint)
}
