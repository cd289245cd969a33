package tree

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/canopysync/canopy/moveop"
)

// counter counts what a replay asks of a Tree's log.
type counter struct {
	replayLog
	reads, flips, adds int
}

func (c *counter) ParentBefore(n moveop.NodeID, t moveop.Timestamp) (moveop.NodeID, bool, error) {
	c.reads++
	return c.replayLog.ParentBefore(n, t)
}

func (c *counter) NextEffective(n moveop.NodeID, t moveop.Timestamp) (moveop.Timestamp, error) {
	c.reads++
	return c.replayLog.NextEffective(n, t)
}

func (c *counter) MovesOf(dst []Move, n moveop.NodeID, from, to moveop.Timestamp) ([]Move, error) {
	moves, err := c.replayLog.MovesOf(dst, n, from, to)
	c.reads += 1 + len(moves) - len(dst)
	return moves, err
}

func (c *counter) MovesIn(dst []Move, from, to moveop.Timestamp, limit int) ([]Move, error) {
	moves, err := c.replayLog.MovesIn(dst, from, to, limit)
	c.reads += 1 + len(moves) - len(dst)
	return moves, err
}

func (c *counter) Add(op moveop.Op, effective bool) error {
	c.adds++
	return c.replayLog.Add(op, effective)
}

func (c *counter) SetEffective(m Move, effective bool) error {
	c.flips++
	return c.replayLog.SetEffective(m, effective)
}

func id(i int) moveop.NodeID {
	return moveop.NodeID{0: 1, 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)}
}

func move(ms int, node, parent moveop.NodeID) moveop.Op {
	return moveop.Op{
		Kind: moveop.Move, TS: moveop.NewTimestamp(int64(ms), 0, 1), Node: node, Parent: parent, OrderKey: "a0",
	}
}

// room returns a tree of 20 folders and 1,000 leaves, in which leaves were moved at the times from
// 2,000 on, and one folder under another at each multiple of 1,000.
func room(t *testing.T, moves int) *Tree {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 1))
	room := New()
	var ops []moveop.Op
	for i := range 1020 {
		parent := moveop.Root
		if i >= 20 {
			parent = id(rng.IntN(20))
		}
		ops = append(ops, move(i+1, id(i), parent))
	}
	for i := range moves {
		op := move(2000+i, id(20+rng.IntN(1000)), id(rng.IntN(20)))
		if i%1000 == 0 {
			op.Node, op.Parent = id(10+rng.IntN(10)), id(rng.IntN(10))
		}
		ops = append(ops, op)
	}
	if _, err := room.Apply(ops...); err != nil {
		t.Fatal(err)
	}
	return room
}

func TestReplayCost(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		moves  int // in the log
		op     func(newest int) moveop.Op
		atMost int
	}{
		{"in order", 10_000, func(newest int) moveop.Op { return move(newest+1, id(3), id(15)) }, 3},
		{"a leaf, late", 100_000, func(newest int) moveop.Op { return move(1500, id(999), id(3)) }, 0},
		{"a new node, late", 100_000, func(newest int) moveop.Op { return move(1500, id(5000), id(999)) }, 0},
		{"a folder, 10 behind", 10_000, func(newest int) moveop.Op { return move(newest-10, id(3), id(4)) }, 20},
		{"a folder, 1,000 behind", 200_000, func(newest int) moveop.Op { return move(newest-1000, id(3), id(4)) }, 20},
		{"a folder, 10,000 behind", 200_000, func(newest int) moveop.Op { return move(newest-10_000, id(3), id(4)) }, 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			op := c.op(2000 + c.moves - 1)
			// Times of the room are taken: the op is another replica's.
			op.TS = moveop.NewTimestamp(op.TS.Millis(), 0, 2)
			log := &counter{replayLog: replayLog{room(t, c.moves)}}
			if err := Replay(log, []moveop.Op{op}); err != nil {
				t.Fatal(err)
			}
			if log.adds != 1 || log.reads > c.atMost {
				t.Errorf("want 1 move added and at most %d rows read, got %d and %d", c.atMost, log.adds, log.reads)
			}
		})
	}
}

