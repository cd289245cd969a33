package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/pgfuncs"
)

// listRooms is what room list knows, by name.
func (w *world) listRooms(t *testing.T, database string) map[string]pgfuncs.ListedRoom {
	t.Helper()
	rooms := map[string]pgfuncs.ListedRoom{}
	for line := range strings.Lines(w.must("room", "list", "--json", "--database-url", database)) {
		var room pgfuncs.ListedRoom
		parseJSON(t, line, &room)
		rooms[room.Name] = room
	}
	return rooms
}

// restoreOn sets a room's policy.
func (w *world) restoreOn(t *testing.T, room, policy string, args ...string) (set roomSet) {
	t.Helper()
	args = append([]string{"room", "set", room, "--restore-on", policy, "--json", "--database-url", w.database}, args...)
	parseJSON(t, w.must(args...), &set)
	return set
}

func TestRoomSet(t *testing.T) {
	t.Parallel()
	w := withGarden(t)
	before := w.listRooms(t, w.database)["garden"]
	if before.RestoreOn != "move+set" {
		t.Errorf("by default %+v", before)
	}
	for _, policy := range []string{"move", "never", "never", "move+set"} {
		if got := w.restoreOn(t, "garden", policy); got != (roomSet{Room: "garden", RestoreOn: policy}) {
			t.Errorf("%s: %+v", policy, got)
		}
		want := before
		want.RestoreOn = policy
		if got := w.listRooms(t, w.database)["garden"]; got != want {
			t.Errorf("%s: the list has %+v, want %+v", policy, got, want)
		}
	}
	if out := w.must("room", "set", "garden", "--restore-on=move", "--database-url", w.database); out != "garden: restore-on is move\n" {
		t.Errorf("set: %q", out)
	}
	list := strings.Split(w.must("room", "list", "--database-url", w.database), "\n")
	if heads, row := strings.Fields(list[0]), strings.Fields(list[1]); heads[4] != "RESTORE-ON" || row[4] != "move" {
		t.Errorf("list:\n%s", strings.Join(list, "\n"))
	}
}

// A room may be made before its first push, and while somebody waits in it for one.
func TestRoomSetCreate(t *testing.T) {
	t.Parallel()
	w := setup(t)
	ann, _ := w.replica(t, "garden", nil)
	synced(t, ann)
	if r := w.canopy("room", "set", "garden", "--restore-on=never", "--database-url", w.database); r.code != exitUnknownRoom ||
		!strings.Contains(r.stderr, "--create") {
		t.Errorf("without --create: %+v", r)
	}
	if got := w.restoreOn(t, "garden", "never", "--create"); got != (roomSet{"garden", "never", true}) {
		t.Errorf("made: %+v", got)
	}
	made := w.listRooms(t, w.database)["garden"]
	plant(t, ann, moveop.Root, "bed")
	synced(t, ann)
	if got := w.restoreOn(t, "garden", "move", "--create"); got != (roomSet{"garden", "move", false}) {
		t.Errorf("again: %+v", got)
	}
	room := w.listRooms(t, w.database)["garden"]
	if room.Epoch != made.Epoch || made.RestoreOn != "never" || room.RestoreOn != "move" || room.Head != 2 {
		t.Errorf("made %+v, now %+v", made, room)
	}
	if s := ann.Status(); s.Epoch != room.Epoch || ann.Digest() != room.Digest {
		t.Errorf("the replica has %+v, the server %+v", s, room)
	}
	if out := w.must("room", "set", "attic", "--restore-on=move", "--create", "--database-url", w.database); out != "attic: made, restore-on is move\n" {
		t.Errorf("made: %q", out)
	}
}

