package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/canopysync/canopy/client"
)

type doctorCmd struct {
	File    string `arg:"" help:"Replica file of an application that embeds the client."`
	Compare bool   `help:"Also compare it with the services, once it is in step with them."`
	Repair  bool   `help:"Correct faults from the services' state. No pending operation is lost."`
	Salvage string `placeholder:"NEW" help:"Write only the pending operations to a new replica file: for a file that cannot be repaired."`
	syncFlags
	jsonFlag
}

// Help is the command's long help.
func (*doctorCmd) Help() string {
	return `Examines the whole file: its pages, its digests, the tree, the log and the outbox. Only --compare and --repair need services: they sync the replica as its application would, which pushes pending operations. Opening a file of an older version of the client upgrades it, as always. The application may be running, on the same machine.

The exit code is 0 for a sound file and 5 for any other; with --repair, for the file after it.

Examples:

    canopy doctor ~/.local/share/notes/replica
    canopy doctor replica --compare --json
    canopy doctor replica --repair`
}

var errUnsound = errors.New("the replica is not sound")

// examined is what doctor prints with --json, for sound files and others.
type examined struct {
	OK       bool      `json:"ok"`
	Room     string    `json:"room"`
	Seq      int64     `json:"seq"`
	Ops      int64     `json:"ops"`
	Pending  int64     `json:"pending"`
	Compared bool      `json:"compared"` // with the server, at this seq
	Findings []finding `json:"findings"`
}

type finding struct {
	Check  client.Check `json:"check"`
	Detail string       `json:"detail"`
}

func (c *doctorCmd) Run(ctx context.Context, env *Env) error {
	if _, err := os.Stat(c.File); err != nil {
		return err // opening it would make one
	}
	room, err := c.offline(ctx, env)
	if err != nil || !c.Compare && !c.Repair {
		return err
	}
	return c.online(ctx, env, room)
}

// offline examines only the file, and reports the result unless the services will be asked too.
func (c *doctorCmd) offline(ctx context.Context, env *Env) (room string, err error) {
	r, err := client.Open(ctx, c.File, client.Options{})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if c.Salvage != "" {
		if err := r.Salvage(ctx, c.Salvage); err != nil {
			return "", err
		}
	}
	if c.Compare || c.Repair {
		return r.Room(), nil
	}
	return r.Room(), c.examine(ctx, env, r)
}

// online repairs the file if requested, and then examines it together with the services.
func (c *doctorCmd) online(ctx context.Context, env *Env, room string) (err error) {
	r, err := c.open(ctx, room, c.File)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	what, do := "syncing", r.WaitSynced
	if c.Repair {
		what, do = "repairing", r.Repair // which may be what it takes to sync
	}
	bar := newProgress(env, -1, what, false)
	err = r.patiently(ctx, do, func(client.Status) {})
	bar.end()
	if err != nil {
		return err
	}
	examine := func(ctx context.Context) error { return c.examine(ctx, env, r.Client) } // in comparing it syncs
	return r.patiently(ctx, examine, func(client.Status) {})
}

func (c *doctorCmd) examine(ctx context.Context, env *Env, r *client.Client) error {
	d, err := r.Doctor(ctx)
	if err != nil {
		return err
	}
	e := examined{
		OK: len(d.Findings) == 0, Room: r.Room(), Seq: d.Seq, Ops: d.Digest.Ops, Pending: r.Pending(),
		Compared: d.Compared, Findings: []finding{},
	}
	for _, f := range d.Findings {
		e.Findings = append(e.Findings, finding(f))
	}
	if err := c.print(env, e, func() { c.show(env, e) }); err != nil {
		return err
	}
	if !e.OK {
		return fmt.Errorf("%s: %w: see --repair and --salvage", c.File, errUnsound)
	}
	return nil
}

func (c *doctorCmd) show(env *Env, e examined) {
	for _, f := range e.Findings {
		fmt.Fprintf(env.Stdout, "%s: %s\n", f.Check, f.Detail)
	}
	if !e.OK {
		return
	}
	same := ""
	if e.Compared {
		same = ", the same as the server's"
	}
	fmt.Fprintf(env.Stdout, "%s: sound replica of room %s at seq %d%s; %d operations, %d waiting to be pushed\n",
		c.File, e.Room, e.Seq, same, e.Ops, e.Pending)
}
