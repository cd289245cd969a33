// Package tree implements the replicated tree: which moves of a log are effective, and what tree they
// make.
//
// Replay is the algorithm. It works on a small storage interface, so that the same code serves a replica
// in memory and one on disk. Tree is the replica in memory.
//
// The invariant: a move is effective iff, in the state made by the effective moves before it in
// timestamp order, its node is neither its parent nor above it; a node's placement is its last
// effective move. So the tree is a function of the set of operations, whatever their order of
// arrival. There is no limit on depth: walks are loops.
//
// Source of the invariant: Kleppmann et al., "A highly-available move operation for replicated trees"
// (IEEE TPDS 33, 2022), which undoes and redoes every later move. Replay undoes nothing.
//
// Nothing here does I/O, reads a clock or starts a goroutine. A Tree is not safe for concurrent use, not
// even for reading: some reads sort data on demand.
package tree
