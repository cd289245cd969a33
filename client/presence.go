package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// Peer is another replica that is connected to the room.
type Peer struct {
	Replica moveop.ReplicaID
	Name    string // Options.Name over there
	User    string // from its token
	// State is what it passed to SetPresence, as JSON; nil if nothing.
	State json.RawMessage
}

// presenceInterval is the least time between two states sent; the ones between them are dropped.
const presenceInterval = 50 * time.Millisecond

// presence is what this replica shows to others, and they to it. None of it is stored.
type presence struct {
	mu       sync.Mutex // guards what follows, and the order in which peers are published
	own      json.RawMessage
	dirty    bool
	members  []wire.Peer
	states   map[moveop.ReplicaID]json.RawMessage
	watchers watchers[[]Peer]
}

// MaxPresence is the maximum length of a presence state in bytes of JSON: the realtime service's default
// limit. It must fit into a frame, or it would end every connection.
const MaxPresence = 4 << 10

// SetPresence shows a state, such as a cursor or a selection, to the other connected replicas for as
// long as this one is connected; nil removes it. It never blocks: only the latest state is sent, as soon
// as there is a connection, and every 50 ms at most. The error is ErrPresenceTooLarge if the state is
// longer than MaxPresence; the previous state then stays.
func (c *Client) SetPresence(state any) error {
	text, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("set presence: %w", err)
	}
	if !utf8.Valid(text) { // as of a json.RawMessage; the server would pass it on to nobody
		return errors.New("set presence: the state is not UTF-8")
	}
	if len(text) > MaxPresence {
		return fmt.Errorf("set presence: %w: %d bytes, the limit is %d", ErrPresenceTooLarge, len(text), MaxPresence)
	}
	if string(text) == "null" {
		text = nil
	}
	c.presence.mu.Lock()
	c.presence.own, c.presence.dirty = text, true
	c.presence.mu.Unlock()
	signal(c.wakeups)
	return nil
}

// Peers returns the other connected replicas, in order of their ids. Without a connection there are
// none.
func (c *Client) Peers() []Peer {
	c.presence.mu.Lock()
	defer c.presence.mu.Unlock()
	return c.presence.peers(c.Replica())
}

// WatchPeers returns a channel of the results of Peers: the current one, then each new one. A slow reader
// gets only the newest. The channel is closed when ctx is done or the client is closed.
func (c *Client) WatchPeers(ctx context.Context) <-chan []Peer {
	c.presence.mu.Lock()
	defer c.presence.mu.Unlock()
	return c.presence.watchers.subscribe(ctx, 1, c.presence.peers(c.Replica()))
}

// peers needs mu.
func (p *presence) peers(self moveop.ReplicaID) []Peer {
	peers := make([]Peer, 0, len(p.members))
	for _, m := range p.members {
		if m.Replica != self {
			peers = append(peers, Peer{m.Replica, m.Name, m.User, p.states[m.Replica]})
		}
	}
	slices.SortFunc(peers, func(a, b Peer) int { return cmp.Compare(a.Replica, b.Replica) })
	return peers
}

// setMembers takes over who is connected. Who left takes his state along.
func (c *Client) setMembers(members []wire.Peer) {
	p := &c.presence
	p.mu.Lock()
	defer p.mu.Unlock()
	p.members = members
	present := make(map[moveop.ReplicaID]bool, len(members))
	for _, m := range members {
		present[m.Replica] = true
	}
	maps.DeleteFunc(p.states, func(r moveop.ReplicaID, _ json.RawMessage) bool { return !present[r] })
	p.watchers.publish(p.peers(c.Replica()), sendLatest[[]Peer])
}

// showStates takes over what others show. A state may come before its replica is listed.
func (c *Client) showStates(updates map[moveop.ReplicaID]json.RawMessage) {
	p := &c.presence
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.states == nil {
		p.states = map[moveop.ReplicaID]json.RawMessage{}
	}
	for replica, state := range updates {
		if state == nil || string(state) == "null" {
			delete(p.states, replica)
		} else {
			p.states[replica] = state
		}
	}
	p.watchers.publish(p.peers(c.Replica()), sendLatest[[]Peer])
}

// take returns the state to send; ok is false where the server has it already.
func (p *presence) take() (state json.RawMessage, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	state, ok = p.own, p.dirty
	p.dirty = false
	return state, ok
}

// connected has the state sent again on a new connection.
func (p *presence) connected() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dirty = p.own != nil
}
