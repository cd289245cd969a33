package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/cmd/canopy/internal/outline"
	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

type importCmd struct {
	Room   string `arg:"" help:"Name of the room; the first node creates it if it does not exist."`
	Path   string `arg:"" help:"Directory or file to read, - for standard input."`
	Format string `enum:"auto,dir,opml,json" default:"auto" placeholder:"FORMAT" help:"dir, opml or json; by default according to the path."`
	Parent string `placeholder:"NODE" help:"Add below this node instead of the root."`
	replicaFlags
	jsonFlag
}

// Help is the command's long help.
func (*importCmd) Help() string {
	return `Formats:

    dir    a directory tree: every file and directory is a node with name and mode, files with size too
    opml   outlines: the text is the property name, other attributes are properties of the same name
    json   a document that canopy export wrote

The new nodes are added after the existing ones through a replica, as an application would do it: they are in the replica at once and then pushed. A document is checked from end to end before the first node is created, unless it comes from standard input. Importing twice makes two copies.

Examples:

    canopy import sources $(go env GOROOT)/src
    canopy import feeds subscriptions.opml --json
    canopy export notes | canopy import notes-copy - --format json`
}

// imported is what --json prints.
type imported struct {
	Room  string `json:"room"`
	Nodes int64  `json:"nodes"` // made
	Props int64  `json:"props"` // written
	Seq   int64  `json:"seq"`   // the room's, with all of it in it
}

func (c *importCmd) Run(ctx context.Context, env *Env) (err error) {
	src, err := c.source(ctx, env)
	if err != nil {
		return err
	}
	parent, err := parseNode("--parent", c.Parent)
	if err != nil {
		return err
	}
	total, err := c.check(ctx, env, src)
	if err != nil {
		return err
	}
	r, err := c.openReplica(ctx, c.Room)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	done, err := c.load(ctx, env, r, src, parent, total)
	if err != nil {
		return c.partly(r, done, err)
	}
	return c.print(env, done, func() {
		fmt.Fprintf(env.Stdout, "%d nodes with %d properties are in room %s, which is at seq %d\n", done.Nodes, done.Props, done.Room, done.Seq)
	})
}

// source is the document to read; each call of open reads it from the start.
type source struct {
	name  string
	open  func() (outline.Entries, io.Closer, error)
	again bool // it can be read more than once
}

func (c *importCmd) source(ctx context.Context, env *Env) (source, error) {
	format, err := c.format()
	if err != nil {
		return source{}, err
	}
	if format == "dir" {
		return source{name: c.Path, again: true, open: func() (outline.Entries, io.Closer, error) {
			return outline.ReadDir(os.DirFS(c.Path)), io.NopCloser(nil), nil
		}}, nil
	}
	read := outline.ReadJSON
	if format == "opml" {
		read = outline.ReadOPML
	}
	return source{name: c.Path, again: isRegular(c.Path), open: func() (outline.Entries, io.Closer, error) {
		f, err := openInput(ctx, env, c.Path)
		if err != nil {
			return nil, nil, err
		}
		return read(f), f, nil
	}}, nil
}

// format returns the requested format, or the one that the path suggests.
func (c *importCmd) format() (string, error) {
	isDir := false
	if c.Path != "-" {
		info, err := os.Stat(c.Path)
		if err != nil {
			return "", err
		}
		isDir = info.IsDir()
	}
	switch {
	case isDir && (c.Format == "auto" || c.Format == "dir"):
		return "dir", nil
	case isDir || c.Format == "dir":
		return "", usagef("format %s does not fit %s", c.Format, c.Path)
	case c.Format != "auto":
		return c.Format, nil
	}
	if format, ok := formatOf(c.Path); ok {
		return format, nil
	}
	return "", usagef("cannot tell the format of %s: set --format", c.Path)
}

// formatOf returns the document format that a file name suggests.
func formatOf(path string) (string, bool) {
	switch strings.ToLower(filepath.Ext(path)) {
	case ".opml", ".xml":
		return "opml", true
	case ".json":
		return "json", true
	}
	return "", false
}

