package client

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/bootstrap/format/formattest"
	"github.com/canopysync/canopy/moveop"
)

// The benchmarks here take a physical limit and the client in turn in the same run, and report the
// ratio: "×limit" is the client's time over the limit's.

// benchSize is the size of rooms: 100,000 nodes, or what CANOPY_BENCH_NODES says.
func benchSize(b *testing.B) int {
	b.Helper()
	text := os.Getenv("CANOPY_BENCH_NODES")
	if text == "" {
		return 100_000
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// race runs the client and its limit in turn.
func race(b *testing.B, engine, limit func() error) {
	b.Helper()
	var took [2]time.Duration
	for b.Loop() {
		for i, run := range []func() error{engine, limit} {
			began := time.Now()
			if err := run(); err != nil {
				b.Fatal(err)
			}
			took[i] += time.Since(began)
		}
	}
	n := time.Duration(b.N)
	b.ReportMetric(float64((took[0] / n).Nanoseconds()), "engine-ns/op")
	b.ReportMetric(float64((took[1] / n).Nanoseconds()), "limit-ns/op")
	b.ReportMetric(float64(took[0])/float64(took[1]), "×limit")
}

// plainly inserts rows in one transaction, in statements of 100 rows.
func plainly(c *Client, insert *bulk, args []any) error {
	return c.store.exclusively(context.Background(), func(s *session) error {
		if err := s.script("BEGIN IMMEDIATE"); err != nil {
			return err
		}
		if err := s.execBulk(insert, args); err != nil {
			return err
		}
		return s.script("COMMIT")
	})
}

func nodeArgs(args []any, op *moveop.Op) []any {
	return append(args, op.Node[:], op.Parent[:], op.OrderKey, op.TS[:], op.Seq, op.Known, nil)
}

// Remote operations in batches of 1,000, against inserting the same rows into a table with the same
// indexes and as many rows.
func BenchmarkMergeLimit(b *testing.B) {
	n := benchSize(b)
	plainNodes := newBulk("INSERT INTO nodes (node, parent, order_key, ts, seq, known, cause) VALUES ", 7, "")
	plainValues := newBulk("INSERT INTO vals (node, key, value, ts, seq, known) VALUES ", 6, "")
	for _, kind := range []string{"run", "creates", "mixed", "moves", "sets"} {
		b.Run(kind, func(b *testing.B) {
			c, plain := benchClient(b), benchClient(b)
			grow(b, c, n)
			grow(b, plain, n)
			at := 10 * n
			var ops []moveop.Op
			engine := func() error {
				ops = remoteOps(kind, n, &at)
				return c.store.update(context.Background(), Remote, func(t *txn) error {
					_, err := t.merge(ops)
					return err
				})
			}
			limit := func() error {
				var nodes, values []any
				for i := range ops {
					op := &ops[i]
					if op.Kind == moveop.Set {
						values = append(values, op.Node[:], op.Key, string(op.Value), op.TS[:], op.Seq, op.Known)
						continue
					}
					op.Node = benchNode(int(op.Seq)) // of a move too, a row is inserted
					nodes = nodeArgs(nodes, op)
				}
				if err := plainly(plain, plainNodes, nodes); err != nil {
					return err
				}
				return plainly(plain, plainValues, values)
			}
			race(b, engine, limit)
		})
	}
}

func remoteOps(kind string, n int, at *int) []moveop.Op {
	ops := make([]moveop.Op, 1000)
	for i := range ops {
		*at++
		ops[i] = moveop.Op{
			Kind: moveop.Move, TS: moveop.NewTimestamp(int64(*at), 0, 7), Seq: int64(*at),
			Node: benchNode(*at), Parent: benchNode(*at * 7919 % (n / 100)), OrderKey: "a0",
		}
		switch {
		case kind == "run":
			ops[i].Parent, ops[i].OrderKey = benchNode(*at/1000%(n/100)), fmt.Sprintf("c%03d", i)
		case kind == "sets":
			op := &ops[i]
			op.Kind, op.Parent, op.OrderKey, op.Key, op.Value = moveop.Set, moveop.NodeID{}, "", "title", []byte(`"a title"`)
		case kind == "moves", kind == "mixed" && i%5 == 0:
			ops[i].Node = benchNode(n/2 + rand.IntN(n/2))
		}
	}
	return ops
}

// A durable edit against a durable commit that changes one row.
func BenchmarkEditLimit(b *testing.B) {
	ctx := context.Background()
	for _, n := range []int{1_000, benchSize(b)} {
		for _, kind := range []string{"create", "move", "set"} {
			b.Run(fmt.Sprintf("%s/nodes=%d", kind, n), func(b *testing.B) {
				c, plain := durableClient(b), durableClient(b)
				grow(b, c, n)
				i := 0
				engine := func() error {
					i++
					return c.Edit(ctx, func(tx *Tx) error {
						switch kind {
						case "create":
							_, err := tx.Create(benchNode(i%10), Last)
							return err
						case "move":
							return tx.Move(benchNode(n/2+i*7919%(n/2)), benchNode(i%10), First)
						}
						return tx.Set(benchNode(i%n), "title", i)
					})
				}
				limit := func() error {
					return plain.store.exclusively(ctx, func(s *session) error {
						if err := s.script("BEGIN IMMEDIATE"); err != nil {
							return err
						}
						if _, err := s.exec("UPDATE meta SET seq = seq + 1"); err != nil {
							return err
						}
						return s.script("COMMIT")
					})
				}
				race(b, engine, limit)
			})
		}
	}
}

// A page of 100 children and a durable edit among many siblings; here the limit is the same in a room of
// 1,000 nodes.
func BenchmarkSiblingsLimit(b *testing.B) {
	ctx := context.Background()
	n := benchSize(b)
	room := func(n int) (*Client, func() moveop.NodeID) {
		c := durableClient(b)
		load(b, c, formattest.Encode(siblings(n)))
		return c, func() moveop.NodeID { return benchNode(rand.IntN(n)) }
	}
	large, ofLarge := room(n)
	small, ofSmall := room(1000)
	for name, run := range map[string]func(c *Client, node func() moveop.NodeID) error{
		"page": func(c *Client, node func() moveop.NodeID) error {
			at, err := c.Node(ctx, node())
			if err == nil {
				_, err = c.Children(ctx, moveop.Root, at.Cursor(), 100)
			}
			return err
		},
		"create": func(c *Client, node func() moveop.NodeID) error {
			return c.Edit(ctx, func(tx *Tx) error {
				_, err := tx.Create(moveop.Root, After(node()))
				return err
			})
		},
		"move": func(c *Client, node func() moveop.NodeID) error {
			return c.Edit(ctx, func(tx *Tx) error { return tx.Move(node(), moveop.Root, After(node())) })
		},
		"set": func(c *Client, node func() moveop.NodeID) error {
			return c.Edit(ctx, func(tx *Tx) error { return tx.Set(node(), "title", rand.Int()) })
		},
	} {
		b.Run(fmt.Sprintf("%s/siblings=%d", name, n), func(b *testing.B) {
			race(b, func() error { return run(large, ofLarge) }, func() error { return run(small, ofSmall) })
		})
	}
}

// siblings is a snapshot of n children of Root.
func siblings(n int) *formattest.Snapshot {
	snap := &formattest.Snapshot{Room: "garden", Epoch: "e", Seq: int64(n)}
	for i := range n {
		snap.Nodes = append(snap.Nodes, format.NodeRow{
			Node: benchNode(i), Parent: moveop.Root, OrderKey: fmt.Appendf(nil, "f%06d", i),
			TS: moveop.NewTimestamp(int64(i+1), 0, 7), Seq: int64(i + 1),
		})
	}
	return snap
}

func durableClient(b *testing.B) *Client {
	b.Helper()
	c, err := Open(context.Background(), filepath.Join(b.TempDir(), "replica"), Options{Room: "garden"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	return c
}

// A snapshot from its bytes to a ready replica, against inserting the same rows in the same order
// into the bare table, and against that with the same indexes made afterwards.
func BenchmarkBootstrapLimit(b *testing.B) {
	n := benchSize(b)
	ops := make([]moveop.Op, n)
	snap := &formattest.Snapshot{Room: "garden", Epoch: "e", Seq: int64(n)}
	for i := range ops {
		ops[i] = moveop.Op{
			Kind: moveop.Move, Node: benchNode(i), Parent: benchParent(i), OrderKey: fmt.Sprintf("c%03d", i%1000),
			TS: moveop.NewTimestamp(int64(i+1), 0, 7), Seq: int64(i + 1),
		}
		snap.Nodes = append(snap.Nodes, format.NodeRow{
			Node: ops[i].Node, Parent: ops[i].Parent, OrderKey: []byte(ops[i].OrderKey), TS: ops[i].TS, Seq: ops[i].Seq,
		})
	}
	stream := formattest.Encode(snap)
	for _, indexed := range []bool{false, true} {
		b.Run(fmt.Sprintf("nodes=%d/indexed=%t", n, indexed), func(b *testing.B) {
			engine := func() error {
				c := benchClient(b)
				l := &loader{st: c.store}
				if err := l.load(context.Background(), bytes.NewReader(stream), "garden"); err != nil {
					return err
				}
				return l.install(context.Background())
			}
			race(b, engine, func() error { return loadPlainly(filepath.Join(b.TempDir(), "plain"), ops, indexed) })
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

// loadPlainly is the plain sorted insert: into a new file, without a journal, in one transaction.
func loadPlainly(path string, ops []moveop.Op, indexed bool) error {
	insert := newBulk("INSERT INTO nodes (node, parent, order_key, ts, seq, known, cause) VALUES ", 7, "")
	s, err := openSession(path, "journal_mode(off)", "synchronous(off)")
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.script(createNodes, "BEGIN"); err != nil {
		return err
	}
	var args []any
	for i := range ops {
		if args = nodeArgs(args, &ops[i]); len(args) == 7*128 || i == len(ops)-1 {
			if err := s.execBulk(insert, args); err != nil {
				return err
			}
			args = args[:0]
		}
	}
	if indexed {
		if err := s.script(logTables[0].createIndexes("", "_a")...); err != nil {
			return err
		}
	}
	return s.script("COMMIT")
}
