package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/canopysync/canopy/bootstrap"
	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// Client measures package client as an application has it, in rooms of Config.Nodes nodes, with both
// services in this process and no spool: each snapshot is taken from the database.
func Client(ctx context.Context, cfg Config) (Section, error) {
	return withService(ctx, cfg, "client", measureClient)
}

// clients are the replicas that are measured, and the rooms that they are of.
type clients struct {
	*service
	c         *Config
	bootstrap string   // URL
	room      *sqlRoom // of Config.Nodes nodes
	dir       string
	files     int
	open      *client.Client // by join, until the next one
}

func measureClient(ctx context.Context, c *Config, s *service) (results []Result, err error) {
	b := &clients{service: s, c: c}
	if b.dir, err = os.MkdirTemp(c.Dir, "canopy-bench-"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.leave(), os.RemoveAll(b.dir)) }()
	if b.room, err = s.newRoom(ctx, c, eighths, c.Nodes); err != nil {
		return nil, err
	}
	if err := s.settle(ctx); err != nil {
		return nil, err
	}
	stop, err := b.serveBootstrap(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	for _, measure := range []func(context.Context) ([]Result, error){
		b.snapshots, b.loads, b.firstScreen, b.edits, b.siblings, b.memory, b.reconnects,
	} {
		more, err := measure(ctx)
		if err != nil {
			return nil, err
		}
		results = append(results, more...)
	}
	return results, nil
}

// serveBootstrap starts the bootstrap service.
func (b *clients) serveBootstrap(ctx context.Context) (stop func() error, err error) {
	server, err := bootstrap.New(bootstrap.Config{Source: b.db})
	if err != nil {
		return nil, err
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start service: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, ln) }()
	b.bootstrap = "http://" + ln.Addr().String()
	return func() error {
		cancel()
		return <-served
	}, nil
}

// file names a file that is not there yet.
func (b *clients) file() string {
	b.files++
	return filepath.Join(b.dir, fmt.Sprintf("replica-%d", b.files))
}

// join opens a file of the room, with both services.
func (b *clients) join(ctx context.Context, path string) (err error) {
	b.open, err = client.Open(ctx, path, client.Options{
		Room: b.room.name, RealtimeURL: b.url, BootstrapURL: b.bootstrap, FlushTimeout: -1,
	})
	return err
}

// leave closes what join has opened.
func (b *clients) leave() error {
	if b.open == nil {
		return nil
	}
	err := b.open.Close()
	b.open = nil
	return err
}

// replica returns a file with the whole room in it, not open.
func (b *clients) replica(ctx context.Context) (path string, err error) {
	path = b.file()
	if err := b.join(ctx, path); err != nil {
		return "", err
	}
	err = b.open.WaitSynced(ctx)
	return path, errors.Join(err, b.leave())
}

