package client

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/bootstrap/format/formattest"
	"github.com/canopysync/canopy/moveop"
)

func benchClient(b *testing.B) *Client {
	c, err := Open(context.Background(), filepath.Join(b.TempDir(), "replica"), Options{Room: "garden", Synchronous: SynchronousNormal})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	return c
}

// grow loads n nodes, a hundred under each parent, from a snapshot.
func grow(b *testing.B, c *Client, n int) {
	b.Helper()
	snap := &formattest.Snapshot{Room: "garden", Epoch: "e", Seq: int64(n)}
	for i := range n {
		snap.Nodes = append(snap.Nodes, format.NodeRow{
			Node: benchNode(i), Parent: benchParent(i), OrderKey: fmt.Appendf(nil, "c%03d", i%1000),
			TS: moveop.NewTimestamp(int64(i+1), 0, 7), Seq: int64(i + 1),
		})
	}
	load(b, c, formattest.Encode(snap))
}

func load(b *testing.B, c *Client, stream []byte) {
	b.Helper()
	l := &loader{st: c.store}
	if err := l.load(context.Background(), bytes.NewReader(stream), "garden"); err != nil {
		b.Fatal(err)
	}
	if err := l.install(context.Background()); err != nil {
		b.Fatal(err)
	}
}

func benchNode(i int) (id moveop.NodeID) {
	binary.BigEndian.PutUint64(id[:], uint64(i+1))
	return id
}

func benchParent(i int) moveop.NodeID {
	if i < 100 {
		return moveop.Root
	}
	return benchNode(i/100 - 1)
}

func BenchmarkEdit(b *testing.B) {
	for _, n := range []int{1_000, 100_000} {
		b.Run(fmt.Sprintf("nodes=%d", n), func(b *testing.B) {
			c := benchClient(b)
			grow(b, c, n)
			for i := 0; b.Loop(); i++ {
				err := c.Edit(context.Background(), func(tx *Tx) error {
					return tx.Move(benchNode(n/2+i%(n/2)), benchNode(i%10), First)
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkImport(b *testing.B) {
	c := benchClient(b)
	for b.Loop() {
		err := c.Edit(context.Background(), func(tx *Tx) error {
			for i := range 1000 {
				id, err := tx.Create(moveop.Root, Last)
				if err != nil {
					return err
				}
				if err := tx.Set(id, "name", i); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*1000/b.Elapsed().Seconds(), "nodes/s")
}

func BenchmarkMerge(b *testing.B) {
	for _, kind := range []string{"creates", "moves"} {
		b.Run(kind, func(b *testing.B) {
			c := benchClient(b)
			grow(b, c, 100_000)
			at := 1_000_000
			for b.Loop() {
				ops := make([]moveop.Op, 1000)
				for i := range ops {
					at++
					ops[i] = moveop.Op{
						Kind: moveop.Move, TS: moveop.NewTimestamp(int64(at), 0, 7), Seq: int64(at),
						Node: benchNode(at), Parent: benchNode(at % 1000), OrderKey: "a0",
					}
					if kind == "moves" {
						ops[i].Node = benchNode(50_000 + at*7919%50_000)
					}
				}
				err := c.store.update(context.Background(), Remote, func(t *txn) error {
					_, err := t.merge(ops)
					return err
				})
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)*1000/b.Elapsed().Seconds(), "ops/s")
		})
	}
}

func BenchmarkBootstrap(b *testing.B) {
	const n = 200_000
	for _, moves := range []int{1, 2} {
		b.Run(fmt.Sprintf("moves=%d", moves), func(b *testing.B) {
			snap := &formattest.Snapshot{Room: "garden", Epoch: "e", Seq: int64(moves * n)}
			for i := range n {
				snap.Nodes = append(snap.Nodes, format.NodeRow{
					Node: benchNode(i), Parent: benchParent(i), OrderKey: fmt.Appendf(nil, "c%03d", i%1000),
					TS: moveop.NewTimestamp(int64(moves*n+i+1), 0, 7), Seq: int64(n*(moves-1) + i + 1),
				})
			}
			for i := range n * (moves - 1) {
				snap.Ops = append(snap.Ops, format.OpRow{
					Kind: moveop.Move, Node: benchNode(i * 7919 % n), Parent: moveop.Root, OrderKey: []byte("a0"),
					TS: moveop.NewTimestamp(int64(i+1), 0, 7), Seq: int64(i + 1), Effective: true,
				})
			}
			stream := formattest.Encode(snap)
			for b.Loop() {
				load(b, benchClient(b), stream)
			}
			b.ReportMetric(float64(b.N*moves)*n/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

func BenchmarkChildren(b *testing.B) {
	c := benchClient(b)
	grow(b, c, 100_000)
	for i := 0; b.Loop(); i++ {
		nodes, err := c.Children(context.Background(), benchNode(i%900), Cursor{}, 100)
		if err != nil || len(nodes) != 100 {
			b.Fatal(len(nodes), err)
		}
	}
}
