package tree

import (
	"hash/maphash"

	"github.com/canopysync/canopy/moveop"
)

// index is a node's dense number within a Tree.
type index int32

// The first two nodes of every table; none stands for "no node".
const (
	none       index = -1
	rootIndex  index = 0
	trashIndex index = 1
)

// node is what a Tree knows of a node that any op named. Its placement is its last effective move:
// the log holds that move here and nowhere else. A node that was created and never touched again
// costs this struct, the bytes of its order key and an entry of the timeline. It is one cache line:
// touching nodes all over memory is what moving them costs.
type node struct {
	id     moveop.NodeID
	ts     moveop.Timestamp // of the placement; zero where there is none
	key    keyRef           // order key
	prefix uint64           // first bytes of the order key, for comparisons
	parent index            // none where there is no placement
	recent pastRef          // chain of past moves that are not in more.past yet, noPast where it ends
	more   *more
}

// more is what only some nodes have.
type more struct {
	past     []pastRef        // the node's other moves, by timestamp, less the recent ones
	children chunked[sibling] // by (order key, id)
	values   *values
	named    bool // some move of another node has this one as its parent
}

// sibling is a node in its parent's list. With the prefix beside it, most of a search stays within the
// list, and need not look at the nodes.
type sibling struct {
	prefix uint64
	node   index
}

// seek returns the place of the first sibling whose prefix is not below the one given. It is what
// search does, without a call for each step: two of these are most of what a move in order costs.
func seek(siblings *chunked[sibling], prefix uint64) place {
	k, end := 0, len(siblings.chunks)
	for k < end {
		middle := int(uint(k+end) >> 1)
		if chunk := siblings.chunks[middle]; chunk[len(chunk)-1].prefix < prefix {
			k = middle + 1
		} else {
			end = middle
		}
	}
	if k == len(siblings.chunks) {
		return place{k, 0}
	}
	chunk := siblings.chunks[k]
	i, end := 0, len(chunk)
	for i < end {
		middle := int(uint(i+end) >> 1)
		if chunk[middle].prefix < prefix {
			i = middle + 1
		} else {
			end = middle
		}
	}
	return place{k, i}
}

func (n *node) extend() *more {
	if n.more == nil {
		n.more = new(more)
	}
	return n.more
}

func (n *node) placed() bool { return n.parent != none }

// named reports whether some move of another node has this one as its parent.
func (n *node) named() bool { return n.more != nil && n.more.named }

// nodes is a growing table of nodes with an index by id. Nodes never move in memory and are never
// removed.
type nodes struct {
	pages []*[pageLen]node
	count index

	// slots is an open-addressing hash table of index+1, at most half full, so that most searches look
	// at one node; 0 is free. It keeps no keys: the nodes have them. The seed makes its collisions
	// unpredictable to whoever chooses ids.
	slots []index
	seed  maphash.Seed
}

const (
	pageShift = 9
	pageLen   = 1 << pageShift
)

func newNodes() nodes {
	ns := nodes{slots: make([]index, 64), seed: maphash.MakeSeed()}
	ns.intern(moveop.Root)
	ns.intern(moveop.Trash)
	return ns
}

func (ns *nodes) at(i index) *node { return &ns.pages[i>>pageShift][i&(pageLen-1)] }

// find returns the node's index, or none.
func (ns *nodes) find(id moveop.NodeID) index {
	return ns.slots[ns.slot(id)] - 1
}

// intern returns the node's index, adding the node if need be.
func (ns *nodes) intern(id moveop.NodeID) index {
	s := ns.slot(id)
	if i := ns.slots[s] - 1; i != none {
		return i
	}
	i := ns.count
	if i&(pageLen-1) == 0 {
		ns.pages = append(ns.pages, new([pageLen]node))
	}
	ns.count++
	*ns.at(i) = node{id: id, parent: none, recent: noPast}
	ns.slots[s] = i + 1
	if 2*int(ns.count) > len(ns.slots) {
		ns.grow()
	}
	return i
}

// slot returns the slot that holds id, or the free one where it belongs.
func (ns *nodes) slot(id moveop.NodeID) int {
	mask := len(ns.slots) - 1
	s := int(maphash.Bytes(ns.seed, id[:])) & mask
	for ns.slots[s] != 0 && ns.at(ns.slots[s]-1).id != id {
		s = (s + 1) & mask
	}
	return s
}

func (ns *nodes) grow() {
	ns.slots = make([]index, 2*len(ns.slots))
	for i := range ns.count {
		ns.slots[ns.slot(ns.at(i).id)] = i + 1
	}
}