func isRegular(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func parseNode(flag, text string) (moveop.NodeID, error) {
	if text == "" {
		return moveop.Root, nil
	}
	id, err := moveop.ParseNodeID(text)
	if err != nil {
		return id, usagef("%s: %v", flag, err)
	}
	return id, nil
}

// check reads the whole document, so that no part of a malformed one is imported, and counts its nodes; -1 if it can be
// read only once.
func (c *importCmd) check(ctx context.Context, env *Env, src source) (nodes int64, err error) {
	if !src.again {
		return -1, nil
	}
	bar := newProgress(env, -1, "checking "+c.Path, false)
	defer bar.end()
	err = src.each(ctx, func(e outline.Entry) error {
		if e.New {
			nodes++
			bar.add(1)
		}
		return nil
	})
	return nodes, err
}

// each calls fn for every entry.
func (s source) each(ctx context.Context, fn func(outline.Entry) error) error {
	entries, f, err := s.open()
	if err != nil {
		return err
	}
	defer f.Close()
	for e, err := range entries {
		switch {
		case ctx.Err() != nil:
			return ctx.Err() // not what it looks like to who reads the document
		case err != nil:
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

// load brings the replica up to date, adds the document to it and waits until the server has it.
func (c *importCmd) load(ctx context.Context, env *Env, r *replica, src source, parent moveop.NodeID, total int64) (imported, error) {
	if err := c.catchUp(ctx, env, r); err != nil {
		return imported{}, err
	}
	bar := newProgress(env, total, "importing", false)
	defer bar.end()
	im := newImporter(r.Client, parent)
	err := src.each(ctx, func(e outline.Entry) error {
		if e.New {
			bar.add(1)
		}
		return im.take(ctx, e)
	})
	if err == nil {
		err = im.flush(ctx)
	}
	bar.end()
	done := imported{Room: c.Room, Nodes: im.nodes, Props: im.props}
	if err != nil {
		return done, err
	}
	if err := c.push(ctx, env, r); err != nil {
		return done, err
	}
	s, err := c.realtimeFlag.service(c.tokenFlag)
	if err != nil {
		return done, err
	}
	at, err := s.position(ctx, c.Room)
	if done.Nodes+done.Props == 0 && errors.Is(err, wire.ErrUnknownRoom) {
		err = nil // of nothing, no room is made
	}
	done.Seq = at.Head
	return done, err
}

// catchUp shows the snapshot being loaded.
func (f replicaFlags) catchUp(ctx context.Context, env *Env, r *replica) error {
	bar := newProgress(env, -1, "loading "+r.Room(), false)
	defer bar.end()
	return r.synced(ctx, func(s client.Status) { bar.set(s.Rows, s.RowsTotal) })
}

// push shows the outbox going down.
func (f replicaFlags) push(ctx context.Context, env *Env, r *replica) error {
	total := r.Pending()
	bar := newProgress(env, total, "pushing", false)
	defer bar.end()
	return r.synced(ctx, func(s client.Status) { bar.set(max(0, total-s.Pending), total) })
}

// partly describes the result of an unfinished import, once the replica has pushed what it can.
func (c *importCmd) partly(r *replica, done imported, err error) error {
	err = errors.Join(fmt.Errorf("import: %w", err), r.close())
	pending := r.Pending()
	switch {
	case done.Nodes == 0:
		return err
	case pending == 0:
		return fmt.Errorf("%w (the %d nodes before it are in room %s)", err, done.Nodes, c.Room)
	case c.File != "":
		return fmt.Errorf("%w (of the %d nodes before it, %d operations are in %s and not pushed yet; using that file again pushes them)", err, done.Nodes, pending, c.File)
	}
	return fmt.Errorf("%w (of the %d nodes before it, %d operations were not pushed and are lost with the temporary replica)", err, done.Nodes, pending)
}
