package pgfuncs_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/pgfuncs/pgtest"
)

var roleNumber atomic.Int64

// newRole makes a role of a name that needs quoting, and that is gone when the test ends.
func (d database) newRole(t *testing.T) string {
	t.Helper()
	role := fmt.Sprintf(`it's $$ "role" %d`, roleNumber.Add(1))
	name := pgx.Identifier{role}.Sanitize()
	if _, err := d.pool.Exec(t.Context(), `create role `+name+` login`); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := d.pool.Exec(context.Background(), `drop owned by `+name+`; drop role `+name); err != nil {
			t.Error(err)
		}
	})
	return role
}

// as opens the same database as a role.
func (d database) as(t *testing.T, role string) database {
	t.Helper()
	u, err := url.Parse(d.pool.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(role)
	return openURL(t, u.String())
}

func (d database) grant(t *testing.T, service pgfuncs.Service) (role string) {
	t.Helper()
	role = d.newRole(t)
	if err := d.Grant(t.Context(), []pgfuncs.GrantedRole{{Role: role, Service: service}}); err != nil {
		t.Fatal(err)
	}
	return role
}

// work does everything that a service does.
var work = map[pgfuncs.Service]func(t *testing.T, ctx context.Context, db, owner database) error{
	pgfuncs.Realtime: func(t *testing.T, ctx context.Context, db, _ database) error {
		op := moveop.Op{Kind: moveop.Move, TS: moveop.NewTimestamp(time.Now().UnixMilli(), 0, 7), Node: moveop.NodeID{1},
			Parent: moveop.Root, OrderKey: "a0"}
		_, _, create := db.ApplyFirst(ctx, "garden", epoch, []moveop.Op{op})
		_, apply := db.Apply(ctx, "garden", []moveop.Op{op})
		_, room := db.Room(ctx, "garden")
		_, last := db.LastTimestamp(ctx, "garden", 7)
		ops, after := db.OpsAfter(ctx, "garden", 0, 10)
		_, children := db.Children(ctx, "garden", moveop.Root, "", 10, 0)
		_, subtree := db.Subtree(ctx, "garden", moveop.Root, 0, "", 10)
		_, stats := db.Stats(ctx, "garden")
		_, _, revoked := db.RevocationsAfter(ctx, 0, 10)
		if len(ops) != 1 {
			t.Errorf("ops are %v", ops)
		}
		return errors.Join(db.Ready(ctx), create, apply, room, last, after, children, subtree, stats, revoked,
			db.Notify(ctx, "garden 1"))
	},
	pgfuncs.Bootstrap: func(t *testing.T, ctx context.Context, db, owner database) error {
		if _, err := owner.CreateRoom(ctx, "attic", epoch); err != nil {
			return err
		}
		snapshot := db.Snapshot(ctx, "attic", func(s format.Snapshot) error {
			for _, section := range s.Header().Sections {
				if _, err := s.Copy(ctx, section.Tag, &strings.Builder{}); err != nil {
					return err
				}
			}
			return nil
		})
		_, stats := db.Stats(ctx, "attic")
		_, _, revoked := db.RevocationsAfter(ctx, 0, 10)
		return errors.Join(db.Ready(ctx), snapshot, stats, revoked)
	},
	pgfuncs.Tokens: func(t *testing.T, ctx context.Context, db, _ database) error {
		db.issue(t, "a", time.Hour)
		db.revoke(t, "a", false)
		_, list := db.IssuedTokens(ctx, true)
		_, _, revoked := db.RevocationsAfter(ctx, 0, 10)
		return errors.Join(list, revoked)
	},
}

// allowed is what roles may do: tables to select from, functions to call.
var allowed = map[pgfuncs.Service]string{
	pgfuncs.Realtime: "installed_functions migrations notify_channel replicas revocation_head revoked_tokens rooms " +
		"apply() apply_one() buckets() children() compact() compactable_rooms() count_below() count_buckets() create_room() ops_after() ops_between() purge() subtree()",
	pgfuncs.Bootstrap: "history installed_functions migrations nodes revocation_head revoked_tokens rooms values count_below()",
	pgfuncs.Tokens:    "installed_functions issued_tokens migrations revocation_head revoked_tokens issue_token() revoke_token()",
}

func TestEachServiceWorksWithItsRoleAndNoMore(t *testing.T) {
	t.Parallel()
	for service := range work {
		t.Run(string(service), func(t *testing.T) {
			t.Parallel()
			owner := openDatabase(t)
			role := owner.grant(t, service)
			db := owner.as(t, role)
			if err := work[service](t, t.Context(), db, owner); err != nil {
				t.Error(err)
			}
			if got := owner.rights(t, role); got != allowed[service] {
				t.Errorf("the role may\n%s, want\n%s", got, allowed[service])
			}
			forbid(t, db)
		})
	}
}

// rights lists what a role may do in the schema, by the database's own judgement, PUBLIC's rights included.
func (d database) rights(t *testing.T, role string) string {
	t.Helper()
	rows, _ := d.pool.Query(t.Context(), `
		select what from (
		  select 1, relname || case when has_table_privilege($1, c.oid, 'insert,update,delete,truncate,references,trigger')
		                              or has_any_column_privilege($1, c.oid, 'insert,update,references')
		                            then '!' else '' end
		    from pg_class c
		   where relnamespace = 'canopy'::regnamespace and relkind in ('r', 'v', 'S')
		     and (has_table_privilege($1, c.oid, 'select,insert,update,delete,truncate,references,trigger')
		          or has_any_column_privilege($1, c.oid, 'select,insert,update,references'))
		  union all
		  select 2, proname || '()'
		    from pg_proc p
		   where pronamespace = 'canopy'::regnamespace and has_function_privilege($1, p.oid, 'execute')
		  union all
		  select 3, 'create!' where has_schema_privilege($1, 'canopy', 'create')) as r(part, what)
		 order by part, what`, role)
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(list, " ")
}

// forbid tries what no service may do.
func forbid(t *testing.T, db database) {
	t.Helper()
	for _, statement := range []string{
		`insert into canopy.rooms (name, epoch) values ('forged', gen_random_uuid())`,
		`update canopy.rooms set head = 0`,
		`delete from canopy.nodes`,
		`truncate canopy.history`,
		`insert into canopy.revoked_tokens values ('x', 1, now(), null)`,
		`update canopy.installed_functions set fingerprint = ''`,
		`insert into canopy.granted_roles values (current_user, 'tokens')`,
		`select canopy.set_restore_on('garden', 'never')`,
		`select canopy.place(1, null, true)`,
		`create table canopy.mine ()`,
		`create or replace function canopy.apply() returns int language sql as 'select 1'`,
		`alter function canopy.apply security invoker`,
		`drop table canopy.rooms`,
	} {
		_, err := db.pool.Exec(t.Context(), statement)
		if refused, ok := errors.AsType[*pgconn.PgError](err); !ok || refused.Code != "42501" {
			t.Errorf("%s: %v", statement, err)
		}
	}
}

func TestARoleWithoutGrants(t *testing.T) {
	t.Parallel()
	owner := openDatabase(t)
	db := owner.as(t, owner.newRole(t))
	ctx := t.Context()
	_, room := db.Room(ctx, "garden")
	_, apply := db.Apply(ctx, "garden", nil)
	_, _, revoked := db.RevocationsAfter(ctx, 0, 1)
	_, migrate := db.Migrate(ctx)
	for _, err := range []error{room, apply, revoked, db.Ready(ctx), migrate, db.Grant(ctx, nil)} {
		if !errors.Is(err, pgfuncs.ErrNotGranted) {
			t.Errorf("got %v, want ErrNotGranted", err)
		}
	}
}

// Any role may LISTEN and NOTIFY, but does not know where: the channel has another name in each database.
func TestTheChannelIsSecret(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	owner := openDatabase(t)
	for _, service := range []pgfuncs.Service{"", pgfuncs.Bootstrap, pgfuncs.Tokens} {
		role := owner.newRole(t)
		if service != "" {
			if err := owner.Grant(ctx, []pgfuncs.GrantedRole{{Role: role, Service: service}}); err != nil {
				t.Fatal(err)
			}
		}
		err := owner.as(t, role).Transport(pgfuncs.TransportConfig{}).Send(ctx, map[string][]byte{"garden": nil})
		if refused, ok := errors.AsType[*pgconn.PgError](err); !ok || refused.Code != "42501" {
			t.Errorf("%q: %v", service, err)
		}
	}
	names := map[string]bool{}
	for range 2 {
		db, err := pgfuncs.Open(ctx, pgtest.New(t, pgtest.Empty()))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.Migrate(ctx); err != nil {
			t.Fatal(err)
		}
		name, err := db.Channel(ctx)
		if err != nil {
			t.Fatal(err)
		}
		names[name] = true
	}
	if len(names) != 2 {
		t.Errorf("the names are %v", names)
	}
}

// Functions are dropped and made again when they change, and everybody could call them then.
func TestGrantsOutliveMigrations(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	role, gone := db.grant(t, pgfuncs.Realtime), db.newRole(t)
	_, err := db.pool.Exec(t.Context(), `
		insert into canopy.granted_roles values ('a role of another server', 'realtime');
		grant insert on canopy.nodes to `+pgx.Identifier{role}.Sanitize()+`; -- of another version
		update canopy.installed_functions set fingerprint = 'of another version'`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := db.rights(t, role); got != allowed[pgfuncs.Realtime] {
		t.Errorf("the role may\n%s, want\n%s", got, allowed[pgfuncs.Realtime])
	}
	if got := db.rights(t, gone); got != "" {
		t.Errorf("everybody may %s", got)
	}
	// Whoever makes a role of that name would give it these rights with the next version.
	if err := db.Revoke(t.Context(), "a role of another server"); err != nil {
		t.Error(err)
	}
	if err := db.Revoke(t.Context(), "a role of another server"); !errors.Is(err, pgfuncs.ErrUnknownRole) {
		t.Errorf("revoked again: %v", err)
	}
}

// pg_restore --no-privileges leaves functions that everybody may call: a role that gets into the schema for one
// service could do the work of all.
func TestGrantAfterARestoreWithoutPrivileges(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	if _, err := db.pool.Exec(t.Context(), `grant execute on all functions in schema canopy to public`); err != nil {
		t.Fatal(err)
	}
	role := db.grant(t, pgfuncs.Bootstrap)
	if got := db.rights(t, role); got != allowed[pgfuncs.Bootstrap] {
		t.Errorf("the role may\n%s, want\n%s", got, allowed[pgfuncs.Bootstrap])
	}
}

// Whoever migrates, the functions run with the rights of the schema's owner: a superuser who upgraded a database
// lent them its own. The owner needs no right to create schemas if it was given one.
func TestASuperuserMigratesAsTheOwner(t *testing.T) {
	t.Parallel()
	db := openDatabase(t, pgtest.Empty())
	role := db.newRole(t)
	owner := db.as(t, role)
	if _, err := db.pool.Exec(t.Context(), `create schema canopy authorization `+pgx.Identifier{role}.Sanitize()); err != nil {
		t.Fatal(err)
	}
	if _, err := owner.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := db.pool.Exec(t.Context(), `update canopy.installed_functions set fingerprint = 'of another version'`); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	var owners []string
	err := db.pool.QueryRow(t.Context(), `
		select array_agg(distinct pg_get_userbyid(proowner)) from pg_proc where pronamespace = 'canopy'::regnamespace`).Scan(&owners)
	if err != nil || !slices.Equal(owners, []string{role}) {
		t.Errorf("the functions are owned by %q (%v), want %q", owners, err, role)
	}
	if err := owner.Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestGrantsAndRevocations(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	ctx := t.Context()
	role := db.grant(t, pgfuncs.Bootstrap)
	both := []pgfuncs.GrantedRole{{Role: role, Service: pgfuncs.Bootstrap}, {Role: role, Service: pgfuncs.Tokens}}
	if err := db.Grant(ctx, both); err != nil {
		t.Fatal(err)
	}
	if list, err := db.GrantedRoles(ctx); err != nil || !slices.Equal(list, both) {
		t.Errorf("granted are %v (%v), want %v", list, err, both)
	}
	if err := db.Revoke(ctx, role); err != nil {
		t.Fatal(err)
	}
	if list, err := db.GrantedRoles(ctx); err != nil || len(list) != 0 || db.rights(t, role) != "" {
		t.Errorf("granted are %v (%v): %s", list, err, db.rights(t, role))
	}
	for _, name := range []string{"public", "nobody's", strings.Repeat("x", 100), ""} {
		err := db.Grant(ctx, []pgfuncs.GrantedRole{{Role: role, Service: pgfuncs.Tokens}, {Role: name, Service: pgfuncs.Realtime}})
		if !errors.Is(err, pgfuncs.ErrUnknownRole) || db.rights(t, role) != "" {
			t.Errorf("grant to %q: %v", name, err)
		}
		if err := db.Revoke(ctx, name); !errors.Is(err, pgfuncs.ErrUnknownRole) {
			t.Errorf("revoke from %q: %v", name, err)
		}
	}
	empty := openDatabase(t, pgtest.Empty())
	if err := empty.Grant(ctx, both); !errors.Is(err, pgfuncs.ErrNotMigrated) {
		t.Errorf("on an empty database: %v", err)
	}
}

// What has its owner's rights must not look for anything where others can put it.
func TestFunctionsWithTheirOwnersRightsPinTheirSearchPath(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	rows, _ := db.pool.Query(t.Context(), `
		select proname || ' ' || coalesce(proconfig::text, '')
		  from pg_proc
		 where pronamespace = 'canopy'::regnamespace and prosecdef
		   and 'search_path=pg_catalog, pg_temp' <> all (coalesce(proconfig, '{}'))`)
	if list, err := pgx.CollectRows(rows, pgx.RowTo[string]); err != nil || len(list) > 0 {
		t.Errorf("%q (%v)", list, err)
	}
}

// shadow puts into a schema what would break everything that found it there.
const shadow = `
create schema evil;
grant usage on schema evil to public;
create function evil.boom() returns boolean language plpgsql as $$ begin raise exception 'shadowed'; end $$;
create function evil.same(uuid, uuid) returns boolean language sql as 'select evil.boom()';
create function evil.same(text, text) returns boolean language sql as 'select evil.boom()';
create function evil.same(bigint, bigint) returns boolean language sql as 'select evil.boom()';
create function evil.same(bigint, integer) returns boolean language sql as 'select evil.boom()';
create operator evil.= (leftarg = uuid, rightarg = uuid, function = evil.same);
create operator evil.= (leftarg = text, rightarg = text, function = evil.same);
create operator evil.> (leftarg = bigint, rightarg = bigint, function = evil.same);
create operator evil.= (leftarg = bigint, rightarg = bigint, function = evil.same);
create operator evil.= (leftarg = bigint, rightarg = integer, function = evil.same);
create function evil.now() returns timestamptz language sql as $$ select 'epoch'::timestamptz where evil.boom() $$;
create function evil.cardinality(anyarray) returns integer language sql as 'select 1 where evil.boom()';
create function evil.pg_notify(text, text) returns void language sql as 'select evil.boom()';
create function evil.replica_of(uuid) returns bigint language sql as 'select 1 where evil.boom()';
create table evil.rooms (room_id text, name text);
create table evil.nodes (room_id text);
create table evil.history (room_id text)`

// TestShadowedNames has everything that the services use stand in front of pg_catalog, in a schema and among
// the temporary tables, which are looked up first unless they are named.
func TestShadowedNames(t *testing.T) {
	t.Parallel()
	owner := openDatabase(t)
	if _, err := owner.pool.Exec(t.Context(), shadow); err != nil {
		t.Fatal(err)
	}
	for service := range work {
		role := owner.grant(t, service)
		_, err := owner.pool.Exec(t.Context(), `alter role `+pgx.Identifier{role}.Sanitize()+` set search_path = evil, pg_catalog`)
		if err != nil {
			t.Fatal(err)
		}
		db := owner.as(t, role)
		if err := work[service](t, t.Context(), db, owner); err != nil {
			t.Errorf("%s: %v", service, err)
		}
		// The functions, without the care that DB takes.
		if service != pgfuncs.Realtime {
			continue
		}
		conn, err := pgx.Connect(t.Context(), db.pool.Config().ConnString())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		for _, statement := range []string{
			`create temporary table rooms (name text); create temporary table history (x text); create temporary table uuid (x text)`,
			`select * from canopy.apply('garden', array['01930000-0000-0000-0000-000000000009']::pg_catalog.uuid[], array[1::smallint],
				array['00000000-0000-0000-0000-00000000000a']::pg_catalog.uuid[], array['00000000-0000-0000-0000-000000000001']::pg_catalog.uuid[],
				array['a1'], array[null]::text[], array[null]::text[], array[0::bigint])`,
			`select * from canopy.ops_after('garden', 0, 10)`,
		} {
			if _, err := conn.Exec(t.Context(), statement); err != nil {
				t.Errorf("%s: %v", statement, err)
			}
		}
	}
}

// TestHostileNames: whatever is text in a statement stays text.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	ctx := t.Context()
	room := db.newRoom(t)
	for i, text := range []string{
		`'; drop table canopy.rooms; --`, `$$; drop table canopy.rooms; $$`, `$1`, `\'`, `"`, `%s %n`, "a\nb", `{"a":"`, `''`, `)`,
	} {
		op := moveop.Op{Kind: moveop.Set, TS: moveop.NewTimestamp(time.Now().UnixMilli(), uint16(i), 7), Node: moveop.NodeID{1},
			Key: text, Value: fmt.Appendf(nil, "%q", text)}
		if _, err := db.Apply(ctx, room, []moveop.Op{op}); err != nil {
			t.Errorf("key %q: %v", text, err)
		}
		ops, err := db.OpsAfter(ctx, room, int64(i), 1)
		if err != nil || len(ops) != 1 || ops[0].Key != text || string(ops[0].Value) != string(op.Value) {
			t.Errorf("key %q comes back as %+v (%v)", text, ops, err)
		}
		if _, err := db.CreateRoom(ctx, text, epoch); err == nil {
			t.Errorf("a room is called %q", text)
		}
		if _, err := db.Room(ctx, text); err == nil {
			t.Errorf("there is a room %q", text)
		}
		if _, err := db.OpsAfter(ctx, text, 0, 1); err == nil {
			t.Errorf("there are ops of a room %q", text)
		}
		if err := db.Snapshot(ctx, text, nil); err == nil {
			t.Errorf("there is a snapshot of a room %q", text)
		}
		if _, err := db.LastTimestamp(ctx, text, 7); err != nil {
			t.Errorf("last timestamp in %q: %v", text, err)
		}
	}
}
