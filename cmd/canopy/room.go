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
	Stats roomStatsCmd `cmd:"" help:"Count what is in a room, exactly."`

	Set      roomSetCmd      `cmd:"" help:"Choose what makes up for deletes in a room."`
	NewEpoch roomNewEpochCmd `cmd:"" help:"Tell clients that a room was restored from a backup."`
}

type roomListCmd struct {
	databaseFlag
	jsonFlag
}

// Help is the command's long help.
func (*roomListCmd) Help() string {
	return `The services show nobody which rooms there are, so this asks the database. For canopy dev it is the URL that it prints.

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
	DatabaseURL string `envar:"CANOPY_DATABASE_URL" placeholder:"URL" help:"Ask this database instead of the realtime service; connections are 0 then."`
	realtimeFlag
	tokenFlag
	jsonFlag
}

// Help is the command's long help.
func (*roomStatsCmd) Help() string {
	return `Asks the database where one is given, else the realtime service. It walks the whole room.

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
	RestoreOn string `required:"" enum:"move+set,move,never" placeholder:"POLICY" help:"What of others below a deleted node brings it back: move+set, move or never."`
	Create    bool   `help:"Make the room if it is not there; otherwise its first push does, with move+set."`
	databaseFlag
	jsonFlag
}

// Help is the command's long help.
func (*roomSetCmd) Help() string {
	return `Where somebody deletes a node, not knowing what somebody else is doing in it at the same time, the server moves the node back to where it was. The room's policy says for the sake of what:

    move+set   a node put below it, or itself moved, or a property set: the default
    move       a node put below it, or itself moved; a property that was set does not count
    never      nothing: what is deleted stays deleted

It holds for what is pushed from then on, also by clients that are connected, which notice nothing of the change itself. What was moved back stays where it is.

It takes the role that owns the schema: those of the services may not do it.

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
		err = fmt.Errorf("%w: its first push makes it, or --create", err)
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
	All   bool     `help:"All rooms of the database."`
	databaseFlag
	jsonFlag
}

// Help is the command's long help.
func (*roomNewEpochCmd) Help() string {
	return `To be called once after a database was restored, before the services are started: the epoch names a room's history, and the one that was restored is another than the one that clients know. They load the room anew, and push again what it lacks of what they themselves had done.

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
		return usagef("which rooms? name them, or give --all")
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
