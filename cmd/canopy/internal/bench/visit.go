package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"

	"github.com/canopysync/canopy/client"
)

// visit has the load process load a room into a new file and use it for a while.
type visit struct {
	Realtime, Bootstrap string
	Room, Path          string
	Nodes               int
}

// footprint is what a visit took of the load process's memory: resident at its end, and at most.
type footprint struct{ Open, Most float64 }

func (v *visit) run(ctx context.Context) (f footprint, err error) {
	c, err := client.Open(ctx, v.Path, client.Options{
		Room: v.Room, RealtimeURL: v.Realtime, BootstrapURL: v.Bootstrap, FlushTimeout: -1,
	})
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.WaitSynced(ctx); err != nil {
		return f, err
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		if _, err := c.Children(ctx, nodeID(rng.IntN(v.Nodes)), client.Cursor{}, pageSize); err != nil {
			return f, err
		}
	}
	for range 100 {
		err := c.Edit(ctx, func(tx *client.Tx) error { return tx.Set(nodeID(rng.IntN(v.Nodes)), "title", "something to remember") })
		if err != nil {
			return f, err
		}
	}
	return resident(), nil
}

// resident reads what Linux says of this process; elsewhere it is what Go's runtime has from the system,
// which leaves out SQLite's own memory.
func resident() footprint {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		m := memory()
		return footprint{m, m}
	}
	return footprint{kilobytes(status, "VmRSS"), kilobytes(status, "VmHWM")}
}

// kilobytes reads a line of the form "name: n kB", as bytes.
func kilobytes(status []byte, name string) float64 {
	for line := range bytes.Lines(status) {
		fields := bytes.Fields(line)
		if len(fields) < 2 || string(fields[0]) != name+":" {
			continue
		}
		if n, err := strconv.ParseFloat(string(fields[1]), 64); err == nil {
			return 1024 * n
		}
	}
	panic(fmt.Sprintf("bench: /proc/self/status has no %s", name))
}
