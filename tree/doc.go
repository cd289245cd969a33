// Package tree holds the replicated tree: which moves of a log are effective, and what tree they
// make.
//
// Replay is the algorithm, over a small storage interface, so that the same code serves a replica in
// memory and one on disk. Tree is the replica in memory.
//
// The invariant: a move is effective iff, in the state made by the effective moves before it in
// timestamp order, its node is neither its parent nor above it; a node's placement is its last
// effective move. So the tree is a function of the set of operations, whatever their order of
// arrival. There is no limit on depth: walks are loops.
//
// Nothing here does I/O, reads a clock or starts a goroutine. A Tree is not safe for concurrent
// use, not even for reading: what is read less often is put in order when it is.
package tree
