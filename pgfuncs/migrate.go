package pgfuncs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/canopysync/canopy/sql"
)

// migrationLock is the advisory lock that lets one process at a time migrate a database.
const migrationLock int64 = 0x63616e6f7079 // "canopy"

// MigrationStatus is one migration and the time it was applied; AppliedAt is zero while it is pending.
type MigrationStatus struct {
	Version   int       `json:"version"`
	Name      string    `json:"name"`
	AppliedAt time.Time `json:"applied_at,omitzero"`
}

// Migrate brings the schema and the functions to this version, in one transaction and under an advisory
// lock, so that any number of processes may call it at once. It returns the migrations that it applied; none
// means that the schema was up to date. If a newer version has migrated the database, it changes nothing and
// returns ErrNewerSchema.
func (db *DB) Migrate(ctx context.Context) ([]MigrationStatus, error) {
	var applied []MigrationStatus
	err := pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) (err error) {
		applied, err = migrate(ctx, tx)
		return err
	})
	if err != nil {
		return nil, domainError("migrate", err)
	}
	return applied, nil
}

// Migrations lists every migration of this version and when it was applied.
func (db *DB) Migrations(ctx context.Context) ([]MigrationStatus, error) {
	steps, err := sql.Migrations()
	if err != nil {
		return nil, err
	}
	applied, err := appliedMigrations(ctx, db.pool)
	if err != nil && !errors.Is(err, ErrNotMigrated) {
		return nil, err
	}
	var status []MigrationStatus
	for _, step := range steps {
		status = append(status, MigrationStatus{step.Version, step.Name, applied[step.Version]})
	}
	return status, nil
}

// Ready checks that the database answers and that its schema and functions are exactly this version's. If
// they are not, the error is ErrNotMigrated or ErrNewerSchema.
func (db *DB) Ready(ctx context.Context) error {
	steps, err := sql.Migrations()
	if err != nil {
		return err
	}
	applied, err := appliedMigrations(ctx, db.pool)
	if err != nil {
		return err
	}
	if len(applied) > len(steps) {
		return ErrNewerSchema
	}
	_, want, err := sql.Functions()
	if err != nil {
		return err
	}
	have, err := installedFingerprint(ctx, db.pool)
	if err != nil {
		return err
	}
	if len(applied) < len(steps) || have != want {
		return ErrNotMigrated
	}
	return nil
}

// asOwner creates the schema if it is missing (even "if not exists" needs the right to), and continues as its owner:
// the functions run with the rights of the role that installs them, which must not become a superuser's.
const asOwner = `
do $$
begin
  if to_regnamespace('canopy') is null then
    create schema canopy;
  end if;
  perform set_config('role', pg_get_userbyid(nspowner), true) from pg_namespace where nspname = 'canopy';
end $$`

const createMigrationTables = `
create table if not exists canopy.migrations (
  version    integer not null,
  name       text not null,
  applied_at timestamptz not null default now(),
  constraint migrations_pkey primary key (version)
);
create table if not exists canopy.installed_functions (
  only_row    boolean not null default true,
  fingerprint text not null,
  constraint installed_functions_pkey primary key (only_row),
  constraint installed_functions_one_row check (only_row)
);
create table if not exists canopy.granted_roles (
  role    text collate "C" not null,
  service text collate "C" not null,
  constraint granted_roles_pkey primary key (role, service)
)`

func migrate(ctx context.Context, tx pgx.Tx) ([]MigrationStatus, error) {
	if err := lockMigrations(ctx, tx); err != nil {
		return nil, err
	}
	if _, err := tx.Exec(ctx, asOwner); err != nil {
		return nil, fmt.Errorf("become owner of the schema: %w", err)
	}
	if _, err := tx.Exec(ctx, createMigrationTables); err != nil {
		return nil, fmt.Errorf("create migration tables: %w", err)
	}
	steps, err := sql.Migrations()
	if err != nil {
		return nil, err
	}
	done, err := appliedMigrations(ctx, tx)
	if err != nil {
		return nil, err
	}
	if len(done) > len(steps) {
		return nil, ErrNewerSchema
	}
	var applied []MigrationStatus
	for _, step := range steps[len(done):] {
		status, err := applyMigration(ctx, tx, step)
		if err != nil {
			return nil, fmt.Errorf("apply %03d_%s: %w", step.Version, step.Name, err)
		}
		applied = append(applied, status)
	}
	return applied, installFunctions(ctx, tx)
}

func lockMigrations(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, migrationLock); err != nil {
		return fmt.Errorf("take lock: %w", err)
	}
	return nil
}

func applyMigration(ctx context.Context, tx pgx.Tx, step sql.Migration) (MigrationStatus, error) {
	status := MigrationStatus{Version: step.Version, Name: step.Name}
	if _, err := tx.Exec(ctx, step.SQL); err != nil {
		return status, err
	}
	err := tx.QueryRow(ctx, `
		insert into canopy.migrations (version, name) values ($1, $2) returning applied_at`,
		step.Version, step.Name).Scan(&status.AppliedAt)
	return status, err
}

// dropFunctions makes room for functions whose arguments or results changed. Nothing else depends on the schema's
// functions: no constraint, default, index or view uses one.
const dropFunctions = `
do $$
declare
  f regprocedure;
begin
  for f in select oid from pg_catalog.pg_proc where pronamespace = 'canopy'::regnamespace loop
    execute format('drop function %s', f);
  end loop;
end $$`

// By default PUBLIC may execute new functions. Nobody sees them in that state, because one transaction does it all.
const revokeFunctions = `revoke all on all functions in schema canopy from public`

// installFunctions replaces all functions if any of them differs from this version's, and grants the services' roles
// their rights again.
func installFunctions(ctx context.Context, tx pgx.Tx) error {
	script, want, err := sql.Functions()
	if err != nil {
		return err
	}
	have, err := installedFingerprint(ctx, tx)
	if err != nil || have == want {
		return err
	}
	// Bodies are not checked on creation, because a function may call others created later.
	for _, text := range []string{"set local check_function_bodies = off", dropFunctions, script, revokeFunctions} {
		if _, err := tx.Exec(ctx, text); err != nil {
			return fmt.Errorf("install functions: %w", err)
		}
	}
	if err := grantAgain(ctx, tx); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		insert into canopy.installed_functions (fingerprint) values ($1)
		on conflict (only_row) do update set fingerprint = excluded.fingerprint`, want)
	if err != nil {
		return fmt.Errorf("record functions: %w", err)
	}
	return nil
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func appliedMigrations(ctx context.Context, q querier) (map[int]time.Time, error) {
	rows, _ := q.Query(ctx, `select version, applied_at from canopy.migrations`) // ForEachRow returns the error
	applied := map[int]time.Time{}
	var version int
	var at time.Time
	_, err := pgx.ForEachRow(rows, []any{&version, &at}, func() error {
		applied[version] = at
		return nil
	})
	if err != nil {
		return nil, domainError("read migrations", err)
	}
	return applied, nil
}

// installedFingerprint is empty if no functions are installed.
func installedFingerprint(ctx context.Context, q querier) (string, error) {
	var fingerprint string
	err := q.QueryRow(ctx, `select coalesce(max(fingerprint), '') from canopy.installed_functions`).Scan(&fingerprint)
	if err != nil {
		return "", domainError("read installed functions", err)
	}
	return fingerprint, nil
}