// TestReplaySpan makes the ancestors change so often that looking at the whole span is cheaper than
// following them: a chain in which every node is moved to where it is, from the bottom up.
func TestReplaySpan(t *testing.T) {
	t.Parallel()
	const depth = 300
	var ops []moveop.Op
	for i := range depth {
		ops = append(ops, move(i+10, id(i+1), id(i)))
	}
	for i := range depth {
		ops = append(ops, move(1000+i, id(depth-i), id(depth-i-1)))
	}
	late := []moveop.Op{move(900, id(depth), moveop.Root), move(901, id(depth/2), id(depth))}
	room := New()
	if _, err := room.Apply(ops...); err != nil {
		t.Fatal(err)
	}
	log := &counter{replayLog: replayLog{room}}
	if err := Replay(log, late); err != nil {
		t.Fatal(err)
	}
	if limit := depth * depth; log.reads > limit {
		t.Errorf("want at most %d rows read, got %d", limit, log.reads)
	}
	sameResult(t, inOrder(t, append(ops, late...)), room)
}

// inOrder applies the ops in timestamp order, for which there is no replay.
func inOrder(t *testing.T, ops []moveop.Op) *Tree {
	t.Helper()
	sorted := New()
	if _, err := sorted.Apply(slices.SortedFunc(slices.Values(ops), byTime)...); err != nil {
		t.Fatal(err)
	}
	return sorted
}

// sameResult compares placements and effective flags.
func sameResult(t *testing.T, want, got *Tree) {
	t.Helper()
	for op := range want.Ops(moveop.Timestamp{}) {
		w, _ := want.IsEffective(op.TS)
		if g, ok := got.IsEffective(op.TS); !ok || w != g {
			t.Fatalf("%s: want effective %t, got %t", op.TS, w, g)
		}
	}
	if w, g := want.Digest().State, got.Digest().State; w != g {
		t.Fatalf("want state digest %016x, got %016x", w, g)
	}
}

// TestReplayShuffled delivers histories too long for the model in random orders and batches, and
// compares with delivery in timestamp order.
func TestReplayShuffled(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 5))
		nodes := 2 + rng.IntN(60)
		ops := make([]moveop.Op, 500)
		for i := range ops {
			ops[i] = move(i+1, id(100+rng.IntN(nodes)), id(100+rng.IntN(nodes)))
			if rng.IntN(4) == 0 {
				ops[i].Parent = moveop.Root
			}
		}
		want := inOrder(t, ops)
		near := 1 + rng.IntN(len(ops))
		for i := range ops {
			k := min(len(ops)-1, i+rng.IntN(near))
			ops[i], ops[k] = ops[k], ops[i]
		}
		got := New()
		for batch := range slices.Chunk(ops, 1+rng.IntN(50)) {
			if _, err := got.Apply(batch...); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("seed %d", seed)
		sameResult(t, want, got)
		if want.Digest() != got.Digest() {
			t.Fatalf("want digest %v, got %v", want.Digest(), got.Digest())
		}
	}
}

// circle is a log in which a and b are each other's parents.
type circle struct{ Log }

func (circle) Newest() (moveop.Timestamp, error)         { return moveop.Timestamp{}, nil }
func (circle) Horizon() moveop.Timestamp                 { return moveop.Timestamp{} }
func (circle) NamedAsParent(moveop.NodeID) (bool, error) { return true, nil }
func (circle) ParentBefore(n moveop.NodeID, _ moveop.Timestamp) (moveop.NodeID, bool, error) {
	if n == id(0) {
		return id(1), true, nil
	}
	if n[15] < 200 {
		return id(int(n[15]) + 1), true, nil
	}
	return id(100), true, nil
}

func TestReplayDamagedLog(t *testing.T) {
	t.Parallel()
	err := Replay(circle{}, []moveop.Op{move(5, id(250), id(0))})
	var cycle *CycleError
	if !errors.As(err, &cycle) {
		t.Fatalf("want a CycleError, got %v", err)
	}
	if want := move(5, id(0), id(0)).TS; cycle.At != want {
		t.Errorf("want time %s, got %s", want, cycle.At)
	}
}

