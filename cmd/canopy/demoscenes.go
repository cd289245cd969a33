package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/cmd/canopy/internal/outline"
	"github.com/canopysync/canopy/moveop"
)

// festival is the outline that Ann begins with.
var festival = []struct {
	topic string
	items []string
}{
	{"Programme", []string{"Opening concert", "Film night"}},
	{"Places", []string{"Town hall", "Lake stage"}},
	{"Food", []string{"Trucks", "Coffee"}},
}

func (d *demo) annBegins(ctx context.Context) error {
	ann := d.players[0]
	if err := ann.reopen(ctx, d, true); err != nil {
		return err
	}
	err := ann.Edit(ctx, func(tx *client.Tx) error {
		for _, f := range festival {
			topic, err := createNamed(tx, moveop.Root, f.topic)
			if err != nil {
				return err
			}
			for _, item := range f.items {
				if _, err := createNamed(tx, topic, item); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return d.step(ctx, "1. Ann begins a festival's outline.")
}

func (d *demo) othersJoin(ctx context.Context) error {
	if err := d.step(ctx, "\n2. Ben and Cleo open the room and get a snapshot of it."); err != nil {
		return err
	}
	if err := d.together(ctx); err != nil {
		return err
	}
	return d.show(ctx)
}

// cycle has two people move two nodes into each other.
func (d *demo) cycle(ctx context.Context) error {
	ben, cleo := d.players[1], d.players[2]
	if err := d.step(ctx, "\n3. Ben and Cleo go offline. Ben moves Places into Programme, Cleo moves Programme into Places."); err != nil {
		return err
	}
	if err := d.offline(ctx, ben, cleo); err != nil {
		return err
	}
	if err := moveNamed(ctx, ben, "Places", "Programme"); err != nil {
		return err
	}
	if err := moveNamed(ctx, cleo, "Programme", "Places"); err != nil {
		return err
	}
	if err := d.show(ctx); err != nil {
		return err
	}
	if err := d.step(ctx, "\n   They come back. The later of the two moves would close a cycle, so it counts for nobody."); err != nil {
		return err
	}
	if err := d.together(ctx); err != nil {
		return err
	}
	return d.show(ctx)
}

// lateDelete has somebody delete what somebody else is just working on.
func (d *demo) lateDelete(ctx context.Context) error {
	ann, ben := d.players[0], d.players[1]
	if err := d.step(ctx, "\n4. Ben goes offline and deletes Food. Ann, who cannot know, adds Ice cream to it."); err != nil {
		return err
	}
	if err := d.offline(ctx, ben); err != nil {
		return err
	}
	food, err := find(ctx, ben, "Food")
	if err != nil {
		return err
	}
	if err := ben.Edit(ctx, func(tx *client.Tx) error { return tx.Delete(food) }); err != nil {
		return err
	}
	err = ann.Edit(ctx, func(tx *client.Tx) error {
		_, err := createNamed(tx, food, "Ice cream")
		return err
	})
	if err != nil {
		return err
	}
	if err := d.step(ctx, "\n   Ben comes back. He deleted what he had not seen, so the server restores it."); err != nil {
		return err
	}
	if err := d.together(ctx); err != nil {
		return err
	}
	return d.show(ctx)
}

// everybody has all of them edit at random at the same time, two of them offline.
func (d *demo) everybody(ctx context.Context, edits int) error {
	if err := d.step(ctx, "\n5. Everybody makes %d random edits at the same time; Ben and Cleo are offline for it.", edits); err != nil {
		return err
	}
	if err := d.offline(ctx, d.players[1:]...); err != nil {
		return err
	}
	group, editing := errgroup.WithContext(ctx)
	for _, p := range d.players {
		r := &randomEditor{p: p, seed: d.rng.Uint64()}
		group.Go(func() error { return r.run(editing, edits) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, p := range d.players {
		d.say("   %-5s %d operations not pushed yet, state %016x", p.name, p.Pending(), p.Digest().State)
	}
	if err := d.step(ctx, "\n   They come back."); err != nil {
		return err
	}
	if err := d.together(ctx); err != nil {
		return err
	}
	return d.show(ctx)
}

func createNamed(tx *client.Tx, parent moveop.NodeID, name string) (moveop.NodeID, error) {
	id, err := tx.Create(parent, client.Last)
	if err != nil {
		return id, err
	}
	return id, tx.Set(id, outline.Name, name)
}

func moveNamed(ctx context.Context, p *player, name, into string) error {
	node, err := find(ctx, p, name)
	if err != nil {
		return err
	}
	parent, err := find(ctx, p, into)
	if err != nil {
		return err
	}
	return p.Edit(ctx, func(tx *client.Tx) error { return tx.Move(node, parent, client.Last) })
}

// errFound ends a walk.
var errFound = errors.New("found")

// find returns the first node of a name.
func find(ctx context.Context, p *player, name string) (id moveop.NodeID, err error) {
	err = p.View(ctx, func(v *client.View) error {
		return v.Walk(moveop.Root, func(n client.Node, _ int) error {
			got, err := label(v, n.ID)
			if err == nil && got == name {
				id, err = n.ID, errFound
			}
			return err
		})
	})
	switch {
	case errors.Is(err, errFound):
		return id, nil
	case err == nil:
		err = fmt.Errorf("%s has no %s", p.name, name)
	}
	return id, err
}

// label is a node's name for people.
func label(v *client.View, id moveop.NodeID) (string, error) {
	value, ok, err := v.Value(id, outline.Name)
	if err != nil || !ok {
		return "(no name)", err
	}
	var name string
	if json.Unmarshal(value, &name) != nil {
		name = string(value)
	}
	return visible(name), nil
}

// maxShown is the number of lines of a tree that is printed.
const maxShown = 40

func treeText(ctx context.Context, c *client.Client) (string, error) {
	var b strings.Builder
	n := 0
	err := c.View(ctx, func(v *client.View) error {
		return v.Walk(moveop.Root, func(node client.Node, depth int) error {
			if n++; n > maxShown {
				return nil // counted
			}
			name, err := label(v, node.ID)
			fmt.Fprintf(&b, "    %s%s\n", strings.Repeat("  ", depth), name)
			return err
		})
	})
	if n > maxShown {
		fmt.Fprintf(&b, "      … and %d more\n", n-maxShown)
	}
	return strings.TrimSuffix(b.String(), "\n"), err
}
