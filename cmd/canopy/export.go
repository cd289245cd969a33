package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/cmd/canopy/internal/outline"
	"github.com/canopysync/canopy/moveop"
)

type exportCmd struct {
	Room   string `arg:"" help:"Name of the room."`
	Output string `short:"o" default:"-" placeholder:"FILE" help:"File to write; standard output by default."`
	Format string `enum:"auto,opml,json" default:"auto" placeholder:"FORMAT" help:"opml or json; by default according to the file's name, else json."`
	Parent string `placeholder:"NODE" help:"Export the nodes below this one instead of the whole tree."`
	IDs    bool   `name:"ids" help:"Write the nodes' ids (JSON only); import ignores them."`
	replicaFlags
}

// Help is the command's long help.
func (*exportCmd) Help() string {
	return `Writes the tree in sibling order, one node per line, with all properties but without deleted nodes. Importing the document gives the same tree, with new ids.

In OPML, properties that have no attribute of their own are kept in one that only Canopy reads.

Examples:

    canopy export notes > notes.json
    canopy export notes -o notes.opml
    canopy export notes --ids | jq -c 'recurse(.children[]?) | [.id, .props.name]'`
}

func (c *exportCmd) Run(ctx context.Context, env *Env) (err error) {
	top, err := parseNode("--parent", c.Parent)
	if err != nil {
		return err
	}
	if c.IDs && c.format() == "opml" {
		return usagef("--ids is for JSON only")
	}
	if err := c.exists(ctx); err != nil {
		return err
	}
	r, err := c.openReplica(ctx, c.Room)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	if err := c.catchUp(ctx, env, r); err != nil {
		return fmt.Errorf("load %s: %w", c.Room, err)
	}
	return writeOutput(env, c.Output, func(w io.Writer) error {
		return r.View(ctx, func(v *client.View) error { return c.write(env, v, top, w) })
	})
}

// exists refuses a room that does not exist: a mistyped name would export as an empty room.
func (c *exportCmd) exists(ctx context.Context) error {
	s, err := c.realtimeFlag.service(c.tokenFlag)
	if err != nil {
		return err
	}
	_, err = s.position(ctx, c.Room)
	return err
}

func (c *exportCmd) format() string {
	if c.Format != "auto" {
		return c.Format
	}
	if format, ok := formatOf(c.Output); ok {
		return format
	}
	return "json"
}

func (c *exportCmd) write(env *Env, v *client.View, top moveop.NodeID, dst io.Writer) error {
	if !top.IsReserved() {
		if _, err := v.Node(top); err != nil {
			return err
		}
	}
	props, err := v.Values(top)
	if err != nil {
		return err
	}
	w, err := c.writer(dst, outline.Document{Room: c.Room, Props: props})
	if err != nil {
		return err
	}
	bar := newProgress(env, -1, "exporting", false)
	defer bar.end()
	err = v.Walk(top, func(n client.Node, depth int) error {
		props, err := v.Values(n.ID)
		if err != nil {
			return err
		}
		bar.add(1)
		return w.Node(depth, outline.Node{ID: n.ID, Props: props})
	})
	if err != nil {
		return err
	}
	return w.Close()
}

func (c *exportCmd) writer(dst io.Writer, doc outline.Document) (outline.Writer, error) {
	if c.format() == "opml" {
		return outline.NewOPML(dst, doc)
	}
	return outline.NewJSON(dst, doc, c.IDs)
}
