package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
	"github.com/canopysync/canopy/tree"
)

const (
	e2eRoom   = "go-src"
	e2eRounds = 10
	e2eEdits  = 120 // of each of the three in each round
	// e2eHot is the number of nodes that half of the edits are about, so that they meet.
	e2eHot = 40
	// e2eTimeout is for one step in which everybody catches up with everybody.
	e2eTimeout = 3 * time.Minute
)

// person edits the tree through one replica.
type person struct {
	*client.Client
	name  string
	path  string
	opts  client.Options
	cable *cable
	rng   *rand.Rand
	nodes []moveop.NodeID // that it may edit
	hot   []moveop.NodeID
}

func TestThreePeopleAndTheServerEndWithTheSameTree(t *testing.T) {
	seed := seedOf(t)
	w := setup(t)
	source := filepath.Join(goRoot(t), "src")
	dir := t.TempDir()

	step := stopwatch(t)

	// One imports, through the command; two bootstrap.
	annFile := filepath.Join(dir, "ann")
	var done imported
	parseJSON(t, w.must("import", e2eRoom, source, "--file", annFile, "--json"), &done)
	step("import")
	if done.Nodes <= 10_000 {
		t.Fatalf("imported %d nodes of %s, want more than 10,000", done.Nodes, source)
	}
	people := []*person{
		newPerson(t, w, "ann", annFile, rand.New(rand.NewPCG(seed, 1))),
		newPerson(t, w, "ben", filepath.Join(dir, "ben"), rand.New(rand.NewPCG(seed, 2))),
		newPerson(t, w, "cleo", filepath.Join(dir, "cleo"), rand.New(rand.NewPCG(seed, 3))),
	}
	t.Cleanup(func() {
		for _, p := range people {
			if err := p.Close(); err != nil {
				t.Errorf("%s: close: %v", p.name, err)
			}
		}
	})
	converge(t, people)
	nodes := idsOf(t, people[0])
	if int64(len(nodes)) != done.Nodes {
		t.Fatalf("%d nodes were imported, a replica has %d", done.Nodes, len(nodes))
	}
	for _, p := range people {
		p.nodes, p.hot = slices.Clone(nodes), nodes[:e2eHot]
	}

	step("bootstrap")
	everybodyEdits(t, people, rand.New(rand.NewPCG(seed, 4)))
	step("edits")
	converge(t, people)
	step("converge")
	memory := replay(t, w)
	compareDigests(t, w, people, memory)
	visible := compareTrees(t, w, people, memory)
	compareExports(t, w, visible, people[0].Digest())
	step("compare")
	reportFigures(t, memory, done)
}

// stopwatch logs how long each step took.
func stopwatch(t *testing.T) func(step string) {
	last := time.Now()
	return func(step string) {
		t.Logf("%-10s %s", step, time.Since(last).Round(time.Millisecond))
		last = time.Now()
	}
}

func newPerson(t *testing.T, w *world, name, path string, rng *rand.Rand) *person {
	t.Helper()
	p := &person{name: name, path: path, rng: rng}
	var realtimeURL string
	p.cable, realtimeURL = newCable(t, w.realtime)
	p.opts = client.Options{
		Room: e2eRoom, RealtimeURL: realtimeURL, BootstrapURL: w.bootstrap, Name: name,
		Synchronous: client.SynchronousNormal,
		RetryMin:    10 * time.Millisecond, RetryMax: 200 * time.Millisecond,
		HTTPClient: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
	}
	if err := p.open(t.Context()); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return p
}

func (p *person) open(ctx context.Context) (err error) {
	p.Client, err = client.Open(ctx, p.path, p.opts)
	return err
}