// broken is a log whose n-th answer is an error.
type broken struct {
	replayLog
	left int
}

var errStorage = errors.New("storage")

func (b *broken) fail() error {
	if b.left--; b.left < 0 {
		return errStorage
	}
	return nil
}

func (b *broken) Newest() (moveop.Timestamp, error) {
	ts, _ := b.replayLog.Newest()
	return ts, b.fail()
}

func (b *broken) NamedAsParent(n moveop.NodeID) (bool, error) {
	named, _ := b.replayLog.NamedAsParent(n)
	return named, b.fail()
}

func (b *broken) ParentBefore(n moveop.NodeID, t moveop.Timestamp) (moveop.NodeID, bool, error) {
	parent, ok, _ := b.replayLog.ParentBefore(n, t)
	return parent, ok, b.fail()
}

func (b *broken) NextEffective(n moveop.NodeID, t moveop.Timestamp) (moveop.Timestamp, error) {
	ts, _ := b.replayLog.NextEffective(n, t)
	return ts, b.fail()
}

func (b *broken) MovesOf(dst []Move, n moveop.NodeID, from, to moveop.Timestamp) ([]Move, error) {
	dst, _ = b.replayLog.MovesOf(dst, n, from, to)
	return dst, b.fail()
}

func (b *broken) MovesIn(dst []Move, from, to moveop.Timestamp, limit int) ([]Move, error) {
	dst, _ = b.replayLog.MovesIn(dst, from, to, limit)
	return dst, b.fail()
}

func (b *broken) Add(op moveop.Op, effective bool) error {
	return errors.Join(b.replayLog.Add(op, effective), b.fail())
}

func (b *broken) SetEffective(m Move, effective bool) error {
	return errors.Join(b.replayLog.SetEffective(m, effective), b.fail())
}

// TestReplayStorageErrors lets every single answer of the storage be an error: the replay ends with it.
func TestReplayStorageErrors(t *testing.T) {
	t.Parallel()
	late := []moveop.Op{move(5, id(1), id(2))}
	for n := 0; ; n++ {
		room := New()
		ops := []moveop.Op{move(1, id(1), moveop.Root), move(2, id(2), moveop.Root), move(9, id(2), id(1))}
		if _, err := room.Apply(ops...); err != nil {
			t.Fatal(err)
		}
		err := Replay(&broken{replayLog: replayLog{room}, left: n}, late)
		if err == nil {
			if n < 8 {
				t.Fatalf("the replay needed only %d answers", n)
			}
			return
		}
		if !errors.Is(err, errStorage) {
			t.Fatalf("answer %d: want the storage's error, got %v", n, err)
		}
	}
}

// TestChunked compares long lists with plain sorted slices.
func TestChunked(t *testing.T) {
	t.Parallel()
	for _, grow := range []int{9, 5, 2} {
		t.Run(fmt.Sprintf("grow=%d/10", grow), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(3, uint64(grow)))
			var (
				list chunked[int]
				want []int
			)
			for range 20_000 {
				e := rng.IntN(1 << 30)
				at := list.search(func(x *int) bool { return *x < e })
				i, _ := slices.BinarySearch(want, e)
				if len(want) > 0 && rng.IntN(10) >= grow {
					if at = list.search(func(x *int) bool { return *x < want[0] || *x < e }); list.at(at) == nil {
						continue
					}
					i, _ = slices.BinarySearch(want, *list.at(at))
					list.remove(at)
					want = slices.Delete(want, i, i+1)
					continue
				}
				list.insert(at, e)
				want = slices.Insert(want, i, e)
			}
			var got []int
			for e := range list.from(place{}) {
				got = append(got, *e)
			}
			if !slices.Equal(got, want) || list.len() != len(want) {
				t.Fatalf("the list has %d elements, want %d, or another order", list.len(), len(want))
			}
			if limit := 2 + 4*len(want)/chunkLen; len(list.chunks) > limit {
				t.Errorf("%d elements take %d chunks, want at most %d", len(want), len(list.chunks), limit)
			}
		})
	}
}
