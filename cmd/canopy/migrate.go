package main

import (
	"context"
	"fmt"
	"time"

	"github.com/canopysync/canopy/pgfuncs"
)

type migrateCmd struct {
	Up     migrateUpCmd     `cmd:"" help:"Apply pending migrations. Any number of processes may do so at once."`
	Status migrateStatusCmd `cmd:"" help:"List migrations and whether they are applied."`
	Grant  migrateGrantCmd  `cmd:"" help:"Grant database roles the rights that their services need, and no others."`
	Revoke migrateRevokeCmd `cmd:"" help:"Revoke all rights from database roles."`
}

type migrateUpCmd struct {
	databaseFlag
	jsonFlag
}

// migrations is what both commands print with --json: all of them, or those that were applied now.
type migrations struct {
	Current    bool                      `json:"current"` // schema and functions are this version's
	Migrations []pgfuncs.MigrationStatus `json:"migrations"`
}

func (c *migrateUpCmd) Run(ctx context.Context, env *Env) error {
	db, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	done, err := db.Migrate(ctx)
	if err != nil {
		return err
	}
	return c.print(env, migrations{true, nonNil(done)}, func() {
		for _, m := range done {
			fmt.Fprintf(env.Stdout, "applied %03d_%s\n", m.Version, m.Name)
		}
		fmt.Fprintln(env.Stdout, "schema and functions are up to date")
	})
}

type migrateStatusCmd struct {
	databaseFlag
	jsonFlag
}

func (c *migrateStatusCmd) Run(ctx context.Context, env *Env) error {
	db, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	list, err := db.Migrations(ctx)
	if err != nil {
		return err
	}
	ready := db.Ready(ctx)
	return c.print(env, migrations{ready == nil, nonNil(list)}, func() {
		for _, m := range list {
			state := "pending"
			if !m.AppliedAt.IsZero() {
				state = "applied " + m.AppliedAt.UTC().Format(time.RFC3339)
			}
			fmt.Fprintf(env.Stdout, "%-34s %s\n", fmt.Sprintf("%03d_%s", m.Version, m.Name), state)
		}
		if ready != nil {
			fmt.Fprintln(env.Stdout, ready)
		}
	})
}

// nonNil is for JSON, where an empty list is no null.
func nonNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
