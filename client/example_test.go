package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

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

// withGarden runs an example on a new replica that is gone afterwards.
func withGarden(example func(ctx context.Context, c *client.Client, dir string) error) {
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
	if err := errors.Join(example(ctx, c, dir), c.Close()); err != nil {
		log.Fatal(err)
	}
}

// Open with services, say where the token comes from, and wait for somebody else who has the file open.
// Each error of the file says what can be done.
func ExampleOpen() {
	connect := func(ctx context.Context, path string, token func(context.Context) (string, error)) (*client.Client, error) {
		c, err := client.Open(ctx, path, client.Options{
			Room:         "garden",
			RealtimeURL:  "https://canopy.example",
			BootstrapURL: "https://snapshots.canopy.example",
			Name:         "Ann",
			Token:        token,
			WaitForFile:  true,
		})
		switch {
		case errors.Is(err, client.ErrNewerVersion):
			fmt.Println("update this program")
		case errors.Is(err, client.ErrCorrupt):
			fmt.Println("move the file away and load the room anew")
		}
		return c, err
	}
	_ = connect
}

// All that an edit can do. Each Edit is one transaction, and one step of Undo.
func ExampleClient_Edit() {
	withGarden(func(ctx context.Context, c *client.Client, _ string) error {
		return c.Edit(ctx, func(tx *client.Tx) error {
			beds, err := tx.CreateRun(moveop.Root, client.Last, 3) // a run stays together
			if err != nil {
				return err
			}
			a, b, d := beds[0], beds[1], beds[2]
			for i, title := range []string{"a", "b", "d"} {
				if err := tx.Set(beds[i], "title", title); err != nil {
					return err
				}
			}
			row, err := tx.Create(a, client.First)
			if err != nil {
				return err
			}
			err = errors.Join(
				tx.Move(row, moveop.Root, client.Before(b)), // in front of b,
				tx.Move(row, moveop.Root, client.After(b)),  // behind it,
				tx.Move(row, b, client.Last),                // into it
				tx.Reorder(a, client.Last),
				tx.Delete(d),
				tx.Restore(d),
				tx.Set(d, "color", "red"),
				tx.Set(d, "color", nil), // cleared
				tx.Delete(row),
			)
			if err != nil {
				return err
			}
			return tx.Walk(moveop.Root, func(n client.Node, depth int) error {
				title, _, err := tx.Value(n.ID, "title")
				fmt.Printf("%d %s\n", depth, title)
				return err
			})
		})
	})
	// Output:
	// 1 "b"
	// 1 "d"
	// 1 "a"
}

// Several reads of one state: children by page, what is above and below a node, its properties, Trash.
func ExampleClient_View() {
	withGarden(func(ctx context.Context, c *client.Client, _ string) error {
		var bed, row, weed moveop.NodeID
		err := c.Edit(ctx, func(tx *client.Tx) (err error) {
			if _, err = tx.CreateRun(moveop.Root, client.Last, 250); err != nil {
				return err
			}
			if bed, err = tx.Create(moveop.Root, client.Last); err != nil {
				return err
			}
			if row, err = tx.Create(bed, client.Last); err != nil {
				return err
			}
			if weed, err = tx.Create(row, client.Last); err != nil {
				return err
			}
			return errors.Join(tx.Set(row, "title", "tulips"), tx.Set(row, "color", "red"), tx.Delete(weed))
		})
		if err != nil {
			return err
		}
		return c.View(ctx, func(v *client.View) error {
			var after client.Cursor
			for {
				page, err := v.Children(moveop.Root, after, 100)
				if err != nil {
					return err
				}
				fmt.Println(len(page), "children")
				if len(page) < 100 {
					break
				}
				after = page[len(page)-1].Cursor()
			}
			n, err := v.Node(row)
			if err != nil {
				return err
			}
			above, err := v.Ancestors(row)
			if err != nil {
				return err
			}
			values, err := v.Values(row)
			if err != nil {
				return err
			}
			fmt.Println(n.Parent == bed, above[len(above)-1] == moveop.Root, len(values), string(values["title"]))
			deleted, err := v.IsDeleted(weed)
			if err != nil {
				return err
			}
			trash, err := v.Children(moveop.Trash, client.Cursor{}, 0)
			if err != nil {
				return err
			}
			fmt.Println(deleted, len(trash) == 1 && trash[0].ID == weed)
			return v.Walk(bed, func(n client.Node, depth int) error {
				fmt.Println("below the bed:", n.ID == row, depth)
				return nil
			})
		})
	})
	// Output:
	// 100 children
	// 100 children
	// 51 children
	// true true 2 "tulips"
	// true true
	// below the bed: true 1
}

