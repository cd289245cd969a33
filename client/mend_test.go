package client_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/proptest"
	"github.com/canopysync/canopy/realtime/wire"
)

// A room of many operations at many times, a file of it, and one pending operation.
func settled(t *testing.T) (s *server, path string) {
	t.Helper()
	s = newServer(t)
	var ops []moveop.Op
	for i := range 1500 {
		n := moveop.NodeID{1, byte(i >> 8), byte(i)}
		ts := moveop.NewTimestamp(int64(1.7e12)+int64(i)*40_000, 0, 7)
		op := moveop.Op{Kind: moveop.Move, TS: ts, Node: n, Parent: moveop.Root, OrderKey: "a0"}
		switch {
		case i%3 == 1: // of the node before
			op = moveop.Op{Kind: moveop.Set, TS: ts, Node: moveop.NodeID{1, byte((i - 1) >> 8), byte(i - 1)}, Key: "title", Value: []byte(fmt.Sprint(i))}
		case i%3 == 2: // the node before that goes below an older one
			op.Node = moveop.NodeID{1, byte((i - 2) >> 8), byte(i - 2)}
			op.Parent = moveop.NodeID{1, byte(i / 30 * 3 >> 8), byte(i / 30 * 3)}
		}
		ops = append(ops, op)
	}
	if err := s.apply(ops...); err != nil {
		t.Fatal(err)
	}
	return s, s.edited(t, s.options())
}

// What a damaged file lacks, has too much or has otherwise is found and exchanged, and nothing else: no
// snapshot is loaded for it.
func TestRepairFetchesOnlyWhatDiffers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		damage  string
		here    bool // the operation that differs is in the file
		there   bool
		changed int // operations that differ
	}{
		"a placement is lost":  {`DELETE FROM nodes WHERE seq = (SELECT max(seq) FROM nodes WHERE seq < 700)`, false, true, 1},
		"a past move is lost":  {`DELETE FROM ops WHERE seq = (SELECT max(seq) FROM ops WHERE seq < 700)`, false, true, 1},
		"values are lost":      {`DELETE FROM vals WHERE seq BETWEEN 300 AND 330`, false, true, 11},
		"a value is another":   {`UPDATE vals SET value = '"damaged"' WHERE seq = 1001`, true, true, 1},
		"a place is another":   {`UPDATE nodes SET order_key = 'a1' WHERE seq = (SELECT max(seq) FROM nodes WHERE seq < 700)`, true, true, 1},
		"an operation made up": {`INSERT INTO vals VALUES (zeroblob(16), 'k', '1', x'018bcfe5680000010000000000000007', 5000, 0); UPDATE vals SET seq = 1 WHERE seq = 5000`, true, false, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, path := settled(t)
			alter(t, path, test.damage)
			c := open(t, path, client.Options{})
			if d := doctor(t, c); len(d.Findings) == 0 {
				t.Fatal("the damage is none")
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			before := s.counts()
			c = open(t, path, s.options())
			if err := c.Repair(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.synced(t, c)
			if d := doctor(t, c); len(d.Findings) > 0 || !d.Compared {
				t.Errorf("after repair: %+v", d)
			}
			after := s.counts()
			if after.snapshots != before.snapshots {
				t.Error("a snapshot was loaded")
			}
			if got := after.fetched - before.fetched; got < test.changed-1 || got > 300 {
				t.Errorf("%d operations were fetched for %d", got, test.changed)
			}
			if c.Digest() != s.digest() {
				t.Error("digests differ")
			}
		})
	}
}

