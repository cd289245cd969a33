package main

import (
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
)

func TestDoctor(t *testing.T) {
	t.Parallel()
	w := withGarden(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "replica")
	w.must("export", "garden", "-o", os.DevNull, "--file", file)
	retitle(t, file)

	var e examined
	parseJSON(t, w.must("doctor", file, "--json"), &e)
	if !e.OK || e.Room != "garden" || e.Seq != 13 || e.Pending != 1 || e.Compared {
		t.Errorf("offline: %+v", e)
	}
	saved := filepath.Join(dir, "saved")
	if out := w.must("doctor", file, "--salvage", saved); !strings.Contains(out, "sound replica of room garden at seq 13; ") {
		t.Error(out)
	}
	parseJSON(t, w.must("doctor", saved, "--json"), &e)
	if !e.OK || e.Room != "garden" || e.Seq != 0 || e.Pending != 1 {
		t.Errorf("salvaged: %+v", e)
	}
	parseJSON(t, w.must("doctor", file, "--compare", "--json"), &e)
	if !e.OK || e.Ops != 14 || e.Pending != 0 || !e.Compared {
		t.Errorf("online: %+v", e)
	}

	damage(t, file)
	r := w.canopy("doctor", file)
	if r.code != exitBadInput || !strings.Contains(r.stdout, "digest: ") || !strings.Contains(r.stderr, "--repair") {
		t.Errorf("damaged: %+v", r)
	}
	if out := w.must("doctor", file, "--repair"); !strings.Contains(out, "the same as the server's") {
		t.Error(out)
	}
	if got := w.must("export", "garden", "--file", file); !strings.Contains(got, `"tulips"`) {
		t.Errorf("repaired: %s", got)
	}

	missing := filepath.Join(dir, "missing")
	if r := w.canopy("doctor", missing); r.code != exitFailure || !strings.Contains(r.stderr, "missing") {
		t.Errorf("missing: %+v", r)
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("made a file to examine")
	}
	if r := w.canopy("doctor", write(t, "text", "no database")); r.code != exitBadInput {
		t.Errorf("foreign: %+v", r)
	}
}

// Services that go away while it works are given as long as the user said, whatever it is doing.
func TestDoctorGivesUpWithoutAConnection(t *testing.T) {
	t.Parallel()
	w := withGarden(t)
	file := filepath.Join(t.TempDir(), "replica")
	w.must("export", "garden", "-o", os.DevNull, "--file", file)
	damage(t, file)
	for _, c := range []struct {
		do                  string
		realtime, bootstrap int // connections that get through; the first one asks whether the service is there
	}{
		{"--repair", 1, 1},
		{"--repair", 2, 1}, // in time to repair by a snapshot, which is not to be had
		{"--compare", 1, 1},
	} {
		rt, realtime := newCable(t, w.realtime)
		bs, bootstrap := newCable(t, w.bootstrap)
		rt.limit(c.realtime)
		bs.limit(c.bootstrap)
		r := w.canopy("doctor", file, c.do, "--realtime-url", realtime, "--bootstrap-url", bootstrap, "--patience=300ms")
		if r.code != exitUnavailable || !strings.Contains(r.stderr, "no connection for 300ms") {
			t.Errorf("%+v: exit code %d: %s", c, r.code, r.stderr)
		}
	}
	if out := w.must("doctor", file, "--repair"); !strings.Contains(out, "the same as the server's") {
		t.Error(out)
	}
}

// retitle makes an operation that waits to be pushed.
func retitle(t *testing.T, file string) {
	t.Helper()
	c, err := client.Open(t.Context(), file, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	err = c.Edit(t.Context(), func(tx *client.Tx) error { return tx.Set(moveop.Root, "title", "Backyard") })
	if err != nil {
		t.Fatal(err)
	}
}

// damage takes a property out of a file behind the client's back.
func damage(t *testing.T, file string) {
	t.Helper()
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	r, err := db.Exec(`DELETE FROM vals WHERE value LIKE '%tulips%'`)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := r.RowsAffected(); n != 1 || err != nil {
		t.Fatalf("%d rows, %v", n, err)
	}
}
