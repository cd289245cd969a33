package proptest

import (
	"slices"

	"github.com/canopysync/canopy/moveop"
)

// orders returns the delivery orders of ops: all permutations, or only those that keep each
// replica's ops in timestamp order. Of more than limit (0 = no limit), limit ones are taken, spread
// evenly.
func orders(ops []moveop.Op, fifo bool, limit int) [][]moveop.Op {
	all := permutations(nil, slices.Clone(ops), fifo)
	if limit <= 0 || len(all) <= limit {
		return all
	}
	some := make([][]moveop.Op, limit)
	for i := range some {
		some[i] = all[i*len(all)/limit]
	}
	return some
}

// permutations returns head followed by each permutation of rest.
func permutations(head, rest []moveop.Op, fifo bool) (all [][]moveop.Op) {
	if len(rest) == 0 {
		return [][]moveop.Op{slices.Clone(head)}
	}
	for i, op := range rest {
		if fifo && slices.ContainsFunc(rest, func(other moveop.Op) bool { return precedes(other, op) }) {
			continue
		}
		all = append(all, permutations(append(head, op), slices.Delete(slices.Clone(rest), i, i+1), fifo)...)
	}
	return all
}

// precedes reports whether a is an earlier op of b's replica.
func precedes(a, b moveop.Op) bool {
	return a.TS.Replica() == b.TS.Replica() && a.TS.Before(b.TS)
}
