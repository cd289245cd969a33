package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/cmd/canopy/internal/outline"
	"github.com/canopysync/canopy/moveop"
)

// randomEditor is somebody who does not know what he wants.
type randomEditor struct {
	p     *player
	seed  uint64
	rng   *rand.Rand
	nodes []moveop.NodeID
	made  int
}

func (r *randomEditor) run(ctx context.Context, edits int) error {
	r.rng = rand.New(rand.NewPCG(r.seed, 0))
	err := r.p.Walk(ctx, moveop.Root, func(n client.Node, _ int) error {
		r.nodes = append(r.nodes, n.ID)
		return nil
	})
	if err != nil {
		return err
	}
	for range edits {
		if err := r.p.Edit(ctx, r.edit); err != nil {
			return fmt.Errorf("%s: %w", r.p.name, err)
		}
	}
	return nil
}

// edit does one thing. What the tree does not allow just now is left.
func (r *randomEditor) edit(tx *client.Tx) (err error) {
	node := r.pick()
	switch dice := r.rng.IntN(100); {
	case dice < 45:
		err = tx.Move(node, r.pickParent(), r.position())
	case dice < 60:
		err = tx.Reorder(node, r.position())
	case dice < 70:
		r.made++
		err = tx.Set(node, outline.Name, fmt.Sprintf("%s's idea %d", r.p.name, r.made))
	case dice < 80:
		err = tx.Delete(node)
	case dice < 90:
		err = tx.Restore(node)
	default:
		err = r.create(tx)
	}
	if errors.Is(err, client.ErrCycle) || errors.Is(err, client.ErrInsideDeleted) {
		return nil
	}
	return err
}

func (r *randomEditor) pick() moveop.NodeID { return r.nodes[r.rng.IntN(len(r.nodes))] }

func (r *randomEditor) pickParent() moveop.NodeID {
	if r.rng.IntN(4) == 0 {
		return moveop.Root
	}
	return r.pick()
}

func (r *randomEditor) position() client.Position {
	if r.rng.IntN(2) == 0 {
		return client.First
	}
	return client.Last
}

func (r *randomEditor) create(tx *client.Tx) error {
	r.made++
	id, err := createNamed(tx, r.pickParent(), fmt.Sprintf("%s's note %d", r.p.name, r.made))
	if err == nil {
		r.nodes = append(r.nodes, id)
	}
	return err
}
