package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/canopysync/canopy/pgfuncs"
)

type migrateGrantCmd struct {
	databaseFlag
	Realtime  []string `sep:"none" placeholder:"ROLE" help:"Role for serve realtime. May be repeated, as may the others."`
	Bootstrap []string `sep:"none" placeholder:"ROLE" help:"Role for serve bootstrap."`
	Tokens    []string `sep:"none" placeholder:"ROLE" help:"Role for canopy token."`
	jsonFlag
}

// Help is the command's long help.
func (*migrateGrantCmd) Help() string {
	return `The roles must exist. They get exactly the rights that their services need, and keep them through later migrations. Run this as the role that migrates and owns the schema. The stored functions run with that role's rights, so it should not be a superuser.

Example:

    psql -c "create role canopy_realtime login password '…'"
    canopy migrate grant --realtime canopy_realtime --database-url postgres://canopy@db/canopy`
}

func (c *migrateGrantCmd) Run(ctx context.Context, env *Env) error {
	var roles []pgfuncs.GrantedRole
	for _, of := range []struct {
		service pgfuncs.Service
		roles   []string
	}{{pgfuncs.Realtime, c.Realtime}, {pgfuncs.Bootstrap, c.Bootstrap}, {pgfuncs.Tokens, c.Tokens}} {
		for _, role := range of.roles {
			roles = append(roles, pgfuncs.GrantedRole{Role: role, Service: of.service})
		}
	}
	if len(roles) == 0 {
		return usagef("no roles given: use --realtime, --bootstrap or --tokens")
	}
	return changeRoles(ctx, env, c.databaseFlag, c.jsonFlag, func(db *pgfuncs.DB) error { return db.Grant(ctx, roles) })
}

type migrateRevokeCmd struct {
	Roles []string `arg:"" name:"role" help:"The roles."`
	databaseFlag
	jsonFlag
}

func (c *migrateRevokeCmd) Run(ctx context.Context, env *Env) error {
	return changeRoles(ctx, env, c.databaseFlag, c.jsonFlag, func(db *pgfuncs.DB) error {
		for _, role := range c.Roles {
			if err := db.Revoke(ctx, role); err != nil {
				return err
			}
		}
		return nil
	})
}

// changeRoles changes something and prints which roles there are then.
func changeRoles(ctx context.Context, env *Env, at databaseFlag, form jsonFlag, change func(*pgfuncs.DB) error) error {
	db, err := at.open(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := change(db); err != nil {
		if errors.Is(err, pgfuncs.ErrUnknownRole) {
			return usagef("%v", err)
		}
		return err
	}
	roles, err := db.GrantedRoles(ctx)
	if err != nil {
		return err
	}
	result := struct {
		Roles []pgfuncs.GrantedRole `json:"roles"`
	}{nonNil(roles)}
	return form.print(env, result, func() {
		for _, r := range roles {
			fmt.Fprintf(env.Stdout, "%-10s %s\n", r.Service, r.Role)
		}
	})
}