// everybodyEdits has all of them edit at once, with cables pulled and plugged and programs restarted
// in between and right in the middle.
func everybodyEdits(t *testing.T, people []*person, rng *rand.Rand) {
	for range e2eRounds {
		var group errgroup.Group
		for _, p := range people {
			switch rng.IntN(4) {
			case 0:
				p.cable.pull()
			case 1:
				if err := errors.Join(p.Close(), p.open(t.Context())); err != nil {
					t.Fatalf("%s: restart: %v", p.name, err)
				}
			default:
				p.cable.plug()
				p.Reconnect()
			}
			group.Go(func() error { return p.edits(t.Context(), e2eEdits) })
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
	}
}

// edits makes n random edits, and pulls the cable for a while now and then.
func (p *person) edits(ctx context.Context, n int) error {
	for range n {
		if err := p.Edit(ctx, p.edit); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		switch p.rng.IntN(100) {
		case 0:
			p.cable.pull()
		case 1:
			p.cable.plug()
			p.Reconnect()
		}
	}
	return nil
}

// edit makes one random edit. What cannot be done in the state that the replica happens to be in is
// left.
func (p *person) edit(tx *client.Tx) (err error) {
	node := p.pick()
	switch dice := p.rng.IntN(100); {
	case dice < 35:
		err = tx.Move(node, p.pick(), p.position())
	case dice < 45:
		err = tx.Reorder(node, p.position())
	case dice < 65:
		err = tx.Set(node, "name", fmt.Sprintf("%s-%d", p.name, p.rng.IntN(1000)))
	case dice < 70:
		err = tx.Set(node, "size", nil)
	case dice < 82:
		err = tx.Delete(node)
	case dice < 94:
		err = p.restore(tx)
	default:
		err = p.create(tx, node)
	}
	if errors.Is(err, client.ErrCycle) || errors.Is(err, client.ErrInsideDeleted) || errors.Is(err, client.ErrUnknownNode) {
		return nil
	}
	return err
}

func (p *person) pick() moveop.NodeID {
	if p.rng.IntN(2) == 0 {
		return p.hot[p.rng.IntN(len(p.hot))]
	}
	return p.nodes[p.rng.IntN(len(p.nodes))]
}

func (p *person) position() client.Position {
	if p.rng.IntN(2) == 0 {
		return client.First
	}
	return client.Last
}

func (p *person) restore(tx *client.Tx) error {
	deleted, err := tx.Children(moveop.Trash, client.Cursor{}, 50)
	if err != nil || len(deleted) == 0 {
		return err
	}
	return tx.Restore(deleted[p.rng.IntN(len(deleted))].ID)
}

func (p *person) create(tx *client.Tx, parent moveop.NodeID) error {
	id, err := tx.Create(parent, p.position())
	if err != nil {
		return err
	}
	p.nodes = append(p.nodes, id)
	return tx.Set(id, "name", "new by "+p.name)
}

// converge plugs everybody in and waits until nobody has anything that somebody else has not. The
// first wait ends with all outboxes empty, so the second one ends with all that was in them everywhere.
func converge(t *testing.T, people []*person) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), e2eTimeout)
	defer cancel()
	for range 2 {
		group, ctx := errgroup.WithContext(ctx)
		for _, p := range people {
			p.cable.plug()
			p.Reconnect()
			group.Go(func() error {
				if err := p.WaitSynced(ctx); err != nil {
					return fmt.Errorf("%s: %w (status %+v)", p.name, err, p.Status())
				}
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
	}
}

func compareDigests(t *testing.T, w *world, people []*person, memory *tree.Tree) {
	t.Helper()
	var stats wire.Stats
	parseJSON(t, w.must("room", "stats", e2eRoom, "--json"), &stats)
	for _, p := range people {
		s := p.Status()
		if got := p.Digest(); got != stats.Digest {
			t.Errorf("%s has digest %+v, the server %+v (status %+v)", p.name, got, stats.Digest, s)
		}
		if s.Pending != 0 || s.Refused != 0 || s.Mismatches != 0 {
			t.Errorf("%s: status %+v", p.name, s)
		}
	}
	if got := memory.Digest(); got != stats.Digest {
		t.Errorf("the log adds up to %+v, the server has %+v", got, stats.Digest)
	}
}

// replay applies the server's log, which must have no hole, to a tree in memory.
func replay(t *testing.T, w *world) *tree.Tree {
	t.Helper()
	memory := tree.New()
	for seq := int64(0); ; {
		ops, err := w.db.OpsAfter(t.Context(), e2eRoom, seq, 10_000)
		if err != nil {
			t.Fatal(err)
		}
		for _, op := range ops {
			if seq++; op.Seq != seq {
				t.Fatalf("seq %d follows %d", op.Seq, seq-1)
			}
		}
		if _, err := memory.Apply(ops...); err != nil {
			t.Fatal(err)
		}
		if len(ops) == 0 {
			return memory
		}
	}
}

// compareTrees compares every node, with place and properties, of the visible tree and of Trash: what
// the server says, what the log makes, and what each of the people holds. It returns the visible tree.
func compareTrees(t *testing.T, w *world, people []*person, memory *tree.Tree) []placed {
	t.Helper()
	var visible []placed
	for _, top := range []moveop.NodeID{moveop.Trash, moveop.Root} {
		want := serverTree(t, w, top)
		if n := countBelow(memory, top); n != len(want) {
			t.Errorf("below %s: the log makes %d nodes, the server has %d", top, n, len(want))
		}
		for _, p := range people {
			visible = readTree(t, p, top)
			compare(t, p.name, visible, want)
		}
	}
	return visible
}

// placed is a node of a walk in sibling order.
type placed struct {
	depth int
	id    moveop.NodeID
	place string // parent and order key
	props string
}

func readTree(t *testing.T, p *person, top moveop.NodeID) (list []placed) {
	t.Helper()
	err := p.View(t.Context(), func(v *client.View) error {
		return v.Walk(top, func(n client.Node, depth int) error {
			props, err := v.Values(n.ID)
			list = append(list, placed{depth, n.ID, placeText(n.Parent, n.OrderKey), propsText(props)})
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func placeText(parent moveop.NodeID, orderKey string) string { return parent.String() + " " + orderKey }

func propsText(props map[string]json.RawMessage) string {
	text, err := json.Marshal(props)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func compare(t *testing.T, name string, got []placed, want map[moveop.NodeID]wire.Node) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s has %d nodes, the server %d", name, len(got), len(want))
	}
	for _, n := range got {
		server := want[n.id]
		place, props := placeText(server.Parent, server.OrderKey), propsText(server.Props)
		if n.place != place || n.props != props {
			t.Errorf("%s has node %s at %s with %s, the server at %s with %s", name, n.id, n.place, n.props, place, props)
			return
		}
	}
}

// serverTree reads everything below a node from the realtime service, page by page.
func serverTree(t *testing.T, w *world, top moveop.NodeID) map[moveop.NodeID]wire.Node {
	t.Helper()
	all := map[moveop.NodeID]wire.Node{}
	after := ""
	for {
		var page wire.Page
		address := fmt.Sprintf("%s/v1/rooms/%s/subtree?node=%s&limit=5000&depth=1000&after=%s", w.realtime, e2eRoom, top, url.QueryEscape(after))
		parseJSON(t, get(t, address), &page)
		for _, n := range page.Nodes {
			all[n.ID] = n
		}
		if page.Next == nil {
			return all
		}
		after = *page.Next
	}
}

func countBelow(memory *tree.Tree, top moveop.NodeID) (n int) {
	for range memory.Walk(top) {
		n++
	}
	return n
}

// exportedNode is a node of the JSON export.
type exportedNode struct {
	ID       moveop.NodeID              `json:"id"`
	Props    map[string]json.RawMessage `json:"props"`
	Children []exportedNode             `json:"children"`
}

// flatten lists nodes in depth-first order; an export does not have their places.
func (n exportedNode) flatten(depth int, list []placed) []placed {
	for _, c := range n.Children {
		list = append(list, placed{depth, c.ID, "", propsText(c.Props)})
		list = c.flatten(depth+1, list)
	}
	return list
}

// compareExports checks that the export is the tree that everybody has, and a snapshot too.
func compareExports(t *testing.T, w *world, want []placed, digest moveop.Digest) {
	t.Helper()
	var doc exportedNode
	parseJSON(t, w.must("export", e2eRoom, "--ids"), &doc)
	same := func(a, b placed) bool { return a.depth == b.depth && a.id == b.id && a.props == b.props }
	if got := doc.flatten(1, nil); !slices.EqualFunc(got, want, same) {
		t.Errorf("the export has %d nodes and is not the tree of %d nodes that everybody has", len(got), len(want))
	}
	file := filepath.Join(t.TempDir(), "snapshot")
	w.must("snapshot", "export", e2eRoom, "-o", file)
	var sum verified
	parseJSON(t, w.must("snapshot", "verify", file, "--json"), &sum)
	if sum.Header.Digest != digest {
		t.Errorf("the snapshot has digest %+v, everybody else %+v", sum.Header.Digest, digest)
	}
}

func reportFigures(t *testing.T, memory *tree.Tree, done imported) {
	t.Helper()
	var corrections, ineffective, moves, sets int
	for op := range memory.Ops(moveop.Timestamp{}) {
		switch effective, _ := memory.IsEffective(op.TS); {
		case op.Kind == moveop.Set:
			sets++
		case op.TS.IsCorrection():
			corrections++
		case !effective:
			ineffective++
		default:
			moves++
		}
	}
	t.Logf("%d nodes imported; then the log has %d moves, %d more that would have made a cycle, %d sets and %d corrections",
		done.Nodes, moves, ineffective, sets, corrections)
	if edits := moves + ineffective + sets - int(done.Nodes+done.Props); edits < 2000 {
		t.Errorf("only %d operations of edits", edits)
	}
}

func idsOf(t *testing.T, p *person) (ids []moveop.NodeID) {
	t.Helper()
	err := p.Walk(t.Context(), moveop.Root, func(n client.Node, _ int) error {
		ids = append(ids, n.ID)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func goRoot(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatalf("go env GOROOT: %v", err)
	}
	return strings.TrimSpace(string(out))
}

func get(t *testing.T, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %s %v", url, resp.Status, body, err)
	}
	return string(body)
}

func parseJSON(t *testing.T, text string, v any) {
	t.Helper()
	if err := json.NewDecoder(bytes.NewReader([]byte(text))).Decode(v); err != nil {
		t.Fatalf("%v in %.200s", err, text)
	}
}
