package client

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/canopysync/canopy/moveop"
)

// Node is a node and its placement.
type Node struct {
	ID     moveop.NodeID
	Parent moveop.NodeID
	// OrderKey orders siblings, together with ID.
	OrderKey string
}

// Cursor returns the node's position among its siblings: Children continues after it, ChildrenBefore
// before it.
func (n Node) Cursor() Cursor { return Cursor{n.OrderKey, n.ID} }

// Cursor is a position among siblings. It stays valid when nodes come and go. The zero Cursor is where
// reading starts: before the first sibling for Children, after the last one for ChildrenBefore.
type Cursor struct {
	OrderKey string
	Node     moveop.NodeID
}

// Compare orders positions as Children returns siblings: by OrderKey, bytewise, then by Node.
func (c Cursor) Compare(other Cursor) int {
	return cmp.Or(cmp.Compare(c.OrderKey, other.OrderKey), c.Node.Compare(other.Node))
}

// DefaultLimit is the page size of Children and ChildrenBefore when limit is 0.
const DefaultLimit = 1000

// View reads one consistent state of the replica. It is valid only inside the function it was passed to,
// and not safe for concurrent use.
type View struct {
	s      *session
	ctx    context.Context // of the call that the View lives in
	client *Client
	t      *txn // of the Tx that the View is part of; may be nil
}

// View runs fn on one consistent state of the replica. Edits and sync go on beside it, and fn does not
// see them; a long View makes SQLite's write-ahead log grow. Fn must read through v alone: Client.Node and
// the like would occupy another of the few concurrent reads. While Status.Partial is set, Children may
// advance v to a newer state that holds more of the room, so call Version before it.
func (c *Client) View(ctx context.Context, fn func(v *View) error) error {
	return c.store.view(ctx, func(s *session) error {
		v := &View{s: s, ctx: ctx, client: c}
		defer func() { v.s = ended() }()
		return fn(v)
	})
}

// Version returns the version of the state that v reads, as in Event.
func (v *View) Version() (version int64, err error) {
	_, err = v.s.row(`SELECT version FROM meta`, nil, &version)
	return version, err
}

// Node returns a node, deleted or not. The error is ErrUnknownNode if there is no such node, and also
// ErrPartial if the rest of the room may have it. Root and Trash have no placement: they are unknown too.
func (v *View) Node(id moveop.NodeID) (Node, error) {
	n := Node{ID: id}
	ok, err := v.s.row(`SELECT parent, order_key FROM nodes WHERE node = ?`, []any{id[:]}, (*blob)(&n.Parent), &n.OrderKey)
	if err == nil && !ok {
		err = v.unknown(id)
	}
	return n, err
}

func (v *View) unknown(id moveop.NodeID) error {
	err := fmt.Errorf("%w: %s", ErrUnknownNode, id)
	if v.client.partial(v.meta()) {
		err = fmt.Errorf("%w: %w", err, ErrPartial)
	}
	return err
}

// Children returns at most limit children of parent after a cursor, in sibling order. The children of
// Trash are the deleted nodes. An unknown parent has none. While Status.Partial is set, Children fetches
// missing nodes (see Options.PreviewTimeout), and fewer than limit nodes do not mean the end.
func (v *View) Children(parent moveop.NodeID, after Cursor, limit int) (nodes []Node, err error) {
	limit = pageSize(limit)
	if err := v.fetch(parent, after, limit); err != nil {
		return nil, err
	}
	return v.children(`SELECT order_key, node FROM nodes WHERE parent = ? AND (order_key, node) > (?, ?)
		ORDER BY order_key, node LIMIT ?`, parent, after, limit)
}

// ChildrenBefore returns the last children of parent before a cursor, at most limit, in sibling order.
// Otherwise it is like Children. To find a parent's last children while Status.Partial is set, it fetches
// at most 10,000 of them: if there are more, it returns the last ones that are loaded.
func (v *View) ChildrenBefore(parent moveop.NodeID, before Cursor, limit int) (nodes []Node, err error) {
	after, wanted := before, 1 // if a child after it is loaded, all before it are
	if before == (Cursor{}) {
		before, wanted = Cursor{OrderKey: afterKeys}, previewLast
	}
	if err := v.fetch(parent, after, wanted); err != nil {
		return nil, err
	}
	nodes, err = v.children(`SELECT order_key, node FROM nodes WHERE parent = ? AND (order_key, node) < (?, ?)
		ORDER BY order_key DESC, node DESC LIMIT ?`, parent, before, pageSize(limit))
	slices.Reverse(nodes)
	return nodes, err
}

