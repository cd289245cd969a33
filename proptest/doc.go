// Package proptest is the conformance suite for implementations of the replicated tree: a reference model that
// is too simple to be wrong, the acceptance scenarios, and random histories.
//
// The model (Model for a replica, Server for the server with its sequence numbers and corrections) replays
// the whole log for every query. Conformance runs one implementation, behind the Engine interface, next to the
// model, and compares all observable state after every batch.
//
// Random histories print their seed. Environment variables select what runs: CANOPY_SEED is the seed to repeat,
// CANOPY_HISTORIES the number of histories to try, CANOPY_SMALL_SCOPE the number of short lists (-1 for all).
// Under the race detector, the default is a tenth of them.
//
// The command in proptest/mutants shows that the suite finds bugs, by planting some.
//
// The package imports no implementation, so that each can run it in its own tests.
package proptest
