package pgfuncs

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/canopysync/canopy/sql"
)

// Service is a program that uses the database with a role of its own. It determines the role's rights.
type Service string

// The services; package sql lists the rights of each in grants.
const (
	Realtime  Service = "realtime"
	Bootstrap Service = "bootstrap"
	Tokens    Service = "tokens" // canopy token
)

// GrantedRole is a role that has the rights of a service.
type GrantedRole struct {
	Role    string  `json:"role"`
	Service Service `json:"service"`
}

// Grant gives existing roles exactly the rights that their services need, all of the roles or none. The
// rights survive migrations, which install the functions anew. A role may run several services. The error is
// ErrUnknownRole if a role does not exist, or ErrNotMigrated or ErrNewerSchema as for Ready.
func (db *DB) Grant(ctx context.Context, roles []GrantedRole) error {
	if err := db.Ready(ctx); err != nil {
		return fmt.Errorf("grant: %w", err)
	}
	err := pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		if err := lockMigrations(ctx, tx); err != nil {
			return err
		}
		// After restoring a backup without privileges, anybody with USAGE on the schema could call any function.
		if _, err := tx.Exec(ctx, revokeFunctions); err != nil {
			return err
		}
		for _, r := range roles {
			if err := grantRole(ctx, tx, r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return domainError("grant", err)
	}
	return nil
}

func grantRole(ctx context.Context, tx pgx.Tx, r GrantedRole) error {
	script, err := sql.Grants(string(r.Service))
	if err != nil {
		return err
	}
	if err := roleExists(ctx, tx, r.Role); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, strings.ReplaceAll(script, sql.Role, pgx.Identifier{r.Role}.Sanitize())); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		insert into canopy.granted_roles (role, service) values ($1, $2) on conflict do nothing`, r.Role, r.Service)
	return err
}

// roleExists looks for the exact name, which SQL would truncate to 63 bytes.
func roleExists(ctx context.Context, tx pgx.Tx, role string) error {
	var exists bool
	err := tx.QueryRow(ctx, `select exists (select from pg_catalog.pg_roles where rolname = $1::text)`, role).Scan(&exists)
	if err == nil && !exists {
		err = fmt.Errorf("%w: %q", ErrUnknownRole, role)
	}
	return err
}

// Revoke takes all rights in the schema from a role, whatever its services. The error is ErrUnknownRole if
// the role does not exist and no role of that name had rights before.
func (db *DB) Revoke(ctx context.Context, role string) error {
	err := pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		if err := lockMigrations(ctx, tx); err != nil {
			return err
		}
		noted, err := tx.Exec(ctx, `delete from canopy.granted_roles where role = $1`, role)
		if err != nil {
			return err
		}
		err = roleExists(ctx, tx, role)
		if errors.Is(err, ErrUnknownRole) && noted.RowsAffected() > 0 {
			return nil // dropped, or from another server: a new role of that name must not get these rights
		}
		if err != nil {
			return err
		}
		return revokeRole(ctx, tx, role)
	})
	if err != nil {
		return domainError("revoke", err)
	}
	return nil
}

func revokeRole(ctx context.Context, tx pgx.Tx, role string) error {
	const script = `
		revoke all on all functions in schema canopy from %[1]s;
		revoke all on all tables in schema canopy from %[1]s;
		revoke all on schema canopy from %[1]s`
	_, err := tx.Exec(ctx, fmt.Sprintf(script, pgx.Identifier{role}.Sanitize()))
	return err
}

// GrantedRoles lists the existing roles that Grant gave rights to.
func (db *DB) GrantedRoles(ctx context.Context) ([]GrantedRole, error) {
	roles, err := grantedRoles(ctx, db.pool)
	if err != nil {
		return nil, domainError("list roles", err)
	}
	return roles, nil
}

func grantedRoles(ctx context.Context, q querier) ([]GrantedRole, error) {
	rows, _ := q.Query(ctx, `
		select g.role, g.service
		  from canopy.granted_roles g
		  join pg_catalog.pg_roles r on r.rolname = g.role
		 order by g.role, g.service`)
	return pgx.CollectRows(rows, pgx.RowToStructByPos[GrantedRole])
}

// grantAgain gives all roles their rights in this version. It skips roles that do not exist: dropped ones, and those
// that a restored backup knows from another server.
func grantAgain(ctx context.Context, tx pgx.Tx) error {
	roles, err := grantedRoles(ctx, tx)
	if err != nil {
		return fmt.Errorf("read granted roles: %w", err)
	}
	for _, r := range roles {
		if err := revokeRole(ctx, tx, r.Role); err != nil {
			return fmt.Errorf("revoke from %q: %w", r.Role, err)
		}
	}
	for _, r := range roles {
		if err := grantRole(ctx, tx, r); err != nil {
			return fmt.Errorf("grant to %q: %w", r.Role, err)
		}
	}
	return nil
}