// A line that says where the replica stands.
func ExampleClient_WatchStatus() {
	show := func(ctx context.Context, c *client.Client) {
		for s := range c.WatchStatus(ctx) {
			switch done, total := s.Progress(); {
			case total > 0:
				fmt.Printf("%s: %d of %d\n", s.State, done, total)
			case s.State == client.StateNeedsAuth:
				fmt.Println("sign in again") // and call Reconnect then
			case s.State == client.StateUpdateRequired:
				fmt.Println("update this program")
			case s.State == client.StateQuarantined:
				fmt.Println(s.Refused, "changes were refused") // see Refused
			default:
				fmt.Println(s.State, s.Pending, "to send")
			}
			if s.ClockOffset.Abs() > time.Minute {
				fmt.Println("the clock of this computer is wrong by", -s.ClockOffset)
			}
		}
	}
	withGarden(func(ctx context.Context, c *client.Client, _ string) error {
		ctx, cancel := context.WithCancel(ctx)
		cancel() // show goes on until then
		show(ctx, c)
		return nil
	})
	// Output: offline 0 to send
}

// Be sure that everything is on the server before the file is given away.
func ExampleClient_WaitSynced() {
	withGarden(func(ctx context.Context, c *client.Client, _ string) error {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		switch err := c.WaitSynced(ctx); {
		case errors.Is(err, client.ErrRefused):
			fmt.Println("all is done but for what the server refused")
		case errors.Is(err, client.ErrOffline):
			fmt.Println("opened without services")
		case err != nil:
			return err
		}
		return nil
	})
	// Output: opened without services
}

// Show the others where one's cursor is, and see theirs.
func ExampleClient_SetPresence() {
	together := func(ctx context.Context, c *client.Client, selected moveop.NodeID) error {
		if err := c.SetPresence(map[string]any{"selected": selected}); err != nil { // as often as it moves
			return err
		}
		for peers := range c.WatchPeers(ctx) { // whole lists; who has left is not in it
			for _, p := range peers {
				fmt.Println(p.Name, "is at", string(p.State))
			}
		}
		return nil
	}
	_ = together
}

// Take the copy that Export made into use in place of the file: it is a file like any.
func ExampleClient_Export() {
	withGarden(func(ctx context.Context, c *client.Client, dir string) error {
		err := c.Edit(ctx, func(tx *client.Tx) error { return tx.Set(moveop.Root, "title", "My garden") })
		if err != nil {
			return err
		}
		path := filepath.Join(dir, "backup.canopy")
		if err := c.Export(ctx, path); err != nil { // edits go on meanwhile
			return err
		}
		restored, err := client.Open(ctx, path, client.Options{})
		if err != nil {
			return err
		}
		title, _, err := restored.Value(ctx, moveop.Root, "title")
		fmt.Println(string(title), restored.Pending(), restored.Replica() != c.Replica())
		return errors.Join(err, restored.Close())
	})
	// Output: "My garden" 1 true
}

// Undo takes back one's own last edit, and Redo does it again.
func ExampleClient_Undo() {
	withGarden(func(ctx context.Context, c *client.Client, _ string) error {
		err := c.Edit(ctx, func(tx *client.Tx) error { return tx.Set(moveop.Root, "title", "My garden") })
		if err != nil {
			return err
		}
		undone, err := c.Undo(ctx)
		if err != nil {
			return err
		}
		_, titled, err := c.Value(ctx, moveop.Root, "title")
		if err != nil {
			return err
		}
		fmt.Println(len(undone.Done), "undone,", len(undone.Skipped), "skipped; titled:", titled, "redo:", c.CanRedo())
		return nil
	})
	// Output: 1 undone, 0 skipped; titled: false redo: true
}

