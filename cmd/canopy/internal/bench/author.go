package bench

import (
	"encoding/binary"
	"math/rand/v2"
	"strconv"

	"github.com/canopysync/canopy/moveop"
)

// author makes the operations of a room: one a tick of its clock, so that "so many ticks behind" is
// "so many operations behind" too.
type author struct {
	rng   *rand.Rand
	shape shape
	nodes int   // made so far, numbered from 0
	tick  int64 // of the newest operation
	known int64 // head of the room, as far as the author knows

	late uint16 // counter that keeps late operations' timestamps apart
}

// shape says where nodes belong: the parent for node i of n, another one each time where there is a
// choice. Root is -1.
type shape func(rng *rand.Rand, i, n int) int

// eighths is a tree of eight children a node. Moves go from anywhere to anywhere.
func eighths(_ *rand.Rand, i, _ int) int { return (i+7)/8 - 1 }

// folders is three levels of folders above one of leaves, so that the depth is at most 4, and stays so
// when nodes move: one node in twenty is a folder.
func folders(rng *rand.Rand, i, n int) int {
	top, middle, folder := n/500+1, n/100+2, n/20+3
	switch {
	case i < top:
		return -1
	case i < middle:
		return rng.IntN(top)
	case i < folder:
		return top + rng.IntN(middle-top)
	}
	return middle + rng.IntN(folder-middle)
}

// chain is a tree without branches, flat one without folders.
func chain(_ *rand.Rand, i, _ int) int { return i - 1 }
func flat(*rand.Rand, int, int) int    { return -1 }

const (
	startOfTime = 1_700_000_000_000
	theAuthor   = moveop.ReplicaID(7)
)

func newAuthor(s shape) *author {
	return &author{rng: rand.New(rand.NewPCG(1, 2)), shape: s, tick: startOfTime}
}

// nodeID is the i-th node's: in the order in which they are made, like the UUIDv7s of a client.
func nodeID(i int) (n moveop.NodeID) {
	if i < 0 {
		return moveop.Root
	}
	binary.BigEndian.PutUint64(n[0:], (startOfTime+uint64(i))<<16)
	n[6] = 0x70
	binary.BigEndian.PutUint64(n[8:], uint64(i)*0x9e3779b97f4a7c15>>2|1<<63)
	return n
}

// move makes the next operation.
func (a *author) move(node, parent int) moveop.Op {
	a.tick++
	key := [...]byte{'a', '0', 'x', 'x', 'x', 'x', 'x', 'V'}
	for i := 2; i < 7; i++ {
		key[i] = 'A' + byte(a.rng.IntN(26))
	}
	return moveop.Op{
		Kind: moveop.Move, TS: moveop.NewTimestamp(a.tick, 0, theAuthor),
		Node: nodeID(node), Parent: nodeID(parent), OrderKey: string(key[:]), Known: a.known,
	}
}

// create makes the next node, of n that there will be.
func (a *author) create(n int) moveop.Op {
	i := a.nodes
	a.nodes++
	return a.move(i, a.shape(a.rng, i, n))
}

// shuffle moves any node to where its shape lets it go.
func (a *author) shuffle() moveop.Op {
	i := a.rng.IntN(a.nodes)
	return a.move(i, a.shape(a.rng, i, a.nodes))
}

// mixed makes 80 % creates of leaves, anywhere, and 20 % moves of any node to anywhere.
func (a *author) mixed() moveop.Op {
	anywhere := a.rng.IntN(a.nodes)
	if a.rng.IntN(5) == 0 {
		return a.move(a.rng.IntN(a.nodes), anywhere)
	}
	a.nodes++
	return a.move(a.nodes-1, anywhere)
}

// old moves any of the first nodes below any other of them.
func (a *author) old() moveop.Op {
	return a.move(a.rng.IntN(fewNodes), a.rng.IntN(fewNodes))
}

// behind gives ops, the newest ones, timestamps of another replica that end so many operations behind
// the newest before them. The clock is where it was before them.
func (a *author) behind(ops []moveop.Op, distance int64) {
	a.tick -= int64(len(ops))
	a.late++
	replica := moveop.ReplicaID(1000 + a.rng.Int64N(1<<40))
	for i := range ops {
		ops[i].TS = moveop.NewTimestamp(a.tick-distance-int64(len(ops)-1-i), a.late, replica)
	}
}

// each makes n operations.
func each(n int, next func() moveop.Op) []moveop.Op {
	ops := make([]moveop.Op, n)
	for i := range ops {
		ops[i] = next()
	}
	return ops
}

// count writes a number with commas.
func count(n int) string {
	digits := strconv.Itoa(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

func perCall(batch int) string {
	if batch == 1 {
		return "one a call"
	}
	return count(batch) + " a call"
}