// removeReplica removes a file that is not open, if it is there, with what is beside it.
func removeReplica(path string) error {
	for _, suffix := range []string{"", "-wal", "-shm", "-lock"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// loads brings the room from the service into a new file, ready to be used.
func (b *clients) loads(ctx context.Context) ([]Result, error) {
	path, plain := b.file(), b.file()
	contenders := []contender{{
		ops:     1,
		prepare: func() error { return errors.Join(b.leave(), removeReplica(path)) },
		run: func() error {
			if err := b.join(ctx, path); err != nil {
				return err
			}
			return b.open.WaitSynced(ctx)
		},
	}}
	for _, indexed := range []bool{true, false} {
		contenders = append(contenders, contender{
			ops:     1,
			prepare: func() error { return errors.Join(b.leave(), removeReplica(plain)) },
			run:     func() error { return insertSorted(ctx, plain, b.c.Nodes, indexed) },
		})
	}
	name := fmt.Sprintf("from nothing to a replica that is ready, %s nodes", count(b.c.Nodes))
	medians, rounds, err := b.c.race(ctx, name, contenders...)
	if err != nil {
		return nil, err
	}
	const rows = "the same rows inserted in order, "
	return []Result{
		comparison(name, rows+"and the same indexes", 1.5, []float64{medians[1], medians[0]}, rounds),
		comparison(name, rows+"without indexes", 0, []float64{medians[2], medians[0]}, rounds),
	}, errors.Join(b.leave(), removeReplica(path), removeReplica(plain))
}

// firstScreen is the time until a new client has children of Root to show.
func (b *clients) firstScreen(ctx context.Context) ([]Result, error) {
	path := b.file()
	name := fmt.Sprintf("the first children of Root in a new replica, %s nodes", count(b.c.Nodes))
	medians, rounds, err := b.c.race(ctx, name, contender{
		ops:     1,
		prepare: func() error { return errors.Join(b.leave(), removeReplica(path)) },
		run: func() error {
			if err := b.join(ctx, path); err != nil {
				return err
			}
			return awaitChildren(ctx, b.open)
		},
	})
	if err != nil {
		return nil, err
	}
	return []Result{absolute(name, nanoseconds, 300e6, medians[0], rounds)}, errors.Join(b.leave(), removeReplica(path))
}

func awaitChildren(ctx context.Context, c *client.Client) error {
	for {
		nodes, err := c.Children(ctx, moveop.Root, client.Cursor{}, 100)
		if err != nil || len(nodes) > 0 {
			return err
		}
		if err := sleepUntil(ctx, time.Now().Add(time.Millisecond)); err != nil {
			return err
		}
	}
}

// edits moves leaves in a large file and in a small one, durably.
func (b *clients) edits(ctx context.Context) ([]Result, error) {
	large, err := b.replica(ctx)
	if err != nil {
		return nil, err
	}
	all := b.room
	if b.room, err = b.newRoom(ctx, b.c, eighths, roomNodes); err != nil {
		return nil, err
	}
	small, err := b.replica(ctx)
	if err != nil {
		return nil, err
	}
	contenders := make([]contender, 2)
	for i, of := range []struct {
		path  string
		nodes int
	}{{small, b.room.nodes}, {large, all.nodes}} {
		c, err := client.Open(ctx, of.path, client.Options{})
		if err != nil {
			return nil, err
		}
		defer c.Close()
		rng := newAuthor(eighths).rng
		contenders[i] = contender{ops: sqliteEdits, run: func() error {
			return repeat(sqliteEdits, func() error {
				return c.Edit(ctx, func(tx *client.Tx) error {
					leaf := of.nodes/2 + rng.IntN(of.nodes/2)
					return tx.Move(nodeID(leaf), nodeID(rng.IntN(of.nodes/8)), client.Last)
				})
			})
		}}
	}
	b.room = all
	name := fmt.Sprintf("a local edit, durable: a move, %s nodes", count(all.nodes))
	medians, rounds, err := b.c.race(ctx, name, contenders...)
	if err != nil {
		return nil, err
	}
	return []Result{comparison(name, fmt.Sprintf("the same with %s nodes", count(roomNodes)), 1.5, medians, rounds)}, nil
}

const (
	pageSize     = 100
	pagesARound  = 20
	siblingsARun = 10_000
)

// siblings reads pages anywhere among the children of one node, in a replica that was made offline.
func (b *clients) siblings(ctx context.Context) (results []Result, err error) {
	c, err := client.Open(ctx, b.file(), client.Options{Room: "flat", Synchronous: client.SynchronousNormal, UndoLimit: -1})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	nodes, err := b.makeSiblings(ctx, c)
	if err != nil {
		return nil, err
	}
	rng := newAuthor(flat).rng
	name := fmt.Sprintf("a page of %d among %s children of one node, anywhere", pageSize, count(len(nodes)))
	medians, rounds, err := b.c.race(ctx, name, contender{ops: pagesARound, run: func() error {
		return repeat(pagesARound, func() error {
			at, err := c.Node(ctx, nodes[rng.IntN(len(nodes)-pageSize)])
			if err != nil {
				return err
			}
			page, err := c.Children(ctx, moveop.Root, at.Cursor(), pageSize)
			if err == nil && len(page) != pageSize {
				err = fmt.Errorf("a page of %d children", len(page))
			}
			return err
		})
	}})
	if err != nil {
		return nil, err
	}
	return []Result{absolute(name, nanoseconds, 2e6, medians[0], rounds)}, nil
}

func (b *clients) makeSiblings(ctx context.Context, c *client.Client) (nodes []moveop.NodeID, err error) {
	b.c.Progress.Start(fmt.Sprintf("%s siblings", count(b.c.Nodes)), int64(b.c.Nodes))
	defer b.c.Progress.End()
	for len(nodes) < b.c.Nodes {
		n := min(siblingsARun, b.c.Nodes-len(nodes))
		err := c.Edit(ctx, func(tx *client.Tx) error {
			run, err := tx.CreateRun(moveop.Root, client.Last, n)
			nodes = append(nodes, run...)
			return err
		})
		if err != nil {
			return nil, err
		}
		b.c.Progress.Add(int64(n))
	}
	return nodes, nil
}

// reconnects opens a replica that has missed a hundredth of the room's operations. It cannot load the
// room anew: it is not told of the bootstrap service.
func (b *clients) reconnects(ctx context.Context) ([]Result, error) {
	path, err := b.replica(ctx)
	if err != nil {
		return nil, err
	}
	missed := max(b.c.Nodes/100, 1)
	crowd, err := b.writers(ctx)
	if err != nil {
		return nil, err
	}
	service := b.bootstrap
	b.bootstrap = ""
	defer func() { b.bootstrap = service }()
	var room wire.Room
	name := fmt.Sprintf("an old replica opened, connected and in step after missing %s operations, %s nodes", count(missed), count(b.c.Nodes))
	medians, rounds, err := b.c.race(ctx, name, contender{
		ops: 1,
		prepare: func() error {
			if err := b.leave(); err != nil {
				return err
			}
			if _, err := b.drive(drive{Crowd: crowd, Writers: writersBeside, Ops: missed}); err != nil {
				return err
			}
			room, err = b.db.Room(ctx, b.room.name)
			return err
		},
		run: func() error {
			if err := b.join(ctx, path); err != nil {
				return err
			}
			err := b.open.WaitSynced(ctx)
			if got := b.open.Digest().Ops; err == nil && got != room.Head {
				err = fmt.Errorf("in step with %d operations of %d", got, room.Head)
			}
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	result := absolute(name, nanoseconds, 1e9, medians[0], rounds)
	return []Result{result}, errors.Join(b.leave(), b.service.leave(crowd))
}

// writersBeside is how many write while the replica is away.
const writersBeside = 20

// writers has sockets join the room.
func (b *clients) writers(ctx context.Context) (crowd int, err error) {
	room, err := b.db.Room(ctx, b.room.name)
	if err != nil {
		return 0, err
	}
	return b.service.join(join{
		URL: b.url, Rooms: []wire.Room{room}, Sockets: writersBeside, Nodes: b.room.nodes, Tick: b.room.tick,
	})
}

// memory is what a process takes that has the room open.
func (b *clients) memory(context.Context) ([]Result, error) {
	name := fmt.Sprintf("resident memory of a process with a replica of %s nodes ", count(b.c.Nodes))
	b.c.Progress.Start(name, 1)
	defer b.c.Progress.End()
	a, err := b.ask(order{Visit: &visit{
		Realtime: b.url, Bootstrap: b.bootstrap, Room: b.room.name, Path: b.file(), Nodes: b.room.nodes,
	}})
	if err != nil {
		return nil, err
	}
	const most = 100e6
	return []Result{
		absolute(name+"open, after 1,000 pages and 100 edits", "B", most, a.Memory.Open, 1),
		absolute(name+"at most, from loading it on", "B", most, a.Memory.Most, 1),
	}, nil
}
