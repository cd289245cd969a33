package client

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/canopysync/canopy/moveop"
)

// picture is everything in the visible tree: ids, places with order keys, and values.
func picture(t *testing.T, c *Client) (lines []string) {
	t.Helper()
	err := c.View(context.Background(), func(v *View) error {
		return v.Walk(moveop.Root, func(n Node, _ int) error {
			values, err := v.Values(n.ID)
			lines = append(lines, fmt.Sprint(n.ID, n.Parent, n.OrderKey, values))
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// Undo and redo, at random among edits, restarts, new timestamps and new replica ids, show exactly
// what was there before.
func TestUndoProperty(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	seed := randomSeed(t)
	for round := range 12 {
		random := rand.New(rand.NewPCG(seed, uint64(round)))
		e := &engine{path: filepath.Join(t.TempDir(), "replica")}
		if err := e.open(); err != nil {
			t.Fatal(err)
		}
		past, at := [][]string{picture(t, e.Client)}, 0
		for range 60 {
			want := at
			switch random.IntN(8) {
			case 0, 1:
				if want = at - 1; want < 0 {
					want = 0
				}
				mustExchange(t, e.Client.Undo)
			case 2, 3:
				want = min(at+1, len(past)-1)
				mustExchange(t, e.Client.Redo)
			case 4:
				disturb(t, e, random)
			default:
				version := e.store.meta.Load().version
				if err := e.Edit(ctx, func(tx *Tx) error { return severalEdits(tx, random) }); err != nil {
					t.Fatal(err)
				}
				if e.store.meta.Load().version == version {
					break
				}
				past = append(past[:at+1], picture(t, e.Client))
				want = at + 1
			}
			at = want
			if got := picture(t, e.Client); !slices.Equal(got, past[at]) {
				t.Fatalf("round %d: undone to\n%v\nwant\n%v", round, got, past[at])
			}
			if e.CanUndo() != (at > 0) || e.CanRedo() != (at < len(past)-1) {
				t.Fatalf("round %d: at %d of %d, CanUndo %t, CanRedo %t", round, at, len(past)-1, e.CanUndo(), e.CanRedo())
			}
		}
		if err := e.Client.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func mustExchange(t *testing.T, exchange func(context.Context) (Undone, error)) {
	t.Helper()
	if undone, err := exchange(context.Background()); err != nil || len(undone.Skipped) > 0 {
		t.Fatalf("%+v, %v", undone, err)
	}
}

// disturb does what must not make a difference.
func disturb(t *testing.T, e *engine, random *rand.Rand) {
	t.Helper()
	var err error
	switch random.IntN(3) {
	case 0:
		err = e.Reopen()
	case 1:
		err = e.store.update(context.Background(), Local, (*txn).restamp)
	default:
		err = e.store.update(context.Background(), Local, (*txn).rename)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func severalEdits(tx *Tx, random *rand.Rand) error {
	for range 1 + random.IntN(4) {
		if err := anEdit(tx, random); err != nil {
			return err
		}
	}
	return nil
}

// anEdit does something random that is possible.
func anEdit(tx *Tx, random *rand.Rand) error {
	nodes := []moveop.NodeID{moveop.Root}
	for _, top := range []moveop.NodeID{moveop.Root, moveop.Trash} {
		err := tx.Walk(top, func(n Node, _ int) error { nodes = append(nodes, n.ID); return nil })
		if err != nil {
			return err
		}
	}
	n, parent := nodes[random.IntN(len(nodes))], nodes[random.IntN(len(nodes))]
	at := []Position{First, Last}[random.IntN(2)]
	if deleted, err := inTrash(tx, n); err != nil || n != moveop.Root && deleted {
		return err // pictures do not show it
	}
	switch random.IntN(9) {
	case 0, 1, 2:
		if n == moveop.Root || tx.mustNotBeAbove(n, parent) != nil {
			return nil
		}
		return tx.Move(n, parent, at)
	case 3:
		if n == moveop.Root {
			return nil
		}
		return tx.Delete(n)
	case 4:
		deleted, err := tx.Children(moveop.Trash, Cursor{}, 1)
		if err != nil || len(deleted) == 0 {
			return err
		}
		return tx.Restore(deleted[0].ID)
	case 5, 6:
		return tx.Set(n, fmt.Sprint("k", random.IntN(2)), []any{nil, 1, "two"}[random.IntN(3)])
	default:
		_, err := tx.Create(n, at)
		return err
	}
}

// inTrash reports whether a node is in Trash.
func inTrash(tx *Tx, n moveop.NodeID) (bool, error) {
	if n == moveop.Root {
		return false, nil
	}
	return tx.IsDeleted(n)
}

// randomSeed is CANOPY_SEED, or one of its own, which it prints.
func randomSeed(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64() >> 1
	if text := os.Getenv("CANOPY_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("CANOPY_SEED: %v", err)
		}
	}
	t.Logf("CANOPY_SEED=%d", seed)
	return seed
}
