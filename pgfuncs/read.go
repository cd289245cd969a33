package pgfuncs

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// OpsAfter returns at most limit operations with seq > after, contiguous from after+1. Corrections have
// their cause. Fewer than limit operations mean that the head was reached. The error is a *wire.Error
// (compacted) if after is below the room's min_seq.
func (db *DB) OpsAfter(ctx context.Context, room string, after int64, limit int) ([]moveop.Op, error) {
	rows, _ := db.pool.Query(ctx, `
		select seq, ts, kind, node, parent, order_key, key, value::text, known, cause
		  from canopy.ops_after($1, $2, $3)`, room, after, limit)
	ops, err := pgx.CollectRows(rows, scanOp)
	if err != nil {
		return nil, domainError("read ops", err)
	}
	return ops, nil
}

func scanOp(row pgx.CollectableRow) (moveop.Op, error) {
	var op moveop.Op
	var kind int16
	var parent, cause pgtype.UUID
	var orderKey, key, value pgtype.Text
	err := row.Scan(&op.Seq, (*[16]byte)(&op.TS), &kind, (*[16]byte)(&op.Node), &parent,
		&orderKey, &key, &value, &op.Known, &cause)
	op.Kind, op.Parent, op.OrderKey = moveop.Kind(kind), parent.Bytes, orderKey.String
	op.Key, op.Cause = key.String, cause.Bytes
	if value.Valid {
		op.Value = json.RawMessage(value.String)
	}
	return op, err
}

// Children returns a page of a node's children in sibling order, starting after the cursor after (empty: at
// the first). It counts each one's own children up to most (0: all), which bounds the cost of a page that
// has very wide nodes. The error is a *wire.Error (bad_request) for a cursor that Children did not make, or
// wire.ErrUnknownRoom. A node without children, or an unknown one, gives an empty page.
func (db *DB) Children(ctx context.Context, room string, parent moveop.NodeID, after string, limit, most int) (wire.Page, error) {
	var afterKey pgtype.Text
	var afterNode pgtype.UUID
	if after != "" {
		raw, err := base64.RawURLEncoding.DecodeString(after)
		if err != nil || len(raw) <= len(afterNode.Bytes) {
			return wire.Page{}, badCursor(after)
		}
		copy(afterNode.Bytes[:], raw)
		afterNode.Valid = true
		afterKey = pgtype.Text{String: string(raw[len(afterNode.Bytes):]), Valid: true}
		if moveop.ValidateOrderKey(afterKey.String) != nil {
			return wire.Page{}, badCursor(after)
		}
	}
	rows, _ := db.pool.Query(ctx, `
		select r.head, r.epoch::text, c.node, c.parent, c.order_key, c.children, c.props, 0::bigint, 0::bigint
		  from canopy.rooms r
		  left join lateral canopy.children(r.room_id, $2, $3, $4, $5, $6, $7) as c on true
		 where r.name = $1`, room, parent.String(), afterKey, afterNode, limit+1,
		pgtype.Int8{Int64: int64(most), Valid: most > 0}, wire.PageBytes)
	return collectPage(rows, limit, func(last wire.Node, _ position) string {
		return base64.RawURLEncoding.EncodeToString(append(last.ID[:], last.OrderKey...))
	})
}

// Subtree returns a page of the nodes below a node, breadth first and at most depth levels down (0: all),
// starting after the cursor after. A page costs as much as all nodes down to its last level: to read all of
// a large room, take a snapshot. Errors are those of Children.
func (db *DB) Subtree(ctx context.Context, room string, node moveop.NodeID, depth int, after string, limit int) (wire.Page, error) {
	from, err := parsePosition(after)
	if err != nil {
		return wire.Page{}, err
	}
	rows, _ := db.pool.Query(ctx, `
		select r.head, r.epoch::text, s.node, s.parent, s.order_key, s.children, s.props, s.level, s.place
		  from canopy.rooms r
		  left join lateral canopy.subtree(r.room_id, $2, $3, $4, $5, $6, $7) as s on true
		 where r.name = $1
		 order by s.level, s.place`,
		room, node.String(), pgtype.Int8{Int64: int64(depth), Valid: depth > 0}, from.level, from.place, limit+1, wire.PageBytes)
	return collectPage(rows, limit, func(_ wire.Node, at position) string { return at.String() })
}

// position is the place of a node in a breadth-first walk: its level and its place within that, both from 1.
type position struct{ level, place int64 }

func (p position) String() string { return fmt.Sprintf("%d.%d", p.level, p.place) }

func parsePosition(cursor string) (position, error) {
	var p position
	if cursor == "" {
		return p, nil
	}
	if _, err := fmt.Sscanf(cursor, "%d.%d", &p.level, &p.place); err != nil ||
		p.level < 1 || p.place < 1 || p.String() != cursor {
		return position{}, badCursor(cursor)
	}
	return p, nil
}

func badCursor(cursor string) error {
	return wire.NewError(wire.CodeBadRequest,
		"the cursor %.80q is not one that an earlier page gave as next: begin without a cursor", cursor)
}

// collectPage reads up to limit nodes, or until their properties fill a page; one more row means that there is a next
// page. A known room always yields a row, with a null node if there are none, so no row means an unknown room.
func collectPage(rows pgx.Rows, limit int, cursor func(wire.Node, position) string) (wire.Page, error) {
	defer rows.Close()
	page := wire.Page{Nodes: []wire.Node{}}
	known, last, size := false, position{}, 0
	for rows.Next() {
		known = true
		var id, parent pgtype.UUID
		var orderKey pgtype.Text
		var children, level, place pgtype.Int8
		var props []byte
		err := rows.Scan(&page.Seq, &page.Epoch, &id, &parent, &orderKey, &children, &props, &level, &place)
		if err != nil {
			return wire.Page{}, domainError("read nodes", err)
		}
		if !id.Valid {
			break
		}
		if n := len(page.Nodes); n == limit || size >= wire.PageBytes {
			next := cursor(page.Nodes[n-1], last)
			page.Next = &next
			break
		}
		node := wire.Node{ID: id.Bytes, Parent: parent.Bytes, OrderKey: orderKey.String, Children: children.Int64,
			Props: map[string]json.RawMessage{}}
		if props != nil {
			if err := json.Unmarshal(props, &node.Props); err != nil {
				return wire.Page{}, fmt.Errorf("read nodes: decode properties of %s: %w", node.ID, err)
			}
		}
		page.Nodes = append(page.Nodes, node)
		size += len(props)
		last = position{level.Int64, place.Int64}
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		return wire.Page{}, domainError("read nodes", err)
	}
	if !known {
		return wire.Page{}, wire.ErrUnknownRoom
	}
	return page, nil
}