// afterKeys is greater than every order key.
const afterKeys = "~"

func pageSize(limit int) int {
	if limit <= 0 {
		return DefaultLimit
	}
	return limit
}

// children reads the children of parent on one side of a cursor.
func (v *View) children(query string, parent moveop.NodeID, at Cursor, limit int) (nodes []Node, err error) {
	if err := v.ctx.Err(); err != nil {
		return nil, err
	}
	err = v.s.each(query, []any{parent[:], at.OrderKey, at.Node[:], limit}, func(rows *sql.Rows) error {
		n := Node{Parent: parent}
		err := rows.Scan(&n.OrderKey, (*blob)(&n.ID))
		nodes = append(nodes, n)
		return err
	})
	return nodes, err
}

// HasChildren reports whether a node has children. It fetches none while Status.Partial is set: for a
// node whose children were not read yet, it reports whether the server had any.
func (v *View) HasChildren(id moveop.NodeID) (yes bool, err error) {
	_, err = v.s.row(`SELECT EXISTS (SELECT 1 FROM nodes WHERE parent = ?1)
		OR EXISTS (SELECT 1 FROM pages WHERE parent = ?1 AND state = 0)`, []any{id[:]}, &yes)
	return yes, err
}

const ancestors = `WITH RECURSIVE up (node) AS (
	SELECT parent FROM nodes WHERE node = ?1
	UNION SELECT n.parent FROM up JOIN nodes n ON n.node = up.node)`

// Ancestors returns the nodes above a node, its parent first. The last one is Root, or Trash if the
// node is deleted, or a node that does not exist yet. Root and Trash have none.
func (v *View) Ancestors(id moveop.NodeID) (above []moveop.NodeID, err error) {
	if err := v.checkNode(id); err != nil {
		return nil, err
	}
	err = v.s.each(ancestors+` SELECT node FROM up`, []any{id[:]}, func(rows *sql.Rows) error {
		var n moveop.NodeID
		err := rows.Scan((*blob)(&n))
		above = append(above, n)
		return err
	})
	return above, err
}

// IsDeleted reports whether a node is in Trash: it was deleted, or a node above it was.
func (v *View) IsDeleted(id moveop.NodeID) (bool, error) {
	if err := v.checkNode(id); err != nil {
		return false, err
	}
	return v.s.isAbove(moveop.Trash, id)
}

// checkNode returns an error if there is no such node.
func (v *View) checkNode(id moveop.NodeID) error {
	if id.IsReserved() {
		return nil
	}
	_, err := v.Node(id)
	return err
}

// isAbove reports whether a node is above another one.
func (s *session) isAbove(above, below moveop.NodeID) (yes bool, err error) {
	_, err = s.row(ancestors+` SELECT EXISTS (SELECT 1 FROM up WHERE node = ?2)`, []any{below[:], above[:]}, &yes)
	return yes, err
}

// isParent reports whether a node has children.
func (s *session) isParent(n moveop.NodeID) (yes bool, err error) {
	_, err = s.row(`SELECT EXISTS (SELECT 1 FROM nodes WHERE parent = ?)`, []any{n[:]}, &yes)
	return yes, err
}

// Value returns a property of a node as compact JSON; ok is false if it was never set or is cleared.
func (v *View) Value(id moveop.NodeID, key string) (value json.RawMessage, ok bool, err error) {
	var text string
	ok, err = v.s.row(`SELECT value FROM vals WHERE node = ? AND key = ? AND value <> 'null'`, []any{id[:], key}, &text)
	if err != nil || !ok {
		return nil, false, err
	}
	return json.RawMessage(text), true, nil
}

// Values returns the properties of a node as compact JSON. They may arrive before the node itself does.
func (v *View) Values(id moveop.NodeID) (map[string]json.RawMessage, error) {
	values := map[string]json.RawMessage{}
	err := v.s.each(`SELECT key, value FROM vals WHERE node = ? AND value <> 'null'`, []any{id[:]},
		func(rows *sql.Rows) error {
			var key, value string
			err := rows.Scan(&key, &value)
			values[key] = json.RawMessage(value)
			return err
		})
	return values, err
}

