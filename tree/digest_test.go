package tree

import (
	"encoding/json"
	"math/rand/v2"
	"testing"

	"github.com/canopysync/canopy/moveop"
)

// A digest that is asked for late says the same as one that was kept from the beginning.
func TestDigestFromWhicheverOp(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 6))
		kept, late := New(), New()
		kept.Digest()
		ops := make([]moveop.Op, 300)
		for i := range ops {
			ops[i] = move(i+1, id(rng.IntN(20)), id(rng.IntN(20)))
			if rng.IntN(3) == 0 {
				ops[i] = moveop.Op{
					Kind: moveop.Set, TS: ops[i].TS, Node: ops[i].Node,
					Key: string(rune('a' + rng.IntN(3))), Value: json.RawMessage("1"),
				}
			}
		}
		rng.Shuffle(len(ops), func(i, k int) { ops[i], ops[k] = ops[k], ops[i] })
		asked := rng.IntN(len(ops))
		for i, op := range ops {
			for _, room := range []*Tree{kept, late} {
				if _, err := room.Apply(op); err != nil {
					t.Fatal(err)
				}
			}
			if i >= asked && kept.Digest() != late.Digest() {
				t.Fatalf("seed %d, op %d: want digest %v, got %v", seed, i, kept.Digest(), late.Digest())
			}
		}
	}
}

// A move that becomes past and current again and again takes no more memory each time.
func TestPastMovesAreReused(t *testing.T) {
	t.Parallel()
	room := New()
	if _, err := room.Apply(move(1, id(1), moveop.Root), move(2, id(2), moveop.Root), move(9, id(2), id(1))); err != nil {
		t.Fatal(err)
	}
	flip := Move{TS: move(9, id(2), id(1)).TS, Node: id(2), Parent: id(1)}
	for range 1000 {
		for _, effective := range []bool{false, true} {
			flip.Effective = !effective
			if err := (replayLog{room}).SetEffective(flip, effective); err != nil {
				t.Fatal(err)
			}
		}
	}
	if room.pasts.count > 3 {
		t.Errorf("%d past moves are kept of 3 moves", room.pasts.count)
	}
	if p, ok := room.Placement(id(2)); !ok || p.Parent != id(1) {
		t.Errorf("the node is at %v", p)
	}
}
