package client_test

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// mirror is a picture of a replica that is kept by its events, and read again only when told to.
type mirror struct {
	t       *testing.T
	db      *sql.DB // the file, to read all of it, also what is not reachable
	events  <-chan client.Event
	version int64
	places  map[moveop.NodeID]client.Place
	values  map[string]string // by node and key
	rereads int
	kinds   map[client.ChangeKind]int
	// anonymous allows for changes that nobody is named for.
	anonymous bool
}

func newMirror(t *testing.T, c *client.Client, path string) *mirror {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	m := &mirror{t: t, db: db, events: c.Watch(t.Context()), kinds: map[client.ChangeKind]int{}}
	m.version, m.places, m.values = m.read()
	return m
}

// read reads the whole state with its version.
func (m *mirror) read() (version int64, places map[moveop.NodeID]client.Place, values map[string]string) {
	m.t.Helper()
	tx, err := m.db.BeginTx(context.Background(), &sql.TxOptions{ReadOnly: true})
	if err != nil {
		m.t.Fatal(err)
	}
	defer tx.Rollback()
	if err := tx.QueryRow("SELECT version FROM meta").Scan(&version); err != nil {
		m.t.Fatal(err)
	}
	places, values = map[moveop.NodeID]client.Place{}, map[string]string{}
	m.each(tx, "SELECT node, parent, order_key FROM nodes", func(node, parent []byte, text string) {
		places[moveop.NodeID(node)] = client.Place{Parent: moveop.NodeID(parent), OrderKey: text}
	})
	m.each(tx, "SELECT node, CAST(key AS BLOB), value FROM vals WHERE value <> 'null'", func(node, key []byte, text string) {
		values[fmt.Sprint(moveop.NodeID(node), string(key))] = text
	})
	return version, places, values
}

func (m *mirror) each(tx *sql.Tx, query string, fn func(a, b []byte, text string)) {
	m.t.Helper()
	rows, err := tx.Query(query)
	if err != nil {
		m.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var a, b []byte
		var text string
		if err := rows.Scan(&a, &b, &text); err != nil {
			m.t.Fatal(err)
		}
		fn(a, b, text)
	}
}

// follow takes in the events so far.
func (m *mirror) follow() {
	m.t.Helper()
	for {
		select {
		case e, open := <-m.events:
			if !open {
				return
			}
			m.take(e)
		default:
			return
		}
	}
}

func (m *mirror) take(e client.Event) {
	m.t.Helper()
	if e.Version <= m.version { // it was in what was read
		return
	}
	if e.Reread {
		m.rereads++
		m.version, m.places, m.values = m.read()
		return
	}
	m.version = e.Version
	for _, change := range e.Changes {
		kind := change.Kind()
		m.kinds[kind]++
		if kind != "" {
			if m.places[change.Node] != change.From {
				m.t.Errorf("%s was at %v, the event says %v", change.Node, m.places[change.Node], change.From)
			}
			m.places[change.Node] = change.To
		}
		if kind == client.Removed {
			delete(m.places, change.Node)
		} else if kind != "" && change.By == 0 && !m.anonymous {
			m.t.Errorf("nobody made %+v", change)
		}
		for _, w := range change.Values {
			name := fmt.Sprint(change.Node, w.Key)
			if m.values[name] = string(w.Value); w.Value == nil {
				delete(m.values, name)
			}
		}
	}
}

// check compares the mirror with the file.
func (m *mirror) check() {
	m.t.Helper()
	m.follow()
	version, places, values := m.read()
	if version != m.version || !maps.Equal(places, m.places) || !maps.Equal(values, m.values) {
		m.t.Errorf("at version %d the mirror has %d nodes and %d values, at version %d the file has %d and %d",
			m.version, len(m.places), len(m.values), version, len(places), len(values))
	}
}

