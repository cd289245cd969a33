package client

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/canopysync/canopy/moveop"
)

// Export writes a consistent copy of the file to path, which must not exist, while the replica stays in
// use. The copy is a replica in its own right, with its own id, the same cursor, the same pending
// operations and the same undo history: open it, here or elsewhere, to go on from it. Operations pending
// in both reach the server from whichever pushes first. If the other has not learnt of that when it
// pushes, it repeats the edits, which changes nothing unless somebody has moved or edited the same nodes
// in between.
//
// A copy of a closed replica's file that was made by other means works too: the first of the two that
// meets the other's operations on the server takes a new id.
func (c *Client) Export(ctx context.Context, path string) error {
	err := c.writeNew(ctx, path, func(s *session, draft string) error {
		replica, err := c.newReplica(ctx)
		if err != nil {
			return err
		}
		return copyReplica(ctx, c.store.file.path, draft, replica)
	})
	if err != nil {
		return fmt.Errorf("export replica: %w", err)
	}
	return nil
}

// Fork writes a new replica file to path, which must not exist, for a new room that starts with the
// current content of this one: Trash, pending and refused operations included, but no history. Nodes keep
// their ids. Open the file with services to create the room there. Fork needs no network; use it when the
// room, or the right to it, is lost. The error is ErrPartial while not all of the room is here.
func (c *Client) Fork(ctx context.Context, path, room string) error {
	err := Options{Room: room, Synchronous: SynchronousFull}.check()
	if err == nil && room == "" {
		err = errors.New("a room needs a name")
	}
	if err == nil && c.store.meta.Load().partial {
		err = ErrPartial
	}
	if err == nil {
		err = c.writeNew(ctx, path, func(s *session, draft string) error { return c.fork(ctx, s, draft, room) })
	}
	if err != nil {
		return fmt.Errorf("fork room: %w", err)
	}
	return nil
}

// Salvage writes a new replica file for the same room to path, which must not exist, that holds only the
// pending operations, refused ones included. Opened with services, it loads the room and applies them on
// top. Use it when the file is too damaged for Repair but the outbox can still be read. From then on use
// only one of the two files.
func (c *Client) Salvage(ctx context.Context, path string) error {
	err := c.writeNew(ctx, path, func(s *session, draft string) error { return c.salvage(ctx, s, draft) })
	if err != nil {
		return fmt.Errorf("salvage pending operations: %w", err)
	}
	return nil
}

// salvage leaves the operations the timestamps that they have: what the server got of them without
// our knowing comes back before the others are pushed, see rename.
func (c *Client) salvage(ctx context.Context, s *session, draft string) (err error) {
	all, err := s.outbox()
	if err != nil {
		return err
	}
	replica, err := c.newReplica(ctx)
	if err != nil {
		return err
	}
	m := c.store.meta.Load()
	t := &txn{meta: meta{room: m.room, replica: replica, offset: m.offset, issued: m.issued, accepted: m.accepted, version: 1}}
	if err := writeDraft(draft, t.meta); err != nil {
		return err
	}
	if t.session, err = openSession(draft, "journal_mode(off)", "synchronous(off)"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	if err := t.script("BEGIN"); err != nil {
		return err
	}
	if err := t.enqueue(all); err != nil {
		return err
	}
	if err := t.own(m.replica); err != nil {
		return err
	}
	if err := t.meta.save(t.session); err != nil {
		return err
	}
	return t.script("COMMIT", "PRAGMA journal_mode = WAL")
}

// enqueue puts operations into the outbox and the log.
func (t *txn) enqueue(all []queued) error {
	ops := make([]moveop.Op, len(all))
	for i := range all {
		ops[i] = all[i].op
		if err := t.insertQueued(&all[i]); err != nil {
			return err
		}
		if err := t.own(ops[i].TS.Replica()); err != nil {
			return err
		}
	}
	if err := t.recountOutbox(); err != nil {
		return err
	}
	return t.add(ops)
}

// writeNew has write make a file, with a reader that keeps this one open meanwhile.
func (c *Client) writeNew(ctx context.Context, path string, write func(s *session, draft string) error) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
		}
		return err
	}
	return c.store.view(ctx, func(s *session) error {
		return createFile(path, func(draft string) error { return write(s, draft) })
	})
}

// newReplica draws an id.
func (c *Client) newReplica(ctx context.Context) (replica moveop.ReplicaID, err error) {
	err = c.store.exclusively(ctx, func(*session) error {
		replica, err = moveop.NewReplicaID(c.store.random)
		return err
	})
	return replica, err
}

