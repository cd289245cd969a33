package realtime

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/canopysync/canopy/realtime/wire"
)

// sockets counts open sockets, in all and by who they are from.
type sockets struct {
	mu   sync.Mutex // guards what follows
	all  int
	from map[origin]int
}

// origin is the network or user that a socket counts for. The zero origin is not limited.
type origin struct {
	network netip.Prefix
	user    string
}

// take counts a socket, unless there are limit from there already.
func (s *sockets) take(from origin, limit int) (ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if from == (origin{}) {
		return true
	}
	if s.from[from] >= limit {
		return false
	}
	s.from[from]++
	return true
}

func (s *sockets) give(from origin) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.from[from]--; s.from[from] <= 0 {
		delete(s.from, from)
	}
}

// takeAny counts a socket for the whole server.
func (s *sockets) takeAny(limit int) (ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= limit {
		return false
	}
	s.all++
	return true
}

func (s *sockets) giveAny() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
}

// takeSocket makes sure that one more socket is within the limits, and counts it until give.
func (s *Server) takeSocket(r *http.Request) (give func(), err *wire.Error) {
	limits, from := s.cfg.Limits, origin{network: s.network(r)}
	if !s.sockets.takeAny(limits.Sockets) {
		s.metrics.limited.WithLabelValues("sockets").Inc()
		return nil, wire.NewError(wire.CodeBusy, "the server has reached its limit of %d open sockets", limits.Sockets)
	}
	if !s.sockets.take(from, limits.SocketsPerAddress) {
		s.sockets.giveAny()
		s.metrics.limited.WithLabelValues("sockets_per_address").Inc()
		return nil, wire.NewError(wire.CodeRateLimited, "this address has reached its limit of %d open sockets", limits.SocketsPerAddress)
	}
	return func() {
		s.sockets.give(from)
		s.sockets.giveAny()
	}, nil
}

// takeUser is the same for the user that hello's token named.
func (s *session) takeUser(user string) *wire.Error {
	limit := s.srv.cfg.Limits.SocketsPerUser
	from := origin{user: user}
	if !s.srv.sockets.take(from, limit) {
		s.srv.metrics.limited.WithLabelValues("sockets_per_user").Inc()
		return wire.NewError(wire.CodeRateLimited, "this user has reached the limit of %d open sockets", limit)
	}
	s.counted = from
	return nil
}

// network is the source of a request, for counting sockets: an IPv4 address, or the /64 of an IPv6 address, because a
// single host can use a whole /64. It is invalid, that is not counted, for this machine's own addresses, which a
// proxy or a tool of the operator uses.
func (s *Server) network(r *http.Request) netip.Prefix {
	addr := s.clientAddr(r)
	if !addr.IsValid() || addr.IsLoopback() {
		return netip.Prefix{}
	}
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	prefix, err := addr.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return prefix
}

// clientAddr is the address of the peer, or, where that is a trusted proxy, the last one in
// X-Forwarded-For that is not: what is further left, the client may have made up.
func (s *Server) clientAddr(r *http.Request) netip.Addr {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	addr := parseAddr(host)
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		if !s.trusted(addr) {
			break
		}
		next := parseAddr(strings.TrimSpace(hop))
		if !next.IsValid() {
			break
		}
		addr = next
	}
	return addr
}

func parseAddr(text string) netip.Addr {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}
	}
	return addr.Unmap()
}

func (s *Server) trusted(addr netip.Addr) bool {
	return slices.ContainsFunc(s.cfg.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// allowance is a token bucket: the number of ops that a connection may still push. It grows by rate per second, holds
// at most one second's worth, and may be overdrawn by one batch.
type allowance struct {
	mu   sync.Mutex // guards what follows
	rate float64
	left float64
	at   time.Time
}

func newAllowance(rate int) *allowance {
	return &allowance{rate: float64(rate), left: float64(rate), at: time.Now()}
}

// overdrawn is the time until there is something left.
func (a *allowance) overdrawn() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	a.left = min(a.rate, a.left+a.rate*now.Sub(a.at).Seconds())
	a.at = now
	if a.left >= 0 {
		return 0
	}
	return time.Duration(-a.left / a.rate * float64(time.Second))
}

func (a *allowance) spend(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.left -= float64(n)
}

// slowDown delays the reader while the connection has overdrawn its allowance of ops or messages. Nothing is refused,
// lost or reordered: the peer must wait to send more.
func (s *session) slowDown(ctx context.Context) error {
	wait, limit := s.allowance.overdrawn(), "ops_per_second"
	if longer := s.messages.overdrawn(); longer > wait {
		wait, limit = longer, "messages_per_second"
	}
	if wait == 0 {
		return nil
	}
	s.srv.metrics.limited.WithLabelValues(limit).Inc()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for s.closeFrame() == nil {
		select {
		case <-timer.C:
			return nil
		case <-s.room: // or it is closing
		case <-ctx.Done():
			return errClosed
		}
	}
	return nil
}

// allowanceKey finds a connection's allowance in the context of its requests.
type allowanceKey struct{}

// spendOn charges a push of n ops by a request to its connection. If that is overdrawn, the request waits first, for
// no longer than MaxOps take, since the requests of a connection come one by one. Behind a Handler that somebody else
// serves, connections cannot be told apart.
func (s *Server) spendOn(ctx context.Context, n int) error {
	a, ok := ctx.Value(allowanceKey{}).(*allowance)
	if !ok {
		return nil
	}
	if wait := a.overdrawn(); wait > 0 {
		s.metrics.limited.WithLabelValues("ops_per_second").Inc()
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return wire.NewError(wire.CodeBusy, "the request was cancelled")
		}
	}
	a.spend(n)
	return nil
}