// A picture kept by events alone is the file's, through edits, undo, what others do, corrections, lost
// connections, operations stamped anew, snapshots and readers that fall behind.
func TestMirror(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64() >> 1
	if text := os.Getenv("CANOPY_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("CANOPY_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s := newServer(t)
	var clients []*client.Client
	var paths []string
	for range 3 {
		path := filepath.Join(t.TempDir(), "replica")
		opts := s.options()
		opts.Synchronous = client.SynchronousNormal
		clients, paths = append(clients, open(t, path, opts)), append(paths, path)
	}
	// With something applied nobody is sent to a snapshot whose nodes, fetched ahead, are by nobody.
	edit(t, clients[0], func(tx *client.Tx) error { return tx.Set(moveop.Root, "n", 0) })
	s.synced(t, clients...)
	var mirrors []*mirror
	for i, c := range clients {
		mirrors = append(mirrors, newMirror(t, c, paths[i]))
	}
	for range 400 {
		i := random.IntN(len(clients))
		s.disturb(clients[i], mirrors[i], random)
	}
	s.hook(func(h *hooks) { *h = hooks{} })
	s.synced(t, clients...)
	kinds := map[client.ChangeKind]int{}
	for i, m := range mirrors {
		if err := clients[i].WaitSynced(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.check()
		for kind, n := range m.kinds {
			kinds[kind] += n
		}
	}
	t.Logf("%d rereads, changes %v", mirrors[0].rereads+mirrors[1].rereads+mirrors[2].rereads, kinds)
	for _, kind := range []client.ChangeKind{client.Created, client.Moved, client.Reordered, client.Deleted, client.Restored, ""} {
		if kinds[kind] == 0 {
			t.Errorf("nothing was %q", kind)
		}
	}
}

// disturb does one of the things that can happen.
func (s *server) disturb(c *client.Client, m *mirror, random *rand.Rand) {
	s.t.Helper()
	switch random.IntN(16) {
	case 0:
		s.hangUp()
	case 1: // stamped anew
		s.hook(func(h *hooks) { h.push = s.refuseOnce(wire.CodeTooOld) })
	case 2: // a snapshot
		s.mu.Lock()
		for p := range s.peers {
			if p.replica == c.Replica() {
				p.send(wire.Resync{Reason: wire.ResyncCompacted, Epoch: s.epoch, Head: int64(len(s.log()))})
			}
		}
		s.mu.Unlock()
	case 3: // a new replica id
		s.hook(func(h *hooks) { h.push = s.refuseOnce(wire.CodeOutOfOrder) })
	case 4: // a reader that falls behind
		for range 70 {
			edit(s.t, c, func(tx *client.Tx) error { return tx.Set(moveop.Root, "n", random.Uint64()) })
		}
	case 5, 6:
		do := []func(context.Context) (client.Undone, error){c.Undo, c.Redo}[random.IntN(2)]
		if _, err := do(context.Background()); err != nil {
			s.t.Error(err)
		}
	case 7, 8:
		m.follow()
	case 9:
		edit(s.t, c, func(tx *client.Tx) error {
			first, err := tx.Children(moveop.Root, client.Cursor{}, 1)
			if err != nil || len(first) == 0 {
				return err
			}
			return tx.Reorder(first[0].ID, client.Last)
		})
	default:
		edit(s.t, c, func(tx *client.Tx) error { return randomEdit(tx, random) })
	}
}

// refuseOnce refuses the next push.
func (s *server) refuseOnce(code wire.Code) func(p *peer, m wire.Push) bool {
	return func(p *peer, m wire.Push) bool {
		s.hooks.push = nil
		p.nack(m.ID, wire.OpError(code, m.Ops[0].TS, "once"))
		return true
	}
}

// A correction is an event like any, and says what it is.
func TestWatchCorrection(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	c := s.join(t)
	n := create(t, c, moveop.Root, client.Last, "n")
	s.synced(t, c)
	events := c.Watch(t.Context())
	edit(t, c, func(tx *client.Tx) error { return tx.Delete(n) })
	if change := (<-events).Changes[0]; change.Kind() != client.Deleted || change.Corrected {
		t.Errorf("deleted: %+v", change)
	}
	s.synced(t, c)
	op := moveop.Op{
		Kind: moveop.Set, TS: moveop.NewTimestamp(time.Now().UnixMilli(), 0, 7), Node: n, Key: "title", Value: []byte(`"seen"`),
		Known: 2,
	}
	if err := s.apply(op); err != nil {
		t.Fatal(err)
	}
	var values, corrections int
	for corrections == 0 {
		for _, change := range (<-events).Changes {
			for _, w := range change.Values {
				if w.By == 7 && string(w.Value) == `"seen"` {
					values++
				}
			}
			if change.Corrected && change.Kind() == client.Restored && change.By == c.Replica() {
				corrections++
			}
		}
	}
	if values != 1 {
		t.Errorf("%d writes by the other", values)
	}
}
