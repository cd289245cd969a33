package realtime

import (
	"encoding/json"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// letter is a message of a process to others, about one room or (Asks, Bye) about none in particular. Unknown fields
// are ignored, so that processes of two versions can serve one database.
type letter struct {
	From string   `json:"from"`           // the process
	Asks []string `json:"asks,omitempty"` // rooms of which everybody is to tell who is there
	Bye  bool     `json:"bye,omitempty"`

	Head int64 `json:"head,omitempty"` // the room's log has reached it
	// Ops, in their canonical form, are those right after seq After of the history Epoch, as the log has them.
	Epoch string `json:"epoch,omitempty"`
	After int64  `json:"after,omitempty"`
	Ops   []byte `json:"ops,omitempty"`

	// Version is of the list of members that the process last told; zero: it has none. Who knows
	// another one asks.
	Version int64    `json:"version,omitempty"`
	Members []member `json:"members,omitempty"` // all of them, where Version is new or was asked for
	// Whole says that this is an answer: Presence, here and in what follows, is of everybody.
	Whole bool `json:"whole,omitempty"`

	// Probes are replicas at other processes that have opened a second socket here; Alive are those whose socket
	// here answered a probe.
	Probes []moveop.ReplicaID `json:"probes,omitempty"`
	Alive  []moveop.ReplicaID `json:"alive,omitempty"`

	Presence map[moveop.ReplicaID]json.RawMessage `json:"presence,omitempty"`
}

// member is a socket in a room, as described to other processes.
type member struct {
	Replica moveop.ReplicaID `json:"replica"`
	Name    string           `json:"name,omitempty"`
	User    string           `json:"user,omitempty"`
	// Since orders the sockets of one replica: Unix microseconds, and after all that it knew of.
	Since int64 `json:"since"`
}

func (m member) peer() wire.Peer { return wire.Peer{Replica: m.Replica, Name: m.Name, User: m.User} }

// size is about what a member takes in a letter.
func (m member) size() int { return len(m.Name) + len(m.User) + 80 }
