// Package client is the replica that an application embeds: the whole of one room in one SQLite file,
// readable and editable at once, with or without a network, and kept in step with the services by a
// sync loop in the background.
//
// # Invariants
//
// An edit is one SQLite transaction that changes the tree, appends to the outbox and moves the clock.
// What came from the server is applied together with the cursor, an acknowledgement together with
// the outbox, and a snapshot is loaded beside the old state and swapped in whole. So the file is at
// every moment the effect of some set of operations, and whatever happens, the next Open goes on from
// there. Nothing but the server's acknowledgement, or the operation itself coming back, takes an
// operation out of the outbox.
//
// The state is a function of the set of operations (package tree has the algorithm), so the order in
// which local and remote ones meet does not matter.
//
// # Concurrency
//
// Client is safe for concurrent use. Edits and applied batches run one at a time; reads run beside
// them on a consistent snapshot and never wait. A Tx or View belongs to the function that it was
// passed to, and that function must not call Edit of the same Client. One process has the file open at a time: see ErrLocked.
package client
