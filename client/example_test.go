package client_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
)

// Open a replica, edit it, read it. With RealtimeURL and BootstrapURL in Options it is kept in step with
// all others of the room; without them, or without a network, everything but that works the same.
func Example() {
	dir, err := os.MkdirTemp("", "canopy")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	ctx := context.Background()
	c, err := client.Open(ctx, filepath.Join(dir, "garden.canopy"), client.Options{Room: "garden"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	err = c.Edit(ctx, func(tx *client.Tx) error {
		bed, err := tx.Create(moveop.Root, client.Last)
		if err != nil {
			return err
		}
		return tx.Set(bed, "title", "tulips")
	})
	if err != nil {
		log.Fatal(err)
	}
	err = c.Walk(ctx, moveop.Root, func(n client.Node, depth int) error {
		title, _, err := c.Value(ctx, n.ID, "title")
		fmt.Printf("%d %s\n", depth, title)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: 1 "tulips"
}