// copyReplica copies a file that is in use, and makes the copy a replica of its own.
func copyReplica(ctx context.Context, path, draft string, replica moveop.ReplicaID) (err error) {
	source, err := openExisting(path, "busy_timeout(5000)")
	if err != nil {
		return err
	}
	_, err = source.conn.ExecContext(ctx, `VACUUM INTO ?`, draft)
	if err = errors.Join(storageError(err), source.close()); err != nil {
		return err
	}
	s, err := openSession(draft, "journal_mode(off)", "synchronous(off)")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	var m meta
	if err := m.load(s); err != nil {
		return err
	}
	m.replica = replica
	if err := m.save(s); err != nil {
		return err
	}
	if err := s.own(replica); err != nil {
		return err
	}
	if err := dropDrafts(s); err != nil {
		return err
	}
	return s.script("PRAGMA journal_mode = WAL")
}

// forker writes the current state into a new file, as operations that are all pending.
type forker struct {
	target  *session
	clock   *moveop.Clock
	meta    meta
	rows    []any // for the table at hand
	pending []any // for the outbox
}

var (
	forkVals   = newBulk("INSERT INTO vals (node, key, value, ts, seq, known) VALUES ", 6, "")
	forkOutbox = newBulk("INSERT INTO outbox (ts, kind, node, parent, order_key, key, value, known, edit) VALUES ", 9, "")
)

// forkRows is how many rows are gathered before they are written.
const forkRows = 4096

func (c *Client) fork(ctx context.Context, s *session, draft, room string) (err error) {
	replica, err := c.newReplica(ctx)
	if err != nil {
		return err
	}
	fresh := meta{room: room, replica: replica, offset: c.store.meta.Load().offset, version: 1}
	if err := writeDraft(draft, fresh); err != nil {
		return err
	}
	target, err := openSession(draft, "journal_mode(off)", "synchronous(off)")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.close()) }()
	f := &forker{target: target, meta: fresh, clock: moveop.NewClock(replica, moveop.Timestamp{}, c.store.now)}
	f.clock.SetOffset(fresh.offset)
	if err := target.script("BEGIN"); err != nil {
		return err
	}
	if err := f.run(ctx, s); err != nil {
		return err
	}
	if err := f.meta.save(target); err != nil {
		return err
	}
	return target.script("COMMIT", "PRAGMA journal_mode = WAL")
}

// run goes through the state. Whatever the order of the moves, none makes a cycle: they are those of a
// tree that has none.
func (f *forker) run(ctx context.Context, s *session) error {
	err := s.each(`SELECT node, parent, order_key FROM nodes ORDER BY node`, nil, func(rows *sql.Rows) error {
		op := moveop.Op{Kind: moveop.Move}
		if err := rows.Scan((*blob)(&op.Node), (*blob)(&op.Parent), &op.OrderKey); err != nil {
			return err
		}
		return f.add(ctx, &op)
	})
	if err == nil {
		err = f.flush(nodesBulk)
	}
	if err != nil {
		return err
	}
	err = s.each(`SELECT node, key, value FROM vals WHERE value <> 'null' ORDER BY node, key`, nil, func(rows *sql.Rows) error {
		op := moveop.Op{Kind: moveop.Set}
		var value string
		if err := rows.Scan((*blob)(&op.Node), &op.Key, &value); err != nil {
			return err
		}
		op.Value = []byte(value)
		return f.add(ctx, &op)
	})
	if err != nil {
		return err
	}
	return f.flush(forkVals)
}

// add makes an operation.
func (f *forker) add(ctx context.Context, op *moveop.Op) (err error) {
	if op.TS, err = f.clock.Next(); err != nil {
		return err
	}
	f.meta.issued = op.TS
	f.meta.pending++
	f.meta.digest.Ops++
	f.meta.digest.Log ^= op.LogHash()
	table, parent, orderKey, key, value := forkVals, any(nil), any(nil), any(nil), any(nil)
	if op.Kind == moveop.Move {
		table, parent, orderKey = nodesBulk, op.Parent[:], op.OrderKey
		f.meta.newest = op.TS
		f.meta.digest.State ^= moveop.PlacementHash(op.Node, op.Parent, op.OrderKey)
		f.rows = append(f.rows, op.Node[:], parent, orderKey, op.TS[:], 0, 0, nil)
	} else {
		key, value = op.Key, string(op.Value)
		f.meta.digest.State ^= moveop.ValueHash(op.Node, op.Key, op.TS)
		f.rows = append(f.rows, op.Node[:], key, value, op.TS[:], 0, 0)
	}
	f.pending = append(f.pending, op.TS[:], int(op.Kind), op.Node[:], parent, orderKey, key, value, 0, f.meta.version)
	if len(f.rows) < forkRows*table.columns {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return f.flush(table)
}

// flush writes what was gathered.
func (f *forker) flush(table *bulk) error {
	rows, pending := f.rows, f.pending
	f.rows, f.pending = f.rows[:0], f.pending[:0]
	if err := f.target.execBulk(table, rows); err != nil {
		return err
	}
	return f.target.execBulk(forkOutbox, pending)
}
