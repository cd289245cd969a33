package main

import (
	"context"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/cmd/canopy/internal/outline"
	"github.com/canopysync/canopy/moveop"
)

// importBatch is the number of entries that go into one transaction, and into memory.
const importBatch = 1000

// importer adds the entries of a document to a replica, a batch at a time. Siblings of a batch are
// made as one run, which stays together whatever others insert at the same place.
type importer struct {
	c            *client.Client
	open         []*slot // open[d] is the node that entries of depth d+1 go below
	batch        []addition
	nodes, props int64
}

// slot is a node of the document. Its id is known once its batch was written.
type slot struct {
	id     moveop.NodeID
	parent *slot
	last   *slot // its last child that was written
}

// addition is an entry with its node.
type addition struct {
	at    *slot
	isNew bool
	props outline.Props
}

func newImporter(c *client.Client, parent moveop.NodeID) *importer {
	return &importer{c: c, open: []*slot{{id: parent}}}
}

// take adds an entry.
func (im *importer) take(ctx context.Context, e outline.Entry) error {
	if e.New {
		node := &slot{parent: im.open[e.Depth-1]}
		im.open = append(im.open[:e.Depth], node)
	}
	im.batch = append(im.batch, addition{im.open[e.Depth], e.New, e.Props})
	if len(im.batch) < importBatch {
		return nil
	}
	return im.flush(ctx)
}

// flush writes the batch.
func (im *importer) flush(ctx context.Context) error {
	err := im.c.Edit(ctx, func(tx *client.Tx) error {
		for _, run := range im.runs() {
			if err := create(tx, run); err != nil {
				return err
			}
		}
		return im.set(tx)
	})
	if err == nil {
		im.count()
	}
	im.batch = im.batch[:0]
	return err
}

// count adds up what was committed.
func (im *importer) count() {
	for _, a := range im.batch {
		if a.isNew {
			im.nodes++
		}
		im.props += int64(len(a.props))
	}
}

// runs groups the new nodes of the batch by parent. In a depth-first order a group whose first node
// comes later has its parent in a group before it, or in an earlier batch.
func (im *importer) runs() [][]*slot {
	var runs [][]*slot
	index := map[*slot]int{}
	for _, a := range im.batch {
		if !a.isNew {
			continue
		}
		i, ok := index[a.at.parent]
		if !ok {
			i = len(runs)
			index[a.at.parent] = i
			runs = append(runs, nil)
		}
		runs[i] = append(runs[i], a.at)
	}
	return runs
}

// create makes siblings behind those of earlier batches.
func create(tx *client.Tx, run []*slot) error {
	parent, at := run[0].parent, client.Last
	if parent.last != nil {
		at = client.After(parent.last.id)
	}
	ids, err := tx.CreateRun(parent.id, at, len(run))
	if err != nil {
		return err
	}
	for i, node := range run {
		node.id = ids[i]
	}
	parent.last = run[len(run)-1]
	return nil
}

func (im *importer) set(tx *client.Tx) error {
	for _, a := range im.batch {
		for _, key := range a.props.Keys() {
			if err := tx.Set(a.at.id, key, a.props[key]); err != nil {
				return err
			}
		}
	}
	return nil
}
