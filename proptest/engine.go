package proptest

import (
	"errors"
	"testing"

	"github.com/canopysync/canopy/moveop"
)

// Status is the outcome of one op of a batch, as of the end of the batch.
type Status string

// The statuses, spelled as on the wire. A new set is always StatusApplied.
const (
	StatusApplied     Status = "applied"
	StatusIneffective Status = "ineffective"
	StatusDuplicate   Status = "duplicate"
)

// Result is an engine's answer to one op. Seq is 0 if the engine assigns no sequence numbers.
type Result struct {
	Status Status
	Seq    int64
}

// Reasons why an engine refuses a batch. The engine's error wraps one of these; a refused batch changes nothing.
var (
	ErrConflict   = errors.New("another op has this timestamp")
	ErrOutOfOrder = errors.New("op older than its replica's last one")
	ErrInvalid    = errors.New("invalid op")
)

// Engine is an implementation under test: one room, empty at first.
type Engine interface {
	// Apply applies one batch atomically and returns one Result per op.
	Apply(ops []moveop.Op) ([]Result, error)
	// State returns the state that the ops applied so far have made.
	State() (State, error)
}

// ServerEngine is an Engine that numbers ops and makes corrections. It accepts each replica's ops only in
// timestamp order.
type ServerEngine interface {
	Engine
	// Log returns the ops of the room in order of Seq, including corrections, with Known, Seq and Cause.
	Log() ([]moveop.Op, error)
}

// Reopener is an Engine with persistent state. Reopen drops everything that is only in memory and continues
// from the rest.
type Reopener interface {
	Reopen() error
}

// Dumper is an Engine with persistent state. Dump returns every byte of it, one row per line, in any fixed order.
type Dumper interface {
	Dump() ([]string, error)
}

// ChildReader is an Engine that can read siblings in order.
type ChildReader interface {
	// Children returns the nodes under parent in sibling order.
	Children(parent moveop.NodeID) ([]moveop.NodeID, error)
}

// Policy is a room's restore policy: the concurrent changes for which a delete is corrected.
type Policy string

// The policies of a room, spelled as in its settings.
const (
	RestoreMoveAndSet Policy = "move+set"
	RestoreMove       Policy = "move"
	RestoreNever      Policy = "never"
)

// Suite configures Conformance. The zero value of each limit means its default.
type Suite struct {
	// New returns an engine with an empty room. Only a ServerEngine uses the policy. The suite closes an engine
	// that is an io.Closer after use.
	New func(t testing.TB, restoreOn Policy) Engine
	// Orders bounds the number of delivery orders tried for each scenario, spread evenly over all of them.
	// Defaults to all.
	Orders int
	// Histories is the number of random histories to try, unless CANOPY_HISTORIES is set. Defaults to 200.
	Histories int
	// SmallScope is the number of lists, of the 8,478 lists of four moves over three nodes, to try in all orders
	// of arrival, spread evenly over them, unless CANOPY_SMALL_SCOPE is set. Negative means all. Defaults to 50.
	SmallScope int
	// Part and Parts divide histories and lists among several suites of one engine: this one tries every
	// Parts-th, starting with number Part. Default to all.
	Part, Parts int
	// Depth is the depth of the deep scenario. Defaults to 100,000, the required depth, and to a tenth of it
	// under the race detector.
	Depth int

	server bool // New makes a ServerEngine
}
