package client

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/canopysync/canopy/moveop"
)

// hub hands operations on between replicas, in batches and late, as a server would.
type hub struct {
	t       *testing.T
	log     []moveop.Op
	members []*Client
}

// push takes a member's outbox into the log, pull hands it what it has not had.
func (h *hub) push(c *Client) {
	h.update(c, func(t *txn) error {
		all, err := t.outbox()
		for i := range all {
			op := all[i].op
			op.Seq = int64(len(h.log) + 1)
			h.log = append(h.log, op)
		}
		return err
	})
}

func (h *hub) pull(c *Client) {
	h.update(c, func(t *txn) error {
		_, err := t.merge(h.log[t.meta.seq:])
		t.meta.seq = int64(len(h.log))
		return err
	})
}

func (h *hub) update(c *Client, fn func(t *txn) error) {
	h.t.Helper()
	if err := c.store.update(context.Background(), Remote, fn); err != nil {
		h.t.Fatal(err)
	}
}

// exchange pushes and pulls, so that nothing is in the outbox while the log has it.
func (h *hub) exchange(c *Client) { h.push(c); h.pull(c) }

// Several people edit, undo and redo. No undo touches what is somebody else's, and all end up with the
// same.
func TestUndoLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(randomSeed(t), 1))
	for range 5 {
		h := &hub{t: t}
		for range 3 {
			e := &engine{path: filepath.Join(t.TempDir(), "replica")}
			if err := e.open(); err != nil {
				t.Fatal(err)
			}
			defer e.Client.Close()
			h.members = append(h.members, e.Client)
		}
		for range 200 {
			h.step(h.members[random.IntN(len(h.members))], random)
		}
		for range 2 {
			for _, c := range h.members {
				h.exchange(c)
			}
		}
		for _, c := range h.members {
			if c.Digest() != h.members[0].Digest() || c.Pending() != 0 {
				t.Errorf("digest %+v, %d pending, others have %+v", c.Digest(), c.Pending(), h.members[0].Digest())
			}
		}
	}
}

func (h *hub) step(c *Client, random *rand.Rand) {
	h.t.Helper()
	var err error
	switch random.IntN(6) {
	case 0:
		h.exchange(c)
		return
	case 1, 2:
		exchange := []func(context.Context) (Undone, error){c.Undo, c.Undo, c.Redo}[random.IntN(3)]
		before := h.foreign(c)
		var undone Undone
		undone, err = exchange(context.Background())
		for _, change := range append(undone.Done, undone.Skipped...) {
			if change.Key == "" && change.Reason == "" && before.parents[change.Node] != (moveop.NodeID{}) {
				h.t.Errorf("undid somebody else's move of %s", change.Node)
			}
		}
		after := h.foreign(c)
		for ts := range before.current {
			if !after.current[ts] {
				h.t.Errorf("undid somebody else's %s", ts)
			}
		}
	default:
		err = c.Edit(context.Background(), func(tx *Tx) error { return severalEdits(tx, random) })
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// foreign is what somebody else has written: current placements and values.
type foreign struct {
	parents map[moveop.NodeID]moveop.NodeID
	current map[moveop.Timestamp]bool
}

func (h *hub) foreign(c *Client) foreign {
	h.t.Helper()
	f := foreign{map[moveop.NodeID]moveop.NodeID{}, map[moveop.Timestamp]bool{}}
	h.update(c, func(t *txn) error {
		return t.everyOp(func(op moveop.Op, current bool) error {
			if current && op.TS.Replica() != c.Replica() {
				f.current[op.TS] = true
				if op.Kind == moveop.Move {
					f.parents[op.Node] = op.Parent
				}
			}
			return nil
		})
	})
	return f
}