// list is what a window shows: the children of a node, with their titles.
type list struct {
	parent  moveop.NodeID
	rows    []client.Node
	titles  map[moveop.NodeID]string
	version int64 // the state that this is
}

// read reads everything that is shown, in one View.
func (l *list) read(ctx context.Context, c *client.Client) error {
	return c.View(ctx, func(v *client.View) (err error) {
		if l.version, err = v.Version(); err != nil {
			return err
		}
		if l.rows, err = v.Children(l.parent, client.Cursor{}, 0); err != nil { // a page of them
			return err
		}
		l.titles = map[moveop.NodeID]string{}
		return l.readTitles(v, l.rows)
	})
}

func (l *list) readTitles(v *client.View, rows []client.Node) error {
	for _, n := range rows {
		title, _, err := v.Value(n.ID, "title")
		if err != nil {
			return err
		}
		l.titles[n.ID] = string(title)
	}
	return nil
}

// take brings the list from the state before an event to the one after it.
func (l *list) take(ctx context.Context, c *client.Client, e client.Event) error {
	if e.Version <= l.version { // it was in what was read
		return nil
	}
	if e.Reread {
		return l.read(ctx, c)
	}
	l.version = e.Version
	var come []client.Node
	for _, ch := range e.Changes {
		if ch.Kind() != "" && ch.From.Parent == l.parent {
			l.rows = slices.DeleteFunc(l.rows, func(n client.Node) bool { return n.ID == ch.Node })
			if ch.To.Parent != l.parent {
				delete(l.titles, ch.Node)
			}
		}
		if ch.Kind() != "" && ch.To.Parent == l.parent {
			n := client.Node{ID: ch.Node, Parent: ch.To.Parent, OrderKey: ch.To.OrderKey}
			at, _ := slices.BinarySearchFunc(l.rows, n, func(a, b client.Node) int { return a.Cursor().Compare(b.Cursor()) })
			l.rows = slices.Insert(l.rows, at, n)
			if ch.From.Parent != l.parent {
				come = append(come, n) // with properties that this event need not have
			}
		}
		for _, w := range ch.Values {
			if _, shown := l.titles[ch.Node]; shown && w.Key == "title" {
				l.titles[ch.Node] = string(w.Value)
			}
		}
	}
	return c.View(ctx, func(v *client.View) error { return l.readTitles(v, come) })
}

