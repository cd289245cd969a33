package main

import (
	"context"
	"errors"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/canopysync/canopy/pgfuncs/pgtest"
)

// psqlScript is a script with what psql would have made of its own syntax.
func psqlScript(t *testing.T, file, database string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, `\`) && !strings.HasSuffix(line, "\\gset\n") {
			b.WriteString(line)
		}
	}
	return strings.NewReplacer(`:'password'`, `'secret'`, `:"database"`, pgx.Identifier{database}.Sanitize()).Replace(b.String())
}

// rolesWorld is a database with the roles of deploy/roles.sql, and its URL for each of them.
func rolesWorld(t *testing.T) (as func(role string) string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), pgtest.New(t, pgtest.Empty()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background()
		const roles = "canopy_owner, canopy_realtime, canopy_bootstrap, canopy_tokens" // of all databases of the server
		_, err := conn.Exec(ctx, "drop owned by "+roles+" cascade; drop role "+roles)
		if err := errors.Join(err, conn.Close(ctx)); err != nil {
			t.Error(err)
		}
	})
	if _, err := conn.Exec(t.Context(), psqlScript(t, "deploy/roles.sql", conn.Config().Database)); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(conn.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	return func(role string) string {
		u.User = url.UserPassword("canopy_"+role, "secret")
		return u.String()
	}
}

// TestRolesOfTheDeployment runs everything as the roles that the deployment has: the owner of the schema is
// no superuser, and each service has a role of its own.
func TestRolesOfTheDeployment(t *testing.T) {
	t.Parallel()
	as := rolesWorld(t)
	if r := command(t.Context(), nil, nil, "migrate", "grant", "--realtime=canopy_realtime", "--database-url", as("owner")); r.code != exitUnavailable {
		t.Errorf("grant before migrate: %+v", r)
	}
	w := &world{t: t}
	w.must("migrate", "up", "--database-url", as("owner"))
	if r := w.canopy("serve", "realtime", "--addr=127.0.0.1:0", "--insecure-no-auth", "--database-url", as("realtime")); r.code != exitUnavailable ||
		!strings.Contains(r.stderr, "migrate grant") {
		t.Errorf("serve without grants: %+v", r)
	}
	granted := w.must("migrate", "grant", "--realtime=canopy_realtime", "--bootstrap=canopy_bootstrap", "--tokens=canopy_tokens",
		"--database-url", as("owner"))
	if want := "bootstrap  canopy_bootstrap\nrealtime   canopy_realtime\ntokens     canopy_tokens\n"; granted != want {
		t.Errorf("granted:\n%s", granted)
	}

	w.database = as("tokens")
	key := w.serveWithTokens(t, as("realtime"), as("bootstrap"))
	ann := w.mint(t, key, "ann", "*=write")
	w.must("import", "attic", write(t, "attic.json", `{"children":[{"props":{"name":"trunk"}}]}`), "--token", ann.Token)
	doc := w.must("export", "attic", "--format=json", "--token", ann.Token)
	if !strings.Contains(doc, "trunk") {
		t.Errorf("export: %s", doc)
	}
	w.must("token", "revoke", ann.ID, "--database-url", as("tokens"))

	for _, args := range []string{"migrate up", "migrate grant --tokens=canopy_realtime", "migrate revoke canopy_tokens", "token list",
		"room set attic --restore-on=never", "room set cellar --restore-on=never --create", "room list"} {
		r := w.canopy(append(strings.Fields(args), "--database-url", as("realtime"))...)
		if (r.code == exitOK) != (args == "room list") {
			t.Errorf("%s as realtime: %+v", args, r)
		}
	}
	w.must("room", "set", "attic", "--restore-on=move", "--database-url", as("owner"))
	if rooms := w.listRooms(t, as("owner")); len(rooms) != 1 || rooms["attic"].RestoreOn != "move" {
		t.Errorf("rooms: %+v", rooms)
	}
	if out := w.must("migrate", "revoke", "canopy_tokens", "canopy_bootstrap", "--json", "--database-url", as("owner")); out !=
		`{"roles":[{"role":"canopy_realtime","service":"realtime"}]}`+"\n" {
		t.Errorf("revoked: %s", out)
	}
	for _, args := range []string{"migrate grant", "migrate grant --realtime=nobody", "migrate revoke nobody"} {
		if r := w.canopy(append(strings.Fields(args), "--database-url", as("owner"))...); r.code != exitUsage {
			t.Errorf("%s: %+v", args, r)
		}
	}
}
