// Package proptest is what every implementation of the replicated tree is held against: a reference
// model that is too simple to be wrong, the acceptance scenarios, and random histories.
//
// The model (Model for a replica, Server for the server with its sequence numbers and corrections)
// replays everything for every question. Conformance runs one implementation, behind the Engine
// interface, next to the model and compares all that can be seen of both after every batch.
//
// Random histories print their seed. Environment variables choose what runs: CANOPY_SEED is the seed
// to repeat, CANOPY_HISTORIES how many histories to try, CANOPY_SMALL_SCOPE how many of the short lists
// (-1 is all). Under the race detector a tenth of them is tried by default.
//
// That the suite finds bugs is shown by planting some: see the command in proptest/mutants.
//
// The package knows of no implementation, so that each can run it in its own tests.
package proptest
