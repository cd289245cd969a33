package proptest

import (
	"errors"
	"testing"

	"github.com/canopysync/canopy/moveop"
)

// Status is what became of one op of a batch, after the whole batch.
type Status string

// The statuses, spelled as on the wire. A new set is always StatusApplied.
const (
	StatusApplied     Status = "applied"
	StatusIneffective Status = "ineffective"
	StatusDuplicate   Status = "duplicate"
)

// Result is an engine's answer to one op. Seq is 0 from an engine that gives no sequence numbers.
type Result struct {
	Status Status
	Seq    int64
}

// Why an engine refuses a batch. An engine's error wraps one of these; a refused batch changes
// nothing.
var (
	ErrConflict   = errors.New("another op has this timestamp")
	ErrOutOfOrder = errors.New("op older than its replica's last one")
	ErrInvalid    = errors.New("invalid op")
)

// Engine is an implementation under test: one room, empty at first.
type Engine interface {
	// Apply applies one batch atomically and answers op by op.
	Apply(ops []moveop.Op) ([]Result, error)
	// State returns everything that the ops applied so far have made.
	State() (State, error)
}

// ServerEngine is an Engine that numbers ops and makes corrections. It takes each replica's ops in
// timestamp order only.
type ServerEngine interface {
	Engine
	// Log returns the ops of the room in order of Seq, corrections too, with Known, Seq and Cause.
	Log() ([]moveop.Op, error)
}

// Reopener is an Engine that keeps its state somewhere: Reopen drops all that is only in memory and
// goes on from the rest.
type Reopener interface {
	Reopen() error
}

// Dumper is an Engine that keeps its state somewhere: Dump returns every byte of it, a row a line, in an order
// of its own.
type Dumper interface {
	Dump() ([]string, error)
}

// ChildReader is an Engine with its own way of reading siblings.
type ChildReader interface {
	// Children returns the nodes under parent in sibling order.
	Children(parent moveop.NodeID) ([]moveop.NodeID, error)
}

// Policy says what makes up for a delete whose author did not know of it.
type Policy string

// The policies of a room, spelled as in its settings.
const (
	RestoreMoveAndSet Policy = "move+set"
	RestoreMove       Policy = "move"
	RestoreNever      Policy = "never"
)

// Suite says what Conformance runs. The zero value of each limit means its default.
type Suite struct {
	// New returns an engine with an empty room. Only a ServerEngine has a use for the policy. An engine
	// that is an io.Closer is closed when the suite has no more use for it.
	New func(t testing.TB, restoreOn Policy) Engine
	// Orders bounds the delivery orders tried of one scenario, spread evenly over all of them.
	// Defaults to all.
	Orders int
	// Histories is how many random histories are tried, unless CANOPY_HISTORIES says. Defaults to 200.
	Histories int
	// SmallScope is how many of the 8,478 lists of four moves over three nodes are tried in all orders
	// of arrival, spread evenly over them, unless CANOPY_SMALL_SCOPE says. Negative is all. Defaults to 50.
	SmallScope int
	// Part and Parts share histories and lists out among suites of one engine: this one tries every
	// Parts-th, from number Part on. Default to all.
	Part, Parts int
	// Depth is the depth of the deep scenario. Defaults to 100,000, which is what has to work, and to a tenth of
	// it under the race detector.
	Depth int

	server bool // New makes a ServerEngine
}