// Keep what is on the screen in step by events: watch first, then read, then take over what changes.
func ExampleClient_Watch() {
	withGarden(func(ctx context.Context, c *client.Client, _ string) error {
		events := c.Watch(ctx)
		beds := list{parent: moveop.Root}
		if err := beds.read(ctx, c); err != nil {
			return err
		}
		err := c.Edit(ctx, func(tx *client.Tx) error {
			for _, title := range []string{"tulips", "roses"} {
				bed, err := tx.Create(moveop.Root, client.First)
				if err == nil {
					err = tx.Set(bed, "title", title)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := beds.take(ctx, c, <-events); err != nil { // an application does it for every event
			return err
		}
		for _, bed := range beds.rows {
			fmt.Println(beds.titles[bed.ID])
		}
		return nil
	})
	// Output:
	// "roses"
	// "tulips"
}

// Duplicate a node with everything below it. To paste it elsewhere, choose another place for the first copy.
func ExampleTx_Create() {
	duplicate := func(tx *client.Tx, id moveop.NodeID) error {
		top, err := tx.Node(id)
		if err != nil {
			return err
		}
		nodes := []client.Node{top} // all of them, before there are copies
		err = tx.Walk(id, func(n client.Node, _ int) error { nodes = append(nodes, n); return nil })
		if err != nil {
			return err
		}
		copies := map[moveop.NodeID]moveop.NodeID{}
		for _, n := range nodes {
			parent, at := copies[n.Parent], client.Last
			if n.ID == id {
				parent, at = n.Parent, client.After(id)
			}
			if copies[n.ID], err = tx.Create(parent, at); err != nil {
				return err
			}
			values, err := tx.Values(n.ID)
			if err != nil {
				return err
			}
			for key, value := range values {
				if err := tx.Set(copies[n.ID], key, value); err != nil {
					return err
				}
			}
		}
		return nil
	}
	withGarden(func(ctx context.Context, c *client.Client, _ string) error {
		return c.Edit(ctx, func(tx *client.Tx) error {
			bed, err := tx.Create(moveop.Root, client.Last)
			if err != nil {
				return err
			}
			row, err := tx.Create(bed, client.Last)
			if err != nil {
				return err
			}
			err = errors.Join(tx.Set(bed, "title", "bed"), tx.Set(row, "title", "tulips"), duplicate(tx, bed))
			if err != nil {
				return err
			}
			return tx.Walk(moveop.Root, func(n client.Node, depth int) error {
				title, _, err := tx.Value(n.ID, "title")
				fmt.Printf("%d %s\n", depth, title)
				return err
			})
		})
	})
	// Output:
	// 1 "bed"
	// 2 "tulips"
	// 1 "bed"
	// 2 "tulips"
}

// What the Tab key of an outliner does, and the keys that move a node up and down.
func ExampleTx_Move() {
	indent := func(tx *client.Tx, n client.Node) error { // to the end of the sibling above
		above, err := tx.ChildrenBefore(n.Parent, n.Cursor(), 1)
		if err != nil || len(above) == 0 {
			return err
		}
		return tx.Move(n.ID, above[0].ID, client.Last)
	}
	outdent := func(tx *client.Tx, n client.Node) error { // to right after its parent
		if n.Parent == moveop.Root {
			return nil
		}
		parent, err := tx.Node(n.Parent)
		if err != nil {
			return err
		}
		return tx.Move(n.ID, parent.Parent, client.After(parent.ID))
	}
	down := func(tx *client.Tx, n client.Node) error { // with ChildrenBefore and Before: up
		below, err := tx.Children(n.Parent, n.Cursor(), 1)
		if err != nil || len(below) == 0 {
			return err
		}
		return tx.Reorder(n.ID, client.After(below[0].ID))
	}
	withGarden(func(ctx context.Context, c *client.Client, _ string) error {
		return c.Edit(ctx, func(tx *client.Tx) error { // an application makes each of these an Edit
			beds, err := tx.CreateRun(moveop.Root, client.Last, 3)
			if err != nil {
				return err
			}
			for _, key := range []func(*client.Tx, client.Node) error{indent, outdent, down} {
				n, err := tx.Node(beds[1])
				if err != nil {
					return err
				}
				if err := key(tx, n); err != nil {
					return err
				}
			}
			return tx.Walk(moveop.Root, func(n client.Node, depth int) error {
				fmt.Println(depth, slices.Index(beds, n.ID))
				return nil
			})
		})
	})
	// Output:
	// 1 0
	// 1 2
	// 1 1
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

// Make a room of its own from what is there.
func ExampleClient_Fork() {
	withGarden(func(ctx context.Context, c *client.Client, dir string) error {
		if err := c.Fork(ctx, filepath.Join(dir, "meadow.canopy"), "meadow"); err != nil {
			return err
		}
		fork, err := client.Open(ctx, filepath.Join(dir, "meadow.canopy"), client.Options{}) // with services, to share it
		if err != nil {
			return err
		}
		fmt.Println(fork.Room(), fork.Replica() != c.Replica())
		return fork.Close()
	})
	// Output: meadow true
}

// Examine a replica, and have it loaded anew where something is wrong with it.
func ExampleClient_Doctor() {
	withGarden(func(ctx context.Context, c *client.Client, _ string) error {
		diagnosis, err := c.Doctor(ctx)
		if err != nil {
			return err
		}
		for _, finding := range diagnosis.Findings {
			fmt.Println(finding.Check, finding.Detail)
		}
		if len(diagnosis.Findings) > 0 {
			if err := c.Repair(ctx); err != nil {
				return err
			}
		}
		fmt.Println(len(diagnosis.Findings), "findings; compared with the server:", diagnosis.Compared)
		return nil
	})
	// Output: 0 findings; compared with the server: false
}
