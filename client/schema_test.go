package client_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
)

// downgrades take a file back to the version that is the index, from the next one. What a version
// added is lost with it.
var downgrades = [...][]string{
	1: {"DROP TABLE undo", "DROP TABLE undo_groups", "DROP TABLE own", "ALTER TABLE outbox DROP COLUMN reason"},
	2: {
		`CREATE TABLE undo_groups (
			grp INTEGER PRIMARY KEY, undone INTEGER NOT NULL, ended INTEGER NOT NULL, steps INTEGER NOT NULL
		)`,
		`INSERT INTO undo_groups SELECT grp, grp > undo_next, iif(grp = undo_next, undo_ended, 0), count(*)
			FROM undo CROSS JOIN meta GROUP BY grp`,
		"ALTER TABLE meta DROP COLUMN undo_next", "ALTER TABLE meta DROP COLUMN undo_ended",
		"DROP TABLE named", "CREATE INDEX ops_parents_a ON ops (parent) WHERE kind = 1",
	},
	3: {
		"ALTER TABLE meta DROP COLUMN horizon", "ALTER TABLE meta DROP COLUMN folded_ops",
		"ALTER TABLE meta DROP COLUMN folded_log", "ALTER TABLE meta DROP COLUMN folded_state",
	},
	4: {"DROP TABLE pages"},
	5: {
		"DROP TABLE stamps", "CREATE INDEX nodes_ts_a ON nodes (ts)", "CREATE INDEX vals_ts_a ON vals (ts)",
		"ALTER TABLE ops RENAME TO later_ops",
		`CREATE TABLE ops (
			ts BLOB PRIMARY KEY, kind INTEGER NOT NULL, node BLOB NOT NULL,
			parent BLOB, order_key TEXT, key TEXT, value TEXT,
			seq INTEGER NOT NULL, known INTEGER NOT NULL, cause BLOB, effective INTEGER NOT NULL
		) WITHOUT ROWID`,
		`INSERT INTO ops SELECT ts, kind, node, parent, order_key, nullif(key, ''), value, seq, known, cause, effective
			FROM later_ops`,
		"DROP TABLE later_ops",
		"CREATE INDEX ops_moves_a ON ops (node, ts) WHERE kind = 1",
		"CREATE INDEX ops_sets_a ON ops (node, key, ts) WHERE kind = 2",
	},
}

// downgrade makes a file one of an earlier version.
func downgrade(t *testing.T, path string, version int) {
	t.Helper()
	for at := len(downgrades) - 1; at >= version; at-- {
		alter(t, path, append(downgrades[at], fmt.Sprintf("PRAGMA user_version = %d", at))...)
	}
}

// A file of an earlier version opens and has everything that it had, down to the history for Undo.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	for version := 1; version < len(downgrades); version++ {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "replica")
			c := open(t, path, client.Options{})
			a := create(t, c, moveop.Root, client.Last, "a")
			b := create(t, c, moveop.Root, client.Last, "b")
			for _, at := range []client.Position{client.First, client.Last} {
				edit(t, c, func(tx *client.Tx) error { return tx.Move(b, a, at) })
				edit(t, c, func(tx *client.Tx) error { return tx.Move(b, moveop.Root, at) })
			}
			undo(t, c)
			wantOutline(t, c, "a{b}")
			digest := c.Digest()
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			downgrade(t, path, version)

			c = open(t, path, client.Options{})
			wantOutline(t, c, "a{b}")
			if c.Digest() != digest {
				t.Errorf("the digest is %+v, and was %+v", c.Digest(), digest)
			}
			if d := doctor(t, c); len(d.Findings) > 0 {
				t.Errorf("found %+v", d.Findings)
			}
			if version < 2 { // no history was kept
				if c.CanUndo() || c.CanRedo() {
					t.Error("there is a history")
				}
				return
			}
			redo(t, c)
			wantOutline(t, c, "a,b")
			for range 2 {
				undo(t, c)
			}
			wantOutline(t, c, "b,a")
			create(t, c, moveop.Root, client.Last, "c")
			undo(t, c)
			for range 3 {
				undo(t, c)
			}
			wantOutline(t, c, "a")
			if d := doctor(t, c); len(d.Findings) > 0 {
				t.Errorf("found %+v", d.Findings)
			}
		})
	}
}

// A file of an earlier version that a server has filled goes on with it, and finds what it has by timestamp.
func TestUpgradeInStep(t *testing.T) {
	t.Parallel()
	for version := 1; version < len(downgrades); version++ {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			t.Parallel()
			s := planted(t)
			path := s.edited(t, s.options())
			downgrade(t, path, version)

			c := open(t, path, client.Options{})
			if d := doctor(t, c); len(d.Findings) > 0 {
				t.Errorf("found %+v", d.Findings)
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			c = open(t, path, s.options())
			s.synced(t, c)
			if d := doctor(t, c); len(d.Findings) > 0 || !d.Compared {
				t.Errorf("in step: %+v", d)
			}
		})
	}
}