// A server that was set back without a new epoch, and has gone beyond our cursor since, lacks what it had
// acknowledged. It gets it again, whichever way the replica is mended.
func TestAcknowledgedAndLost(t *testing.T) {
	t.Parallel()
	for name, buckets := range map[string]func(http.ResponseWriter, wire.Span, bool) bool{
		"piece by piece": nil,
		"by a snapshot": func(w http.ResponseWriter, _ wire.Span, _ bool) bool {
			http.NotFound(w, nil)
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			c := s.join(t)
			create(t, c, moveop.Root, client.Last, "kept")
			s.synced(t, c)
			kept := s.digest().Ops
			create(t, c, moveop.Root, client.Last, "lost")
			s.synced(t, c)
			s.setBack(t, kept)
			for i := range 5 {
				op := moveop.Op{
					Kind: moveop.Set, TS: moveop.NewTimestamp(2, uint16(i), 7), Node: moveop.Root, Key: "k", Value: []byte(fmt.Sprint(i)),
				}
				if err := s.apply(op); err != nil {
					t.Fatal(err)
				}
			}
			s.hook(func(h *hooks) { h.buckets = buckets })
			before := s.counts()
			if err := c.Repair(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.synced(t, c)
			wantTitles(t, c, "kept lost")
			s.checkOnce(t)
			if loaded := s.counts().snapshots > before.snapshots; loaded != (buckets != nil) {
				t.Errorf("a snapshot was loaded: %t", loaded)
			}
			s.hook(func(h *hooks) { h.buckets = nil })
			if d := doctor(t, c); len(d.Findings) > 0 || !d.Compared {
				t.Errorf("found %+v", d)
			}
		})
	}
}

// setBack has the server lose all but its first operations, and its connections.
func (s *server) setBack(t *testing.T, kept int64) {
	t.Helper()
	s.mu.Lock()
	log := s.log()
	s.room = proptest.NewServer(proptest.RestoreMoveAndSet)
	_, err := s.commit(log[:kept])
	s.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	s.hangUp()
}

// A server that answers something else than what it is asked is not followed: not for ever, and not into
// what is no span. A snapshot is loaded.
func TestRepairByAServerThatMakesThingsUp(t *testing.T) {
	t.Parallel()
	answer := func(w http.ResponseWriter, s *server, spans ...wire.Span) {
		b := wire.Buckets{Epoch: s.epoch, Seq: 1}
		for _, span := range spans {
			b.Buckets = append(b.Buckets, wire.Bucket{Span: span, Ops: 1e9})
		}
		_ = json.NewEncoder(w).Encode(b)
	}
	all := func(of wire.Span) (parts []wire.Span) {
		for i := range 256 {
			parts = append(parts, of+wire.Span(fmt.Sprintf("%02x", i)))
		}
		return parts
	}
	for name, lie := range map[string]func(span wire.Span) []wire.Span{
		"the span itself":    func(span wire.Span) []wire.Span { return []wire.Span{span} },
		"the same all along": func(wire.Span) []wire.Span { return []wire.Span{"01"} },
		"another one": func(span wire.Span) []wire.Span {
			return []wire.Span{map[wire.Span]wire.Span{"": "01", "01": "ff01"}[span]}
		},
		"no digits":             func(span wire.Span) []wire.Span { return []wire.Span{span + "zz"} },
		"too many digits":       func(span wire.Span) []wire.Span { return []wire.Span{span + wire.Span(strings.Repeat("0", 40))} },
		"one twice":             func(span wire.Span) []wire.Span { return []wire.Span{span + "ff", span + "ff"} },
		"in disorder":           func(span wire.Span) []wire.Span { return []wire.Span{span + "02", span + "01"} },
		"all that there are":    all,
		"one operation for all": func(span wire.Span) []wire.Span { return []wire.Span{span + "01", span + "02"} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			c := s.join(t)
			create(t, c, moveop.Root, client.Last, "kept")
			s.synced(t, c)
			before := s.counts()
			elsewhere := moveop.Op{Kind: moveop.Set, TS: moveop.NewTimestamp(1, 0, 7), Node: moveop.Root, Key: "k", Value: []byte("1"), Seq: 1}
			asked := 0
			s.hook(func(h *hooks) {
				h.buckets = func(w http.ResponseWriter, span wire.Span, ops bool) bool {
					if asked++; asked > 20_000 {
						w.WriteHeader(http.StatusInternalServerError)
						return true
					}
					if !ops {
						answer(w, s, lie(span)...)
					} else if name == "one operation for all" {
						_ = json.NewEncoder(w).Encode(elsewhere)
					}
					return true
				}
			})
			if err := c.Repair(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.synced(t, c)
			s.mu.Lock()
			defer s.mu.Unlock()
			if asked > 11_000 {
				t.Errorf("it was asked %d times", asked)
			}
			if s.seen.snapshots == before.snapshots {
				t.Error("no snapshot was loaded")
			}
			wantTitles(t, c, "kept")
		})
	}
}
