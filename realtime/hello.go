package realtime

import (
	"context"
	"time"

	"github.com/gorilla/websocket"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// hello opens the session, or gives an open one a new cursor (after a resync and a bootstrap).
func (s *session) hello(ctx context.Context, msg wire.Hello) {
	if err := s.checkHello(msg); err != nil {
		s.refuse(wire.AsError(err))
		return
	}
	s.late.Stop()
	if !s.greeted() {
		if err := s.enter(ctx, msg); err != nil {
			s.turnAway(err)
			return
		}
	}
	if err := s.welcome(ctx, msg); err != nil {
		s.turnAway(err)
	}
}

func (s *session) checkHello(msg wire.Hello) error {
	if msg.Seq < 0 {
		return wire.NewError(wire.CodeBadRequest, "seq is negative")
	}
	if limit := s.srv.cfg.Limits.NameBytes; len(msg.Name) > limit {
		return wire.NewError(wire.CodeBadRequest, "the name has %d bytes, the limit is %d", len(msg.Name), limit)
	}
	if s.greeted() && msg.Replica != s.replica {
		return wire.NewError(wire.CodeBadRequest, "the session is replica %s's", s.replica)
	}
	return nil
}

// enter checks the token and makes the session its replica's only one in the room.
func (s *session) enter(ctx context.Context, msg wire.Hello) error {
	grant := s.grant
	if !s.admitted {
		var err error
		if grant, err = s.admit(ctx, msg.Token); err != nil {
			return err
		}
	}
	if err := s.srv.check(grant); err != nil {
		return err
	}
	if limited := s.takeUser(grant.User); limited != nil {
		return limited
	}
	s.hub.mu.Lock()
	s.replica, s.name, s.grant = msg.Replica, msg.Name, grant
	s.hub.mu.Unlock()
	if s.inUse(ctx) {
		return replicaInUse(s.replica)
	}
	s.log.Info("joined", "replica", s.replica.String(), "user", grant.User)
	s.recheck(ctx)
	return nil
}

// admit checks the token of hello, and then enters the room.
func (s *session) admit(ctx context.Context, token string) (Grant, error) {
	grant, err := s.srv.authorize(ctx, token, s.at)
	if err != nil {
		return Grant{}, err
	}
	h, err := s.srv.letIn(ctx, s.at, grant)
	if err != nil {
		return Grant{}, err
	}
	s.goIn(h)
	return grant, nil
}

// inUse makes the session a member of the room, unless its replica has another live socket there, at this or another
// process.
func (s *session) inUse(ctx context.Context) bool {
	s.hub.meet(ctx)
	for {
		older := s.hub.join(s)
		if older == nil {
			break
		}
		if older.alive(ctx) {
			return true
		}
		older.close(wire.CloseReplicaInUse, replaced)
		s.hub.leave(older)
	}
	if s.hub.contested(ctx, s) {
		s.hub.leave(s)
		return true
	}
	return false
}

// replaced is the message to a socket that makes way for another one of its replica.
const replaced = "replaced: no sign of life"

// alive asks the peer for a sign of life. That distinguishes a second process with the same replica, which must be
// refused, from the same process after a network failure, whose old socket is dead.
func (s *session) alive(ctx context.Context) bool {
	s.proving.Lock() // two who ask would take each other's answer
	defer s.proving.Unlock()
	select { // of an earlier ping
	case <-s.probes:
	default:
	}
	deadline := time.NewTimer(s.srv.cfg.Timing.Probe)
	defer deadline.Stop()
	limit := time.Now().Add(s.srv.cfg.Timing.Probe)
	if err := s.conn.WriteControl(websocket.PingMessage, []byte("probe"), limit); err != nil {
		return false
	}
	select {
	case <-s.probes:
		return s.closeFrame() == nil
	case <-deadline.C:
	case <-ctx.Done():
	}
	return false
}

// welcome answers hello and sets the cursor.
func (s *session) welcome(ctx context.Context, msg wire.Hello) error {
	epoch := ""
	if msg.Epoch != nil {
		epoch = *msg.Epoch
	}
	if err := s.hub.reach(ctx, epoch, msg.Seq); err != nil {
		return err
	}
	last, err := s.lastTimestamp(ctx)
	if err != nil {
		return err
	}
	s.reply(s.prepareWelcome(epoch, msg.Seq, last))
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.place.greeted = true
	signal(s.wake)
	return nil
}

// lastTimestamp is the newest timestamp held from the replica, nil if none.
func (s *session) lastTimestamp(ctx context.Context) (*moveop.Timestamp, error) {
	if !s.hub.known() {
		return nil, nil
	}
	ctx, cancel := s.srv.storeContext(ctx)
	defer cancel()
	last, err := s.srv.cfg.Store.LastTimestamp(ctx, s.hub.room, s.replica)
	if err != nil {
		return nil, s.srv.storeError(s.log, "read last timestamp", err)
	}
	if last.IsZero() {
		return nil, nil
	}
	return &last, nil
}

// prepareWelcome sets the place that the welcome describes. Nothing is sent to the socket until the welcome is
// queued; everything that happens in the room from here on is ahead of its place.
func (s *session) prepareWelcome(epoch string, seq int64, last *moveop.Timestamp) wire.Welcome {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	s.place = place{
		generation: s.place.generation,
		peers:      h.peers.version,
		joinedAt:   h.presence.published,
		head:       h.headVer,
	}
	h.seek(s, epoch, seq)
	return wire.Welcome{
		Epoch:      h.epoch,
		Head:       h.committed,
		MinSeq:     h.minSeq,
		ServerTime: s.srv.cfg.Now().UnixMilli(),
		LastTS:     last,
		Limits:     wire.Limits{MaxOps: s.srv.cfg.Limits.MaxOps, MaxFrame: s.srv.cfg.Limits.MaxFrame},
		Status:     wire.Ready,
		Clients:    h.clients(),
	}
}
