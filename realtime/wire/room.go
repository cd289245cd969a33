package wire

import (
	"encoding/json"
	"regexp"

	"github.com/canopysync/canopy/moveop"
)

// Limits of one request.
const (
	DefaultLimit = 1000   // nodes or ops of a page if the request does not say
	MaxNodes     = 10000  // nodes of a page at most
	MaxOps       = 100000 // ops of a page at most

	// PageBytes is the size in bytes of the properties on a page beyond which it takes no more nodes.
	PageBytes = 4 << 20
)

// roomPattern is the regular expression that room names match.
const roomPattern = `^[a-z0-9][a-z0-9_.-]{0,127}$`

var roomName = regexp.MustCompile(roomPattern)

// ValidRoom checks a room name. The error is an *Error with CodeBadRequest.
func ValidRoom(name string) error {
	if roomName.MatchString(name) {
		return nil
	}
	return NewError(CodeBadRequest, "room name %.140q does not match %s", name, roomPattern)
}

// Room is a room's identity and position.
type Room struct {
	Name   string        `json:"room"`
	Epoch  string        `json:"epoch"`
	Head   int64         `json:"head"`
	MinSeq int64         `json:"min_seq"` // the room's horizon: cursors below it cannot be served
	Digest moveop.Digest `json:"digest"`
}

// Status is the outcome of one op of a batch.
type Status string

// The statuses. A move is applied or ineffective by the state after its whole batch, before
// corrections; a set is always applied.
const (
	StatusApplied     Status = "applied"
	StatusIneffective Status = "ineffective" // in the log, but it would have made a cycle
	StatusDuplicate   Status = "duplicate"   // already in the log, at the seq in the Result
)

// Result is the result of one op of a batch.
type Result struct {
	TS     moveop.Timestamp `json:"ts"`
	Seq    int64            `json:"seq"`
	Status Status           `json:"status"`
}

// Applied is a store's answer to a batch: the room's head after the batch and its corrections, and one
// Result per op, in the order of the batch.
type Applied struct {
	Head    int64
	Results []Result
}

// Node is a node of the current tree.
type Node struct {
	ID       moveop.NodeID              `json:"id"`
	Parent   moveop.NodeID              `json:"parent"`
	OrderKey string                     `json:"order_key"`
	Children int64                      `json:"children"` // exact, unless the request limits the count
	Props    map[string]json.RawMessage `json:"props"`    // without cleared ones
}

// Page is one page of nodes, all read at the same (Epoch, Seq).
type Page struct {
	Nodes []Node  `json:"nodes"`
	Next  *string `json:"next"` // the cursor of the next page; nil on the last one
	Seq   int64   `json:"seq"`
	Epoch string  `json:"epoch"`
}

// Stats are a room's exact counts.
type Stats struct {
	Room        string        `json:"room"`
	Epoch       string        `json:"epoch"`
	Head        int64         `json:"head"`
	MinSeq      int64         `json:"min_seq"`
	Nodes       int64         `json:"nodes"`   // reachable from Root, without Root
	Trashed     int64         `json:"trashed"` // below Trash
	Ops         int64         `json:"ops"`     // all ever committed, as in the digest
	Connections int64         `json:"connections"`
	Digest      moveop.Digest `json:"digest"`
}

// OpsHeader is the first line of the response to GET …/ops; the ops From to To follow, one per line. An
// empty page has To = From - 1.
type OpsHeader struct {
	From  int64  `json:"from"`
	To    int64  `json:"to"`
	Head  int64  `json:"head"`
	Epoch string `json:"epoch"`
}
