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
// them on a consistent snapshot and never wait for them, only for other reads where there are many (see
// Limits). A Tx or View belongs to the function that it was passed to. That function must use it for all that
// it reads and writes, and not call the methods of the same Client that take a context, or Close: they may wait
// for it for ever. One Client has the file open at a time: another one gets ErrLocked, or waits, see
// Options.WaitForFile.
//
// # The first load
//
// A replica that is new shows the room, and takes edits, before the room is here: children are fetched
// when they are read, what others do is applied as it comes, and the snapshot that is loaded meanwhile
// takes the place of it all in one transaction. Until then Status.Partial is set, nodes that are not here
// are ErrUnknownNode and ErrPartial, and a read without a network gives what is here. See BOOTSTRAP.md.
//
// # Undo
//
// Undo and Redo go back and forth through what was edited here, by new operations. The history is in
// the file. It names what a step left behind by the operation that did it, and takes back only what
// is still there: never somebody else's change. See Client.Undo.
//
// # Copies
//
// Client.Export writes a copy while the file is in use. Every copy of a file is a replica of its own
// and goes by an id of its own, at the latest when it meets the other one's traces on the server.
// Client.Fork makes a file for a new room out of what is here.
//
// # Examination
//
// Digests are compared with the server's while the replica works. Client.Doctor looks closer: at the
// file, at whether the tables agree, and at the server's digest; where that differs, it finds out in which
// operations. Client.Repair exchanges those, or loads the room anew, and Client.Salvage saves what is
// pending from a file that is beyond that.
//
// # Sync
//
// The sync loop (one goroutine, and one that reads the socket) loads a snapshot where the file is new
// or its cursor cannot be served, catches up from the cursor, and only then pushes the outbox, in
// order, one batch at a time. The first snapshot is loaded beside that. Whatever goes wrong, it tries
// again, with growing waits:
//
//	the connection ends, busy, rate_limited,   again after a wait with jitter (a restart says how long)
//	internal
//	a snapshot is cut off under way            ask for the rest of it; where it is gone, start over
//	a gap in the operations                    pull from the cursor
//	resync                                     load a snapshot, apply the outbox on top; what got through and
//	                                           was folded since leaves it, what is too old is stamped anew
//	resync with another epoch                  the same, and queue again what the server has lost of ours
//	digests that differ, Repair                exchange the operations that differ, or where that is not enough load
//	                                           a snapshot; either way queue again what the server has lost of ours
//	clock_skew                                 follow the server's clock, stamp the outbox anew
//	too_old                                    stamp the outbox anew, by the server's clock if ours is slow
//	conflict, out_of_order, replica_in_use     another copy of the file is about: new replica id, catch up,
//	                                           stamp the outbox anew
//	too_large                                  smaller batches
//	invalid_op, bad_request                    put the operation into quarantine, go on with the others:
//	                                           see Client.Refused, Retry, Discard, ExportRefused
//	unauthorized, forbidden                    StateNeedsAuth, or no pushes for a while
//	a protocol that we do not know             StateUpdateRequired
//
// # Limits
//
// Beside those that Options has. What goes to the server is bounded by what the services take where nothing else is
// configured (see realtime/wire); one that takes less puts operations into quarantine, one that takes more is
// not made use of.
//
// Memory for what is pending has no limit where all of it is stamped anew (see Sync: clock_skew, too_old, another
// copy of the file) or applied on top of a snapshot (resync, with another epoch too). That is one transaction, which
// holds it all at once, and to stamp it anew also the moves, by anybody, since the oldest of it: about 1 KB for each
// pending operation, more where its value is long, and 0.4 KB for each such move. Measured were 95 MB of heap for
// 100,000 pending operations with short values, and 130 MB with 100,000 such moves.
//
//	a property's name, value, nesting          255 bytes, 1000 KiB of compact JSON, 64: Set fails
//	Options.Name, presence                     MaxName, MaxPresence: Open, SetPresence fail
//	presence                                   sent every 50 ms at most, the latest state
//	operations of a push                       what the server says; 50 while others are in the room
//	a page of Children, where none is given    DefaultLimit; there is no most
//	events that a watcher has not taken        63; then one with Reread stands for what it missed
//	changes of an event                        1,024, 512 KiB of keys and values; then Reread
//	operations applied in one transaction      4,096, and what is left of a frame
//	a frame of the server                      64 MiB; then the connection ends
//	connecting, writing a frame                15 s each; then the connection ends
//	silence of the server                      60 s, asked every 20 s; then the connection ends
//	a push that is not answered                2 min; then the connection ends
//	a snapshot that brings nothing             30 s; then it counts as cut off
//	memory to decompress a snapshot            64 MiB; then it is refused
//	children fetched during the first load     100,000 nodes since Open; 10,000 of a node to find its last one
//	operations exchanged where digests differ  10,000, of 10,000 spans of time; then a snapshot is loaded
//	a token is asked for                       10 s before its end at the latest
//	pushes after forbidden                     again after a minute
//	reads at a time                            4; more wait, 10 ms at most, then they get connections of their own,
//	                                           of which 16 are kept
//	memory for pages of the file               16 MB, and 2 MB for each read at a time
//	damaged pages that Doctor reports          20
//	attempts of Doctor to meet the server      10; then Diagnosis.Compared is not set
package client
