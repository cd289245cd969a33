// Package client is the replica that an application embeds: one room, complete, in one SQLite file. The
// application reads and edits it at any time, with or without a network; a sync loop in the background
// keeps it in step with the services.
//
// # Invariants
//
// An edit is one SQLite transaction that changes the tree, appends to the outbox and advances the clock.
// Operations from the server are applied together with the cursor, an acknowledgement together with the
// outbox, and a snapshot is loaded beside the old state and swapped in whole. So the file always holds the
// effect of some set of operations, and the next Open continues from there, whatever happened. The sync
// loop takes an operation out of the outbox only once the server has it: the server acknowledged it, or
// it came back, or it is part of a snapshot.
//
// The state is a function of the set of operations (package tree has the algorithm), so the order in
// which local and remote operations meet does not matter.
//
// # Concurrency
//
// Client is safe for concurrent use. Edits and applied batches run one at a time. Reads run beside them on
// a consistent snapshot and never wait for them, only for other reads when there are many (see Limits). A
// Tx or View is valid only inside the function it was passed to. That function must read and write through
// it alone: the methods of the same Client that take a context, and Close, may deadlock there. Only one
// Client at a time can have a file open: a second Open returns ErrLocked, or waits if Options.WaitForFile
// is set.
//
// # Showing the tree
//
// An application reads the part of the tree that it shows in one View, and keeps it up to date by the
// events of Client.Watch. It calls Watch before the first read, and skips the events that its read
// includes: those up to View.Version. Events tell everything about the nodes shown but one thing: after a
// child leaves a node, ask View.HasChildren whether others remain. Read the properties of a node that
// comes into view, because those set earlier are not in the event. The example of Client.Watch does all
// this.
//
// Properties have no index: to search, use View.Walk and View.Value. If that is too slow, keep an index of
// your own, built by such a walk and then updated by events. Store it with the View.Version that it
// includes, so that the application can tell at the next Open whether it is up to date (after a power cut
// only with SynchronousFull).
//
// # The first load
//
// A new replica shows the room and accepts edits before it has loaded the room. Children are fetched when
// they are read, remote operations are applied as they arrive, and one transaction replaces all of it with
// the snapshot that is loaded meanwhile. Until then Status.Partial is set, a node that is not here yet
// gives ErrUnknownNode and ErrPartial, and a read without a network returns what is here. See BOOTSTRAP.md.
//
// # Undo
//
// Undo and Redo step through the edits made on this replica, by making new operations. The history is in
// the file. It identifies what a step left behind by the operation that did it, and takes back only what
// is still in effect, never somebody else's change. See Client.Undo.
//
// # Copies
//
// Client.Export writes a copy while the file is in use. Every copy of a file is a replica of its own, with
// its own id, which it takes at the latest when it meets the other copy's operations on the server.
// Client.Fork writes a file for a new room that starts with the content of this one.
//
// # Examination
//
// The sync loop compares digests with the server's all the time. Client.Doctor looks closer: at the file,
// at the consistency of its tables, and at the server's digest; if that differs, it finds the operations
// that differ. Client.Repair exchanges those operations or loads the room anew. Client.Salvage saves the
// pending operations of a file that cannot be repaired.
//
// # Sync
//
// The sync loop (one goroutine, and one that reads the socket) loads a snapshot if the file is new or the
// server cannot serve its cursor, catches up from the cursor, and only then pushes the outbox, in order,
// one batch at a time. The first snapshot is loaded beside that. After any failure it tries again, with
// exponential backoff:
//
//	the connection ends, busy, rate_limited,   try again after a wait with jitter (a restart says how long)
//	internal
//	a snapshot is cut off                      ask for the rest of it; if the snapshot is gone, start over
//	a gap in the operations                    pull from the cursor
//	resync                                     load a snapshot, apply the outbox on top; operations that got through
//	                                           and were folded leave the outbox, those too old are stamped anew
//	resync with another epoch                  the same, and queue again our operations that the server lost
//	digests that differ, Repair                exchange the operations that differ, or if that is not enough load a
//	                                           snapshot; either way queue again our operations that the server lost
//	clock_skew                                 follow the server's clock, stamp the outbox anew
//	too_old                                    stamp the outbox anew, by the server's clock if ours is slow
//	conflict, out_of_order, replica_in_use     another copy of the file is in use: take a new replica id, catch
//	                                           up, stamp the outbox anew
//	too_large                                  push smaller batches
//	invalid_op, bad_request                    put the operation into quarantine, go on with the others:
//	                                           see Client.Refused, Retry, Discard, ExportRefused
//	unauthorized, forbidden                    StateNeedsAuth, or no pushes for a while
//	an unknown protocol                        StateUpdateRequired
//
// # Limits
//
// These come in addition to those in Options. What is sent to the server is bounded by what the services
// accept by default (see realtime/wire). If a service accepts less, operations go into quarantine; if it
// accepts more, the client makes no use of it.
//
// Memory for pending operations is unbounded in two cases: when all of them are stamped anew (see Sync:
// clock_skew, too_old, another copy of the file), and when they are applied on top of a snapshot (resync,
// in the same or another epoch). Either is one transaction that holds them all at once; stamping anew also
// holds everybody's moves since the oldest of them. A pending operation takes about 1 KB, more if its value
// is long; such a move takes 0.4 KB. Measured: 95 MB of heap for 100,000 pending operations with short
// values, 130 MB with 100,000 such moves.
//
//	a property's name, value, nesting          255 bytes, 1000 KiB of compact JSON, 64: Set fails
//	Options.Name, presence                     MaxName, MaxPresence: Open, SetPresence fail
//	presence                                   the latest state, sent every 50 ms at most
//	operations of a push                       what the server says; 50 while others are in the room
//	a page of children                         DefaultLimit if no limit is given; no maximum
//	events that a watcher has not taken        63; then one with Reread stands for those it missed
//	changes of an event                        1,024, 512 KiB of keys and values; then Reread
//	operations applied in one transaction      4,096, and the rest of the last frame
//	a frame of the server                      64 MiB; then the connection ends
//	connecting, writing a frame                15 s each; then the connection ends
//	silence of the server                      60 s, with a ping every 20 s; then the connection ends
//	a push without an answer                   2 min; then the connection ends
//	a snapshot without progress                30 s; then it counts as cut off
//	memory to decompress a snapshot            64 MiB; then it is refused
//	children fetched during the first load     100,000 nodes since Open; 10,000 of a node to find its last one
//	operations exchanged when digests differ   10,000, in 10,000 spans of time; then a snapshot is loaded
//	a new token is requested                   10 s before the old one expires, at the latest
//	pushes after forbidden                     again after a minute
//	concurrent reads                           4; further ones wait for 10 ms at most, then get connections of
//	                                           their own, of which 16 are kept
//	memory for pages of the file               16 MB, and 2 MB for each concurrent read
//	damaged pages that Doctor reports          20
//	attempts of Doctor to meet the server      10; then Diagnosis.Compared is not set
package client
