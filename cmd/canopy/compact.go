package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/pgfuncs"
)

type retentionFlag struct {
	Retention      time.Duration `default:"720h" envar:"CANOPY_RETENTION" help:"Age up to which compaction keeps operations in the logs; 720h (30 days) by default."`
	TrashRetention time.Duration `default:"0s" envar:"CANOPY_TRASH_RETENTION" help:"How long deleted nodes stay in Trash before they are purged, at least --retention; 0s, the default, keeps them for ever."`
}

func (f retentionFlag) check() error {
	if f.Retention <= 0 || f.TrashRetention < 0 {
		return usagef("--retention must be positive, and --trash-retention not negative")
	}
	if f.TrashRetention > 0 && f.TrashRetention < f.Retention { // what is left of the log keeps its nodes
		return usagef("--trash-retention %s is shorter than --retention %s", f.TrashRetention, f.Retention)
	}
	return nil
}

type compactCmd struct {
	Rooms  []string `arg:"" optional:"" name:"room" help:"Rooms to compact."`
	All    bool     `help:"Compact all rooms."`
	DryRun bool     `help:"Only count the operations older than the retention; some of them will have to stay."`
	retentionFlag
	databaseFlag
	jsonFlag
}

// Help is the command's long help.
func (*compactCmd) Help() string {
	return `Removes operations that are older than the retention and no longer needed from a room's log; the tree stays as it is. Clients that were away for longer than the log goes back load the room anew, and offline edits from before that time get new timestamps: nothing is lost.

With --trash-retention, nodes that were deleted longer ago are purged, unless something in them is newer than the start of the log: only their ids stay. A client that still has such a node cannot bring it back: the server refuses the operation, and the client puts it into quarantine.

Compaction works in many short transactions while the services run, and may be interrupted at any time. If a room's horizon stays behind, it waits for an operation that would be needed to correct an old delete; the rest was compacted.

Example:

    canopy compact --all --retention 2160h --database-url 'postgres://canopy@/canopy?host=/var/run/postgresql'`
}

// compacted is what became of one room.
type compacted struct {
	Room    string           `json:"room"`
	Horizon moveop.Timestamp `json:"horizon"`
	Folded  int64            `json:"folded"`
	Purged  int64            `json:"purged"`
	DryRun  bool             `json:"dry_run,omitempty"` // folded is the most that it could be
}

func (c *compactCmd) Run(ctx context.Context, env *Env) error {
	if c.All == (len(c.Rooms) > 0) {
		return usagef("no rooms given: name them, or use --all")
	}
	if err := c.check(); err != nil {
		return err
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
	horizon, err := db.Horizon(ctx, c.Retention)
	if err != nil {
		return err
	}
	if c.All {
		if c.Rooms, err = db.CompactableRooms(ctx, horizon); err != nil {
			return err
		}
	}
	return c.compact(ctx, env, db, horizon)
}

// compact continues with the other rooms if one fails, but not if the database does.
func (c *compactCmd) compact(ctx context.Context, env *Env, db *pgfuncs.DB, horizon moveop.Timestamp) error {
	var failed []error
	w := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
	if !c.JSON {
		fmt.Fprintln(w, "ROOM\tFOLDED\tPURGED\tHORIZON")
	}
	for _, room := range c.Rooms {
		done, err := c.room(ctx, env, db, room, horizon)
		if err != nil {
			failed = append(failed, fmt.Errorf("room %s: %w", room, err))
			if ctx.Err() != nil || pgfuncs.SafeToRetry(err) {
				break
			}
			continue
		}
		err = c.print(env, done, func() { fmt.Fprintf(w, "%s\t%d\t%d\t%s\n", room, done.Folded, done.Purged, horizonText(done.Horizon)) })
		if err != nil {
			return err
		}
	}
	return errors.Join(append(failed, w.Flush())...)
}

func (c *compactCmd) room(ctx context.Context, env *Env, db *pgfuncs.DB, room string, horizon moveop.Timestamp) (done compacted, err error) {
	done = compacted{Room: room, Horizon: horizon, DryRun: c.DryRun}
	if c.DryRun {
		done.Folded, err = db.Foldable(ctx, room, horizon)
		return done, err
	}
	bar := newProgress(env, -1, room, false)
	defer bar.end()
	result, err := db.Compact(ctx, room, horizon, func(c pgfuncs.Compacted) { bar.set(c.Folded, -1) })
	done.Horizon, done.Folded = result.Horizon, result.Folded
	if err != nil || c.TrashRetention == 0 {
		return done, err
	}
	deleted, err := db.Horizon(ctx, c.TrashRetention)
	if err != nil {
		return done, err
	}
	done.Purged, err = db.Purge(ctx, room, deleted, func(purged int64) { bar.set(done.Folded+purged, -1) })
	return done, err
}

func horizonText(horizon moveop.Timestamp) string {
	if horizon.IsZero() {
		return "none"
	}
	return horizon.Time().UTC().Format("2006-01-02 15:04:05 UTC")
}