//lint:ignore ST1012 it is no failure, and named like fs.SkipDir

// SkipChildren, returned by the function passed to Walk, skips the nodes below the current one.
var SkipChildren = errors.New("skip children")

// walkPage bounds what Walk holds of each level.
const walkPage = 64

// Walk calls fn for every node below top, parents before children, siblings in order, with depth 1
// for the children of top. It stops at the first error of fn other than SkipChildren.
// In a Tx, fn must not create or move nodes below top, or Walk may visit them repeatedly: collect the nodes
// first.
func (v *View) Walk(top moveop.NodeID, fn func(n Node, depth int) error) error {
	type level struct {
		parent moveop.NodeID
		page   []Node
		after  Cursor
		last   bool
	}
	stack := []level{{parent: top}}
	for len(stack) > 0 {
		at := &stack[len(stack)-1]
		if len(at.page) == 0 && !at.last {
			page, err := v.Children(at.parent, at.after, walkPage)
			if err != nil {
				return err
			}
			at.page, at.last = page, len(page) < walkPage
		}
		if len(at.page) == 0 {
			stack = stack[:len(stack)-1]
			continue
		}
		n := at.page[0]
		at.page, at.after = at.page[1:], n.Cursor()
		switch err := fn(n, len(stack)); {
		case err == nil:
			stack = append(stack, level{parent: n.ID})
		case !errors.Is(err, SkipChildren):
			return err
		}
	}
	return nil
}

// Digest summarises everything in the replica, pending operations too.
func (v *View) Digest() (moveop.Digest, error) {
	var m meta
	err := m.load(v.s)
	return m.digest, err
}

// Node is View.Node on the current state.
func (c *Client) Node(ctx context.Context, id moveop.NodeID) (n Node, err error) {
	err = c.View(ctx, func(v *View) error { n, err = v.Node(id); return err })
	return n, err
}

// Children is View.Children on the current state.
func (c *Client) Children(ctx context.Context, parent moveop.NodeID, after Cursor, limit int) (nodes []Node, err error) {
	err = c.View(ctx, func(v *View) error { nodes, err = v.Children(parent, after, limit); return err })
	return nodes, err
}

// ChildrenBefore is View.ChildrenBefore on the current state.
func (c *Client) ChildrenBefore(ctx context.Context, parent moveop.NodeID, before Cursor, limit int) (nodes []Node, err error) {
	err = c.View(ctx, func(v *View) error { nodes, err = v.ChildrenBefore(parent, before, limit); return err })
	return nodes, err
}

// HasChildren is View.HasChildren on the current state.
func (c *Client) HasChildren(ctx context.Context, id moveop.NodeID) (yes bool, err error) {
	err = c.View(ctx, func(v *View) error { yes, err = v.HasChildren(id); return err })
	return yes, err
}

// Ancestors is View.Ancestors on the current state.
func (c *Client) Ancestors(ctx context.Context, id moveop.NodeID) (above []moveop.NodeID, err error) {
	err = c.View(ctx, func(v *View) error { above, err = v.Ancestors(id); return err })
	return above, err
}

// IsDeleted is View.IsDeleted on the current state.
func (c *Client) IsDeleted(ctx context.Context, id moveop.NodeID) (deleted bool, err error) {
	err = c.View(ctx, func(v *View) error { deleted, err = v.IsDeleted(id); return err })
	return deleted, err
}

// Value is View.Value on the current state.
func (c *Client) Value(ctx context.Context, id moveop.NodeID, key string) (value json.RawMessage, ok bool, err error) {
	err = c.View(ctx, func(v *View) error { value, ok, err = v.Value(id, key); return err })
	return value, ok, err
}

// Values is View.Values on the current state.
func (c *Client) Values(ctx context.Context, id moveop.NodeID) (values map[string]json.RawMessage, err error) {
	err = c.View(ctx, func(v *View) error { values, err = v.Values(id); return err })
	return values, err
}

// Walk is View.Walk on the current state.
func (c *Client) Walk(ctx context.Context, top moveop.NodeID, fn func(n Node, depth int) error) error {
	return c.View(ctx, func(v *View) error { return v.Walk(top, fn) })
}

// Digest is View.Digest of the current state.
func (c *Client) Digest() moveop.Digest { return c.store.meta.Load().digest }
