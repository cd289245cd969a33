// Package wire holds the messages that clients and the realtime service exchange, with their two
// forms: JSON, which anybody can speak, and the compact binary form that the Go client negotiates.
// It is the protocol of version 1; the README of this package has its tables.
//
// Everything here is plain data: values are safe to copy, codecs are stateless and safe for
// concurrent use. Decoding is bounded by its input and never panics.
package wire

import (
	"encoding/json"
	"errors"

	"github.com/canopysync/canopy/moveop"
)

// Message is one of the message types of this package; *Error, as the message "error", and values
// of all the others.
type Message interface {
	// Type is the message's name on the wire.
	Type() string
}

// Hello is a client's first message. Its cursor is (Epoch, Seq): what it has applied. A nil Epoch
// with Seq 0 means nothing yet.
type Hello struct {
	Replica moveop.ReplicaID `json:"replica"`
	Epoch   *string          `json:"epoch"`
	Seq     int64            `json:"seq"`
	Name    string           `json:"name,omitempty"`
	Token   string           `json:"token,omitempty"`
}

// Limits is what the server takes in one message.
type Limits struct {
	MaxOps   int   `json:"max_ops"`   // ops of one push
	MaxFrame int64 `json:"max_frame"` // bytes of one frame
}

// Peer is a connected replica.
type Peer struct {
	Replica moveop.ReplicaID `json:"replica"`
	Name    string           `json:"name"`
	User    string           `json:"user"`
}

// UnmarshalJSON insists on a replica; a missing one would be zero, which nobody is.
func (h *Hello) UnmarshalJSON(text []byte) error {
	type plain Hello
	if err := json.Unmarshal(text, (*plain)(h)); err != nil {
		return err
	}
	return needReplica(h.Replica)
}

// UnmarshalJSON insists on a replica.
func (p *Peer) UnmarshalJSON(text []byte) error {
	type plain Peer
	if err := json.Unmarshal(text, (*plain)(p)); err != nil {
		return err
	}
	return needReplica(p.Replica)
}

func needReplica(r moveop.ReplicaID) error {
	if !r.Valid() {
		return errors.New("replica is required")
	}
	return nil
}

// Welcome answers Hello.
type Welcome struct {
	Epoch      string `json:"epoch"`
	Head       int64  `json:"head"`
	MinSeq     int64  `json:"min_seq"`
	ServerTime int64  `json:"server_time"` // Unix milliseconds
	// LastTS is the newest timestamp that the server holds from this replica; nil if none. A replica
	// whose clock is behind it (a restored file) must not stamp anything before it.
	LastTS  *moveop.Timestamp `json:"last_ts"`
	Limits  Limits            `json:"limits"`
	Status  string            `json:"status"`
	Clients []Peer            `json:"clients"`
}

// Ready is the status of a server that takes pushes.
const Ready = "ready"

// The reasons of a Resync.
const (
	ResyncEpoch     = "epoch"     // the cursor is of another history
	ResyncCompacted = "compacted" // the ops right after the cursor are no longer in the log
)

// Resync comes in place of ops where the cursor cannot be served: bootstrap, then hello again.
type Resync struct {
	Reason string `json:"reason"`
	Epoch  string `json:"epoch"`
	Head   int64  `json:"head"`
}

// Ops carries exactly the ops with seq From…To. A receiver whose cursor is not From-1 has a gap and
// sends Pull.
type Ops struct {
	From int64       `json:"from"`
	To   int64       `json:"to"`
	Ops  []moveop.Op `json:"ops"`
}

// Push hands in a batch: ops of the session's replica, ascending by timestamp. The batch is applied
// whole or not at all.
type Push struct {
	ID  string      `json:"id"`
	Ops []moveop.Op `json:"ops"`
	// TraceParent may name the trace that the push belongs to, as the header traceparent of W3C Trace
	// Context does. It is not part of what is pushed, and the binary form has no place for it.
	TraceParent string `json:"traceparent,omitempty"`
}

// Ack answers a Push after its commit.
type Ack struct {
	ID      string   `json:"id"`
	Head    int64    `json:"head"`
	Results []Result `json:"results"`
}

// Nack answers a Push of which nothing was applied.
type Nack struct {
	ID string `json:"id"`
	Error
}

// Pull asks for the ops after a seq again.
type Pull struct {
	After int64 `json:"after"`
}

// Head is sent when a room is idle: it makes a lost last frame visible.
type Head struct {
	Head   int64         `json:"head"`
	Digest moveop.Digest `json:"digest"`
}

// Presence is ephemeral state of a replica (a cursor, a selection). A client sends State, nil or
// null to take it back; a server sends Updates, the latest state of each replica that changed, null
// where it is gone. A message with Updates set is the server's.
type Presence struct {
	State   json.RawMessage
	Updates map[moveop.ReplicaID]json.RawMessage
}

// Connections lists the connected replicas, on every join and leave.
type Connections struct {
	Clients []Peer `json:"clients"`
}

// Ping asks for ServerStatus and Connections.
type Ping struct{}

// ServerStatus answers Ping; its name on the wire is "status".
type ServerStatus struct {
	Status string `json:"status"`
	Head   int64  `json:"head"`
}

// Auth hands in a fresh token on an open socket.
type Auth struct {
	Token string `json:"token"`
}

// PushRequest is the body of POST …/ops. ID is optional and comes back in the answer.
type PushRequest struct {
	ID      string
	Replica moveop.ReplicaID
	Ops     []moveop.Op
}

// Type implements Message.
func (Hello) Type() string { return "hello" }

// Type implements Message.
func (Welcome) Type() string { return "welcome" }

// Type implements Message.
func (Resync) Type() string { return "resync" }

// Type implements Message.
func (Ops) Type() string { return "ops" }

// Type implements Message.
func (Push) Type() string { return "push" }

// Type implements Message.
func (Ack) Type() string { return "ack" }

// Type implements Message.
func (Nack) Type() string { return "nack" }

// Type implements Message.
func (Pull) Type() string { return "pull" }

// Type implements Message.
func (Head) Type() string { return "head" }

// Type implements Message.
func (Presence) Type() string { return "presence" }

// Type implements Message.
func (Connections) Type() string { return "connections" }

// Type implements Message.
func (Ping) Type() string { return "ping" }

// Type implements Message.
func (ServerStatus) Type() string { return "status" }

// Type implements Message.
func (Auth) Type() string { return "auth" }
