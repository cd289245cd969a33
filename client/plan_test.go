package client

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// Every statement that was prepared for a bit of everything finds its rows by an index: what an
// operation costs must not depend on the size of the room.
func TestQueryPlans(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	c, err := Open(ctx, filepath.Join(t.TempDir(), "replica"), Options{Room: "garden"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	exercise(t, c)
	check := func(s *session) error {
		for query := range s.stmts {
			if fields := strings.Fields(query); len(fields) > 2 { // not BEGIN and the like
				checkPlan(t, s, query)
			}
		}
		return nil
	}
	if err := c.store.exclusively(ctx, check); err != nil {
		t.Fatal(err)
	}
	if err := c.store.view(ctx, check); err != nil {
		t.Fatal(err)
	}
}

// exercise comes by nearly every statement.
func exercise(t *testing.T, c *Client) {
	t.Helper()
	ctx := context.Background()
	var nodes []moveop.NodeID
	err := c.Edit(ctx, func(tx *Tx) (err error) {
		if nodes, err = tx.CreateRun(moveop.Root, Last, 3); err != nil {
			return err
		}
		for _, step := range []func() error{
			func() error { return tx.Move(nodes[0], nodes[1], First) },
			func() error { return tx.Reorder(nodes[1], After(nodes[2])) },
			func() error { return tx.Set(nodes[0], "title", "a") },
			func() error { return tx.Set(nodes[0], "title", "b") },
			func() error { return tx.Delete(nodes[0]) },
			func() error { return tx.Restore(nodes[0]) },
		} {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	late := moveop.Op{Kind: moveop.Move, TS: moveop.NewTimestamp(1, 0, 7), Node: nodes[1], Parent: nodes[0], OrderKey: "a0"}
	err = c.store.update(ctx, Remote, func(tx *txn) error {
		if _, err := tx.merge([]moveop.Op{late}); err != nil {
			return err
		}
		if err := tx.number(&late, 1); err != nil {
			return err
		}
		if _, err := tx.merge([]moveop.Op{{TS: late.TS}}); !errors.Is(err, errConflict) {
			t.Errorf("an operation without a body was taken for another one: %v", err)
		}
		log := moveLog{tx}
		if _, err := log.MovesOf(nil, nodes[1], moveop.Timestamp{}, moveop.MaxTimestamp); err != nil {
			return err
		}
		if _, err := log.MovesIn(nil, moveop.Timestamp{}, moveop.MaxTimestamp, 10); err != nil {
			return err
		}
		if err := tx.unqueue(late.TS); err != nil {
			return err
		}
		if err := tx.refuse(tx.meta.issued, wire.NewError(wire.CodeInvalidOp, "no")); err != nil {
			return err
		}
		for _, kind := range []moveop.Kind{moveop.Move, moveop.Set} {
			if _, _, err := tx.overridden(&undoStep{kind: kind, node: nodes[1]}, 0); err != nil {
				return err
			}
		}
		if _, err := tx.usedByOthers(nodes[1], 0); err != nil {
			return err
		}
		if _, err := tx.deletedByOthers(nodes[1], 0); err != nil {
			return err
		}
		return tx.restamp()
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Undo(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Redo(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Retry(ctx); err != nil {
		t.Fatal(err)
	}
	err = c.View(ctx, func(v *View) error {
		_, err := v.s.batch(10, 1000)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Children(ctx, moveop.Root, Cursor{}, 10); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ChildrenBefore(ctx, moveop.Root, Cursor{}, 10); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Values(ctx, nodes[0]); err != nil {
		t.Fatal(err)
	}
}

func checkPlan(t *testing.T, s *session, query string) {
	t.Helper()
	args := make([]any, strings.Count(query, "?"))
	rows, err := s.conn.QueryContext(context.Background(), "EXPLAIN QUERY PLAN "+query, args...)
	if err != nil {
		t.Errorf("%s: %v", query, err)
		return
	}
	defer rows.Close()
	for rows.Next() {
		var id, parent, unused sql.NullInt64
		var step string
		if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
			t.Fatal(err)
		}
		for _, table := range []string{"nodes", "vals", "ops", "stamps", "n", "v", "o", "p"} { // and their aliases
			if strings.Contains(step+" ", "SCAN "+table+" ") {
				t.Errorf("%s\n\t%s", step, query)
			}
		}
		if strings.Contains(query, "(order_key, node)") && !strings.Contains(step, "(order_key,node)") {
			t.Errorf("a place among siblings is not found by the index: %s\n\t%s", step, query)
		}
		if strings.Contains(step, "TEMP B-TREE FOR ORDER BY") {
			t.Errorf("%s\n\t%s", step, query)
		}
	}
	if err := rows.Err(); err != nil {
		t.Error(err)
	}
}
