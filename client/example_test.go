package client_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
)

// Open a replica, edit it, read it. With RealtimeURL and BootstrapURL in Options it is kept in step with
// all others of the room; without them, or without a network, everything but that works the same.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "canopy")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := garden(ctx, filepath.Join(dir, "garden.canopy")); err != nil {
		log.Fatal(err)
	}
	// Output: "tulips"
}

func garden(ctx context.Context, path string) error {
	c, err := client.Open(ctx, path, client.Options{Room: "garden"}) // add RealtimeURL and BootstrapURL to share it
	if err != nil {
		return err
	}
	defer c.Close()
	err = c.Edit(ctx, func(tx *client.Tx) error { // all of it at once, or nothing; pushed when there is a network
		bed, err := tx.Create(moveop.Root, client.Last)
		if err != nil {
			return err
		}
		return tx.Set(bed, "title", "tulips")
	})
	if err != nil {
		return err
	}
	return c.Walk(ctx, moveop.Root, func(n client.Node, _ int) error {
		title, _, err := c.Value(ctx, n.ID, "title")
		fmt.Println(string(title))
		return err
	})
}

// The README shows garden as it is here.
func TestReadmeShowsTheExample(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(source), "func garden(")
	body, _, ok := strings.Cut(rest, "\n}\n")
	if !ok || !strings.Contains(string(readme), "func garden("+body+"\n}\n") {
		t.Error("README.md does not have the function garden of this file")
	}
}

// Undo takes back one's own last edit, and Redo does it again.
func ExampleClient_Undo() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "canopy")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	c, err := client.Open(ctx, filepath.Join(dir, "garden.canopy"), client.Options{Room: "garden"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	err = c.Edit(ctx, func(tx *client.Tx) error { return tx.Set(moveop.Root, "title", "My garden") })
	if err != nil {
		log.Fatal(err)
	}
	undone, err := c.Undo(ctx)
	if err != nil {
		log.Fatal(err)
	}
	_, titled, err := c.Value(ctx, moveop.Root, "title")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(undone.Done), "undone,", len(undone.Skipped), "skipped; titled:", titled, "redo:", c.CanRedo())
	// Output: 1 undone, 0 skipped; titled: false redo: true
}

// Events keep a picture of the tree in step without reading it again.
func ExampleClient_Watch() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "canopy")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	c, err := client.Open(ctx, filepath.Join(dir, "garden.canopy"), client.Options{Room: "garden"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	events := c.Watch(ctx)
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
	e := <-events
	if e.Reread {
		fmt.Println("read again what is shown, as of", e.Version)
	}
	for _, change := range e.Changes {
		fmt.Println(e.Origin, change.Kind(), change.Values[0].Key, string(change.Values[0].Value))
	}
	// Output: local created title "tulips"
}

// Show the user what the server refused for good, keep a copy, and take it back.
func ExampleClient_Discard() {
	settle := func(ctx context.Context, c *client.Client, keep io.Writer) error {
		refused, err := c.Refused(ctx)
		if err != nil {
			return err
		}
		for _, r := range refused {
			fmt.Printf("%s of node %s: %s (%s)\n", r.Op.Kind, r.Op.Node, r.Message, r.Code)
		}
		if err := c.ExportRefused(ctx, keep); err != nil {
			return err
		}
		return c.Discard(ctx) // or Retry, once what the server objected to has changed
	}
	_ = settle
}

// Export a copy while the replica is in use, and make a room of its own from what is there.
func ExampleClient_Fork() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "canopy")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	c, err := client.Open(ctx, filepath.Join(dir, "garden.canopy"), client.Options{Room: "garden"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if err := c.Export(ctx, filepath.Join(dir, "backup.canopy")); err != nil {
		log.Fatal(err)
	}
	if err := c.Fork(ctx, filepath.Join(dir, "meadow.canopy"), "meadow"); err != nil {
		log.Fatal(err)
	}
	fork, err := client.Open(ctx, filepath.Join(dir, "meadow.canopy"), client.Options{}) // with services, to share it
	if err != nil {
		log.Fatal(err)
	}
	defer fork.Close()
	fmt.Println(fork.Room(), fork.Replica() != c.Replica())
	// Output: meadow true
}

// Examine a replica, and have it loaded anew where something is wrong with it.
func ExampleClient_Doctor() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "canopy")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	c, err := client.Open(ctx, filepath.Join(dir, "garden.canopy"), client.Options{Room: "garden"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	diagnosis, err := c.Doctor(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, finding := range diagnosis.Findings {
		fmt.Println(finding.Check, finding.Detail)
	}
	if len(diagnosis.Findings) > 0 {
		if err := c.Repair(ctx); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println(len(diagnosis.Findings), "findings; compared with the server:", diagnosis.Compared)
	// Output: 0 findings; compared with the server: false
}
