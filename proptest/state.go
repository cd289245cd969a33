package proptest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/canopysync/canopy/moveop"
)

// State is all observable state of a replica.
type State struct {
	// Nodes has the placement of every placed node, including deleted and unreachable ones.
	Nodes map[moveop.NodeID]Placement
	// Values has the current write of every property, including cleared ones.
	Values map[Property]Write
	// Effective has the flag of every move in the log.
	Effective map[moveop.Timestamp]bool
	Digest    moveop.Digest
	// Version is the newest timestamp of each replica; entries of corrections are ignored. Nil if the engine
	// keeps no version vector.
	Version map[moveop.ReplicaID]moveop.Timestamp
}

// Placement is a node's last effective move.
type Placement struct {
	Parent   moveop.NodeID
	OrderKey string
	TS       moveop.Timestamp
}

// Property identifies a property of a node.
type Property struct {
	Node moveop.NodeID
	Key  string
}

// Write is the last set of a property.
type Write struct {
	JSON string
	TS   moveop.Timestamp
}

// Diff returns the differences of got from want, one per line; empty if there are none.
func Diff(want, got State) string {
	var b strings.Builder
	diffMap(&b, "node", nodeName, want.Nodes, got.Nodes)
	diffMap(&b, "value", Property.String, want.Values, got.Values)
	diffMap(&b, "effective", opTime, want.Effective, got.Effective)
	if want.Version != nil && got.Version != nil {
		diffMap(&b, "version of", replicaName, authors(want.Version), authors(got.Version))
	}
	if want.Digest != got.Digest {
		fmt.Fprintf(&b, "digest: want %+v, got %+v\n", want.Digest, got.Digest)
	}
	return b.String()
}

func diffMap[K comparable, V comparable](b *strings.Builder, what string, name func(K) string, want, got map[K]V) {
	var lines []string
	for k, w := range want {
		if g, ok := got[k]; !ok {
			lines = append(lines, fmt.Sprintf("%s %s: want %v, got none\n", what, name(k), w))
		} else if g != w {
			lines = append(lines, fmt.Sprintf("%s %s: want %v, got %v\n", what, name(k), w, g))
		}
	}
	for k, g := range got {
		if _, ok := want[k]; !ok {
			lines = append(lines, fmt.Sprintf("%s %s: want none, got %v\n", what, name(k), g))
		}
	}
	slices.Sort(lines)
	b.WriteString(strings.Join(lines, ""))
}

func authors(version map[moveop.ReplicaID]moveop.Timestamp) map[moveop.ReplicaID]moveop.Timestamp {
	version = maps.Clone(version)
	maps.DeleteFunc(version, func(r moveop.ReplicaID, _ moveop.Timestamp) bool { return !r.Valid() })
	return version
}

// String writes a placement in the scenarios' notation.
func (p Placement) String() string {
	return fmt.Sprintf("%s %q by %s", nodeName(p.Parent), p.OrderKey, opTime(p.TS))
}

// String writes a write in the scenarios' notation.
func (w Write) String() string { return fmt.Sprintf("%s by %s", w.JSON, opTime(w.TS)) }

// String writes a property in the scenarios' notation.
func (p Property) String() string { return nodeName(p.Node) + "." + p.Key }

// Check reports an inconsistency in the state: a cycle of placements, or a digest that does not match the rest.
func (s State) Check() error {
	for n := range s.Nodes {
		steps := 0
		for at := n; ; steps++ {
			p, ok := s.Nodes[at]
			if !ok {
				break
			}
			if steps > len(s.Nodes) {
				return fmt.Errorf("the parents of %s run in a circle", nodeName(n))
			}
			at = p.Parent
		}
	}
	if hash := s.hash(); s.Digest.State != hash {
		return fmt.Errorf("state digest is %016x, recomputed it is %016x", s.Digest.State, hash)
	}
	return nil
}

// hash recomputes moveop.Digest.State.
func (s State) hash() (hash uint64) {
	for n, p := range s.Nodes {
		hash ^= moveop.PlacementHash(n, p.Parent, p.OrderKey)
	}
	for p, w := range s.Values {
		hash ^= moveop.ValueHash(p.Node, p.Key, w.TS)
	}
	return hash
}

// Children returns the nodes placed under parent in sibling order.
func (s State) Children(parent moveop.NodeID) []moveop.NodeID {
	var children []moveop.NodeID
	for n, p := range s.Nodes {
		if p.Parent == parent {
			children = append(children, n)
		}
	}
	slices.SortFunc(children, func(a, b moveop.NodeID) int {
		if c := strings.Compare(s.Nodes[a].OrderKey, s.Nodes[b].OrderKey); c != 0 {
			return c
		}
		return a.Compare(b)
	})
	return children
}

// Tree writes the visible tree in the scenarios' notation: ROOT{A{B},C}.
func (s State) Tree() string { return s.subtree(moveop.Root) }

func (s State) subtree(top moveop.NodeID) string {
	var parts []string
	for _, n := range s.Children(top) {
		parts = append(parts, s.subtree(n))
	}
	if len(parts) == 0 {
		return nodeName(top)
	}
	return nodeName(top) + "{" + strings.Join(parts, ",") + "}"
}
