// Package wire defines the messages between clients and the realtime service, and their two encodings:
// JSON, for any client, and the compact binary form that the Go client negotiates. This is version 1 of
// the protocol; the README of this package has its tables.
//
// Everything here is plain data: values are safe to copy, codecs are stateless and safe for concurrent
// use. Decoding takes memory and time in proportion to its input, and never panics.
package wire

import (
	"encoding/json"
	"errors"

	"github.com/canopysync/canopy/moveop"
)

// Message is one of the message types of this package: a pointer for *Error, the message "error", and a
// value for all others.
type Message interface {
	// Type is the message's name on the wire.
	Type() string
}

// Hello is a client's first message. Its cursor is (Epoch, Seq): the client has applied everything up to
// it. A nil Epoch with Seq 0 means nothing yet.
type Hello struct {
	Replica moveop.ReplicaID `json:"replica"`
	Epoch   *string          `json:"epoch"`
	Seq     int64            `json:"seq"`
	Name    string           `json:"name,omitempty"`
	Token   string           `json:"token,omitempty"`
}

// Limits are the server's limits for one message.
type Limits struct {
	MaxOps   int   `json:"max_ops"`   // ops in one push
	MaxFrame int64 `json:"max_frame"` // bytes in one frame
}

// Peer is a connected replica.
type Peer struct {
	Replica moveop.ReplicaID `json:"replica"`
	Name    string           `json:"name"`
	User    string           `json:"user"`
}

// UnmarshalJSON requires a valid replica: a missing one would be zero, which no replica is.
func (h *Hello) UnmarshalJSON(text []byte) error {
	type plain Hello
	if err := json.Unmarshal(text, (*plain)(h)); err != nil {
		return err
	}
	return needReplica(h.Replica)
}

// UnmarshalJSON requires a valid replica.
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
	// LastTS is the newest timestamp that the server has from this replica; nil if none. A replica whose
	// clock is behind it (its file was restored) must not issue a timestamp before it.
	LastTS  *moveop.Timestamp `json:"last_ts"`
	Limits  Limits            `json:"limits"`
	Status  string            `json:"status"`
	Clients []Peer            `json:"clients"`
}

// Ready is the status of a server that accepts pushes.
const Ready = "ready"

// The reasons of a Resync.
const (
	ResyncEpoch     = "epoch"     // the cursor is of another history
	ResyncCompacted = "compacted" // the ops right after the cursor are no longer in the log
)

// Resync replaces Ops if the server cannot serve the cursor: load a snapshot, then say Hello again.
type Resync struct {
	Reason string `json:"reason"`
	Epoch  string `json:"epoch"`
	Head   int64  `json:"head"`
}

// Ops carries exactly the ops with seq From to To. A receiver whose cursor is not From-1 has a gap and
// sends Pull.
type Ops struct {
	From int64       `json:"from"`
	To   int64       `json:"to"`
	Ops  []moveop.Op `json:"ops"`
}

// Push sends a batch of ops by the session's replica, ascending by timestamp. The server applies all of
// the batch or none of it.
type Push struct {
	ID  string      `json:"id"`
	Ops []moveop.Op `json:"ops"`
	// TraceParent may name the trace of the push, in the form of the traceparent header of W3C Trace
	// Context. It is not part of the batch, and the binary form does not carry it.
	TraceParent string `json:"traceparent,omitempty"`
}

// Ack answers a Push after its commit.
type Ack struct {
	ID      string   `json:"id"`
	Head    int64    `json:"head"`
	Results []Result `json:"results"`
}

// Nack answers a Push that the server refused. It applied none of the batch.
type Nack struct {
	ID string `json:"id"`
	Error
}

// Pull requests the ops after a seq again.
type Pull struct {
	After int64 `json:"after"`
}

// Head is sent while a room is idle, so that a client notices a lost last frame.
type Head struct {
	Head   int64         `json:"head"`
	Digest moveop.Digest `json:"digest"`
}

// Presence is the ephemeral state of a replica (a cursor, a selection). A client sends State; nil or null
// removes it. A server sends Updates: the latest state of each replica whose state changed, null if it is
// gone. A message with Updates set comes from the server.
type Presence struct {
	State   json.RawMessage
	Updates map[moveop.ReplicaID]json.RawMessage
}

// Connections lists the connected replicas. The server sends it when a replica joins or leaves.
type Connections struct {
	Clients []Peer `json:"clients"`
}

// Ping requests ServerStatus and Connections.
type Ping struct{}

// ServerStatus answers Ping; its name on the wire is "status".
type ServerStatus struct {
	Status string `json:"status"`
	Head   int64  `json:"head"`
}

// Auth replaces the token of an open socket.
type Auth struct {
	Token string `json:"token"`
}

// PushRequest is the body of POST …/ops. ID is optional; the response repeats it.
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
