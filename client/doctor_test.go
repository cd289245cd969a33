package client_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
)

func doctor(t testing.TB, c *client.Client) client.Diagnosis {
	t.Helper()
	d, err := c.Doctor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// alter changes a file that is not open.
func alter(t *testing.T, path string, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, statement := range statements {
		if _, err := db.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
}

// A replica that is well, whatever it has been through, has no findings.
func TestDoctorFindsNothing(t *testing.T) {
	t.Parallel()
	s, c, _, _, _ := refusing(t)
	d := doctor(t, c)
	if len(d.Findings) > 0 || !d.Compared || d.Digest != c.Digest() || d.Seq == 0 {
		t.Errorf("with operations in quarantine: %+v", d)
	}
	if err := c.Discard(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Repair(t.Context()); err != nil {
		t.Fatal(err)
	}
	undo(t, c)
	s.synced(t, c)
	if d := doctor(t, c); len(d.Findings) > 0 || !d.Compared {
		t.Errorf("%+v", d)
	}
	off := open(t, offline(t), client.Options{})
	if d := doctor(t, off); len(d.Findings) > 0 || d.Compared {
		t.Errorf("offline: %+v", d)
	}
	if err := off.Repair(t.Context()); !errors.Is(err, client.ErrOffline) {
		t.Errorf("repairing offline: %v", err)
	}
	fresh := newServer(t).join(t)
	if d := doctor(t, fresh); len(d.Findings) > 0 || !d.Compared {
		t.Errorf("a room that is not made yet: %+v", d)
	}
}

// Every kind of damage is found and named, and repaired without losing what is pending.
func TestDoctorRepairs(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		damage string
		want   client.Check
	}{
		"placement altered":  {`UPDATE nodes SET order_key = 'a9' WHERE parent = x'00000000000000000000000000000001'`, client.CheckDigest},
		"node lost":          {`DELETE FROM nodes WHERE seq = (SELECT max(seq) FROM nodes)`, client.CheckDigest},
		"circle":             {`UPDATE nodes SET parent = node WHERE seq = (SELECT max(seq) FROM nodes)`, client.CheckTree},
		"superseded by none": {`DELETE FROM vals WHERE EXISTS (SELECT 1 FROM ops o WHERE o.node = vals.node AND o.key = vals.key)`, client.CheckLog},
		"seq twice":          {`UPDATE nodes SET seq = 1`, client.CheckLog},
		"seq out of reach":   {`UPDATE nodes SET seq = 1000000 WHERE seq = 1`, client.CheckLog},
		"timestamp twice":    {`UPDATE nodes SET ts = (SELECT ts FROM vals WHERE seq > 0)`, client.CheckLog},
		"parent forgotten":   {`DELETE FROM named`, client.CheckLog},
		"stamp lost":         {`DELETE FROM stamps WHERE ts = (SELECT max(ts) FROM stamps)`, client.CheckLog},
		"stamp of another":   {`UPDATE stamps SET node = zeroblob(16) WHERE ts = (SELECT max(ts) FROM stamps)`, client.CheckLog},
		"stamp too many":     {`INSERT INTO stamps VALUES (randomblob(16), zeroblob(16), '')`, client.CheckLog},
		"clock":              {`UPDATE meta SET newest = zeroblob(16)`, client.CheckLog},
		"pending write lost": {`DELETE FROM vals WHERE seq = 0`, client.CheckOutbox},
		"pending move lost":  {`DELETE FROM nodes WHERE seq = 0`, client.CheckOutbox},
		"outbox miscounted":  {`UPDATE meta SET pending = pending + 1`, client.CheckOutbox},
		"refused miscounted": {`UPDATE meta SET refused = 1`, client.CheckOutbox},
		"acknowledgement":    {`UPDATE nodes SET seq = 0 WHERE seq = 1`, client.CheckOutbox},
		"digest":             {`UPDATE meta SET digest_log = digest_log + 1`, client.CheckDigest},
		"an op too few":      {`UPDATE meta SET digest_ops = digest_ops - 1`, client.CheckDigest},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := planted(t)
			path := s.edited(t, s.options())
			alter(t, path, test.damage)
			c := open(t, path, client.Options{})
			found := false
			d := doctor(t, c)
			for _, finding := range d.Findings {
				found = found || finding.Check == test.want
			}
			if !found {
				t.Errorf("found %+v", d.Findings)
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			c = open(t, path, s.options())
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			if err := c.Repair(ctx); err != nil {
				t.Fatal(err)
			}
			s.synced(t, c)
			if d := doctor(t, c); len(d.Findings) > 0 || !d.Compared {
				t.Errorf("after repair: %+v", d)
			}
			wantTitles(t, c, "A b mine")
		})
	}
}

// What the replica cannot see by itself, the comparison with the server shows.
func TestDoctorCompares(t *testing.T) {
	t.Parallel()
	s := planted(t)
	path := filepath.Join(t.TempDir(), "replica")
	c := open(t, path, s.options())
	s.synced(t, c)
	s.mu.Lock()
	log := s.log()
	s.mu.Unlock()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	s.replaceHistory(t) // and yet the epoch and the head are as before
	s.mu.Lock()
	s.epoch = "0193a0e0-0000-7000-8000-000000000001"
	s.mu.Unlock()
	for i := range len(log) - 2 {
		op := moveop.Op{
			Kind: moveop.Set, TS: moveop.NewTimestamp(2, uint16(i), 7), Node: moveop.Root, Key: "k", Value: []byte("1"),
		}
		if err := s.apply(op); err != nil {
			t.Fatal(err)
		}
	}
	c = open(t, path, s.options())
	d := doctor(t, c)
	if len(d.Findings) != 2 || d.Findings[0].Check != client.CheckServer || !d.Compared || len(d.Differences) != 2*len(log) {
		t.Errorf("found %+v", d)
	}
	if err := c.Repair(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d := doctor(t, c); len(d.Findings) > 0 {
		t.Errorf("after repair: %+v", d)
	}
	s.synced(t, c)
	wantTitles(t, c, "other")
}

// damage overwrites the first page of a table or index in a file that is not open.
func damage(t *testing.T, path, name string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	var page, size int64
	err = db.QueryRow(`SELECT rootpage, page_size FROM sqlite_schema, pragma_page_size WHERE name = ?`, name).Scan(&page, &size)
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt(make([]byte, size), (page-1)*size); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}

// A damaged page is found, and what can be read besides is examined all the same. What is pending is
// saved even where the file cannot be repaired.
func TestDoctorDamagedPage(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	path := filepath.Join(t.TempDir(), "replica")
	c := open(t, path, s.options())
	edit(t, c, func(tx *client.Tx) error { _, err := tx.CreateRun(moveop.Root, client.Last, 5000); return err })
	s.synced(t, c)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	damage(t, path, "nodes_children_a")
	c = open(t, path, client.Options{})
	edit(t, c, func(tx *client.Tx) error { return tx.Set(moveop.Root, "title", "pending") })
	d := doctor(t, c)
	if len(d.Findings) == 0 || d.Findings[0].Check != client.CheckFile {
		t.Errorf("found %+v", d.Findings)
	}
	salvaged := filepath.Join(t.TempDir(), "salvaged")
	if err := c.Salvage(t.Context(), salvaged); err != nil {
		t.Fatal(err)
	}
	if saved := open(t, salvaged, client.Options{}); saved.Pending() != 1 {
		t.Errorf("%d operations saved", saved.Pending())
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = open(t, path, s.options())
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := c.Repair(ctx); err != nil && !errors.Is(err, client.ErrCorrupt) {
		t.Errorf("repair: %v", err)
	}
}

// Salvaged is what is pending, refused or not, and nothing else.
func TestSalvage(t *testing.T) {
	t.Parallel()
	s, c, path, _, titled := refusing(t)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = open(t, path, client.Options{})
	n := create(t, c, moveop.Root, client.Last, "d")
	salvaged := filepath.Join(t.TempDir(), "salvaged")
	if err := c.Salvage(t.Context(), salvaged); err != nil {
		t.Fatal(err)
	}
	want, refused := outline(t, c, moveop.Root), quarantine(t, c)
	saved := open(t, salvaged, client.Options{})
	if saved.Pending() != c.Pending() || saved.Replica() == c.Replica() {
		t.Errorf("%d pending as replica %s", saved.Pending(), saved.Replica())
	}
	if d := doctor(t, saved); len(d.Findings) > 0 {
		t.Errorf("found %+v", d.Findings)
	}
	if err := saved.Close(); err != nil {
		t.Fatal(err)
	}
	saved = open(t, salvaged, s.options())
	if err := saved.WaitSynced(t.Context()); !errors.Is(err, client.ErrRefused) {
		t.Errorf("the error is %v", err)
	}
	wantOutline(t, saved, want)
	if got := quarantine(t, saved); len(got) != len(refused) || got[1].Op.Node != titled {
		t.Errorf("in quarantine %+v", got)
	}
	other := s.join(t)
	if err := other.WaitSynced(t.Context()); err != nil {
		t.Fatal(err)
	}
	if node(t, other, n) != node(t, c, n) {
		t.Error("what was pending did not get through")
	}
	if d := doctor(t, saved); len(d.Findings) > 0 || !d.Compared {
		t.Errorf("found %+v", d)
	}
}
