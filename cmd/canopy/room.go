package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/google/uuid"

	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/realtime/wire"
)

type roomCmd struct {
	List  roomListCmd  `cmd:"" help:"List the rooms of a database."`
	Stats roomStatsCmd `cmd:"" help:"Show exact counts and digests of a room."`

	Set      roomSetCmd      `cmd:"" help:"Set a room's restore policy: which concurrent changes undo a delete."`
	NewEpoch roomNewEpochCmd `cmd:"" help:"Tell clients that a room was restored from a backup."`
}

type roomListCmd struct {
	databaseFlag
	jsonFlag
}

// Help is the command's long help.
func (*roomListCmd) Help() string {
	return `Asks the database, because the services list rooms to nobody. canopy dev prints the URL of its database.

Example:

    canopy room list --database-url 'postgres://canopy@/canopy?host=/var/lib/canopy/postgres/socket'`
}

func (c *roomListCmd) Run(ctx context.Context, env *Env) error {
	db, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	rooms, err := db.Rooms(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		for _, room := range rooms {
			if err := printJSON(env, room); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ROOM\tHEAD\tOPS\tSTATE\tRESTORE-ON\tEPOCH")
	for _, room := range rooms {
		fmt.Fprintf(w, "%s\t%d\t%d\t%016x\t%s\t%s\n",
			room.Name, room.Head, room.Digest.Ops, room.Digest.State, room.RestoreOn, room.Epoch)
	}
	return w.Flush()
}

type roomStatsCmd struct {
	Room        string `arg:"" help:"Name of the room."`
	DatabaseURL string `envar:"CANOPY_DATABASE_URL" placeholder:"URL" help:"Ask this database instead of the realtime service; it reports 0 connections."`
	realtimeFlag
	tokenFlag
	jsonFlag
}

// Help is the command's long help.
func (*roomStatsCmd) Help() string {
	return `Asks the database if one is given, otherwise the realtime service. It walks the whole room.

Example:

    canopy room stats notes --json`
}

func (c *roomStatsCmd) Run(ctx context.Context, env *Env) error {
	stats, err := c.stats(ctx)
	if err != nil {
		return err
	}
	return c.print(env, stats, func() {
		w := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintf(w, "room\t%s\nepoch\t%s\nhead\t%d\nhorizon\t%d\n", stats.Room, stats.Epoch, stats.Head, stats.MinSeq)
		fmt.Fprintf(w, "nodes\t%d\nin trash\t%d\noperations\t%d\nconnections\t%d\n", stats.Nodes, stats.Trashed, stats.Ops, stats.Connections)
		fmt.Fprintf(w, "log digest\t%016x\nstate digest\t%016x\n", stats.Digest.Log, stats.Digest.State)
		_ = w.Flush() // as Fprintf to standard output elsewhere
	})
}

func (c *roomStatsCmd) stats(ctx context.Context) (wire.Stats, error) {
	if c.DatabaseURL == "" {
		s, err := c.service(c.tokenFlag)
		if err != nil {
			return wire.Stats{}, err
		}
		return s.stats(ctx, c.Room)
	}
	if err := checkRoom(c.Room); err != nil {
		return wire.Stats{}, err
	}
	db, err := databaseFlag{c.DatabaseURL}.open(ctx)
	if err != nil {
		return wire.Stats{}, err
	}
	defer db.Close()
	stats, err := db.Stats(ctx, c.Room)
	if err != nil {
		return stats, fmt.Errorf("room %s: %w", c.Room, err)
	}
	return stats, nil
}

type roomSetCmd struct {
	Room      string `arg:"" help:"Name of the room."`
	RestoreOn string `required:"" enum:"move+set,move,never" placeholder:"POLICY" help:"Concurrent changes that bring a deleted node back: move+set, move or never."`
	Create    bool   `help:"Create the room if it does not exist; otherwise its first push does, with move+set."`
	databaseFlag
	jsonFlag
}

// Help is the command's long help.
func (*roomSetCmd) Help() string {
	return `When somebody deletes a node without knowing of somebody else's concurrent change in it, the server corrects the delete: it moves the node back to where it was. The room's policy says which changes count:

    move+set   a node put below it, the node itself moved, or a property set: the default
    move       a node put below it, or the node itself moved; properties do not count
    never      none: a deleted node stays deleted

The policy applies to all later pushes, of connected clients too; they do not notice the change itself. Nodes that were moved back stay where they are.

Run this as the role that owns the schema: the services' roles may not change the policy.

Example:

    canopy room set notes --restore-on=never --database-url 'postgres://canopy_owner@db/canopy'`
}

// roomSet is a room's policy from now on.
type roomSet struct {
	Room      string `json:"room"`
	RestoreOn string `json:"restore_on"`
	Created   bool   `json:"created"`
}

func (c *roomSetCmd) Run(ctx context.Context, env *Env) error {
	if err := checkRoom(c.Room); err != nil {
		return err
	}
	db, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	created, err := c.set(ctx, db)
	if errors.Is(err, wire.ErrUnknownRoom) {
		err = fmt.Errorf("%w: its first push creates it, or --create does", err)
	}
	if err != nil {
		return fmt.Errorf("room %s: %w", c.Room, err)
	}
	return c.print(env, roomSet{c.Room, c.RestoreOn, created}, func() {
		made := ""
		if created {
			made = "made, "
		}
		fmt.Fprintf(env.Stdout, "%s: %srestore-on is %s\n", c.Room, made, c.RestoreOn)
	})
}

// set reports whether the room was made.
func (c *roomSetCmd) set(ctx context.Context, db *pgfuncs.DB) (created bool, err error) {
	if !c.Create {
		return false, db.SetRestoreOn(ctx, c.Room, c.RestoreOn)
	}
	epoch := uuid.NewString()
	room, err := db.CreateRoomWith(ctx, c.Room, epoch, c.RestoreOn)
	return room.Epoch == epoch, err
}

type roomNewEpochCmd struct {
	Rooms []string `arg:"" optional:"" name:"room" help:"Rooms that were restored."`
	All   bool     `help:"Apply to all rooms of the database."`
	databaseFlag
	jsonFlag
}

// Help is the command's long help.
func (*roomNewEpochCmd) Help() string {
	return `Run it once after restoring a database, before starting the services. The epoch names a room's history, and the restored history is not the one that clients know. They load the room anew, and push again those of their own operations that it lacks.

Example:

    canopy room new-epoch --all --database-url 'postgres://canopy@/canopy?host=/var/run/postgresql'`
}

// newEpoch is a room's epoch from now on.
type newEpoch struct {
	Room  string `json:"room"`
	Epoch string `json:"epoch"`
}

func (c *roomNewEpochCmd) Run(ctx context.Context, env *Env) error {
	if c.All == (len(c.Rooms) > 0) {
		return usagef("no rooms given: name them, or use --all")
	}
	for _, room := range c.Rooms {
		if err := checkRoom(room); err != nil {
			return err
		}
	}
	db, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	if c.All {
		rooms, err := db.Rooms(ctx)
		if err != nil {
			return err
		}
		for _, room := range rooms {
			c.Rooms = append(c.Rooms, room.Name)
		}
	}
	for _, room := range c.Rooms {
		epoch, err := db.NewEpoch(ctx, room)
		if err != nil {
			return fmt.Errorf("room %s: %w", room, err)
		}
		err = c.print(env, newEpoch{room, epoch}, func() { fmt.Fprintf(env.Stdout, "%s %s\n", room, epoch) })
		if err != nil {
			return err
		}
	}
	return nil
}