// While both are connected the policy changes, again and again; each time Ann deletes two beds, not knowing
// that Ben plants in one, and puts a sign on the other.
func TestWhatAPolicyRestores(t *testing.T) {
	t.Parallel()
	w := setup(t)
	const room = "garden"
	ann, annCables := w.replica(t, room, nil)
	ben, _ := w.replica(t, room, nil)
	var want []string
	for _, tt := range []struct{ policy, restored string }{
		{"", "planted signed"}, // nobody has said anything
		{"never", ""}, {"move", "planted"}, {"move+set", "planted signed"}, {"never", ""},
	} {
		planted, signed := plant(t, ann, moveop.Root, "planted"), plant(t, ann, moveop.Root, "signed")
		synced(t, ann, ben)
		if tt.policy != "" {
			w.restoreOn(t, room, tt.policy)
		}
		for _, c := range annCables {
			c.pull()
		}
		edit(t, ann, func(tx *client.Tx) error {
			if err := tx.Delete(planted); err != nil {
				return err
			}
			return tx.Delete(signed)
		})
		edit(t, ben, func(tx *client.Tx) error {
			if _, err := tx.Create(planted, client.Last); err != nil {
				return err
			}
			return tx.Set(signed, "sign", "do not step on it")
		})
		synced(t, ben)
		for _, c := range annCables {
			c.plug()
		}
		ann.Reconnect()
		want = append(want, strings.Fields(tt.restored)...)
		w.agree(t, room, want, ann, ben)
	}
}

// A delete that was let pass is not taken back when the policy changes, but by what comes after that.
func TestAPolicyHoldsForWhatComesAfterIt(t *testing.T) {
	t.Parallel()
	w := setup(t)
	const room = "garden"
	w.restoreOn(t, room, "never", "--create")
	ann, _ := w.replica(t, room, nil)
	ben, benCables := w.replica(t, room, nil)
	bed := plant(t, ann, moveop.Root, "bed")
	synced(t, ann, ben)
	for _, c := range benCables {
		c.pull()
	}
	edit(t, ann, func(tx *client.Tx) error { return tx.Delete(bed) })
	plant(t, ben, bed, "tulip")
	synced(t, ann)
	w.restoreOn(t, room, "move+set")
	w.agree(t, room, nil, ann)
	for _, c := range benCables {
		c.plug()
	}
	ben.Reconnect()
	w.agree(t, room, []string{"bed"}, ann, ben)
	w.restoreOn(t, room, "never")
	w.agree(t, room, []string{"bed"}, ann, ben)
}

// agree checks that everybody has the same, with these names below the root.
func (w *world) agree(t *testing.T, room string, want []string, clients ...*client.Client) {
	t.Helper()
	synced(t, clients...)
	server := w.listRooms(t, w.database)[room]
	for i, c := range clients {
		if got := names(t, c, moveop.Root); !slices.Equal(got, want) {
			t.Errorf("below the root of %d: %v, want %v", i, got, want)
		}
		if c.Digest() != server.Digest {
			t.Errorf("%d has %+v, the server %+v", i, c.Status(), server)
		}
	}
}

// What works on the database leaves one alone that another version has migrated.
func TestDatabaseOfAnotherVersion(t *testing.T) {
	t.Parallel()
	w := withGarden(t)
	before := w.listRooms(t, w.database)["garden"]
	conn, err := pgx.Connect(t.Context(), w.database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	exec := func(statement string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	for name, version := range map[string]struct{ comes, goes, says string }{
		"newer": {`insert into canopy.migrations (version, name) values (9999, 'future')`,
			`delete from canopy.migrations where version = 9999`, "is newer"},
		"older": {`update canopy.installed_functions set fingerprint = 'older ' || fingerprint`,
			`update canopy.installed_functions set fingerprint = substr(fingerprint, 7)`, "canopy migrate"},
	} {
		exec(version.comes)
		for _, args := range [][]string{
			{"room", "list"}, {"room", "stats", "garden"}, {"room", "set", "garden", "--restore-on=never"},
			{"room", "new-epoch", "garden"}, {"compact", "--all", "--retention=1ms"}, {"token", "list"},
			{"token", "revoke", "8f14e45f-ceea-467f-a34b-5f5ba3a1f5a1"}, {"migrate", "grant", "--realtime=nobody"},
		} {
			r := w.canopy(append(args, "--database-url", w.database)...)
			if r.code != exitUnavailable || !strings.Contains(r.stderr, version.says) {
				t.Errorf("%s: %v: %+v", name, args, r)
			}
		}
		w.must("migrate", "status", "--database-url", w.database)
		exec(version.goes)
	}
	if after := w.listRooms(t, w.database)["garden"]; after != before {
		t.Errorf("was %+v, is %+v", before, after)
	}
}
