package realtime_test

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime"
	"github.com/canopysync/canopy/realtime/wire"
)

// until makes tokens of the form "10s", good for so long from the beginning of the test; "ever" does not
// expire, others are refused.
func until(cfg *realtime.Config) {
	begin := time.Now()
	cfg.Authorize = func(_ context.Context, token, _ string) (realtime.Grant, error) {
		grant := realtime.Grant{Read: true, Write: true, User: "ann"}
		if token == "ever" {
			return grant, nil
		}
		if token == "unsure" {
			return realtime.Grant{}, wire.NewError(wire.CodeBusy, "not now")
		}
		d, err := time.ParseDuration(token)
		if err != nil || time.Since(begin) >= d {
			return realtime.Grant{}, wire.NewError(wire.CodeUnauthorized, "not good")
		}
		grant.Expires = begin.Add(d)
		return grant, nil
	}
}

// withdrawing takes back the token that is stored.
func withdrawing(gone *atomic.Pointer[string]) func(*realtime.Config) {
	return func(cfg *realtime.Config) {
		authorize := cfg.Authorize
		cfg.Authorize = func(ctx context.Context, token, room string) (realtime.Grant, error) {
			grant, err := authorize(ctx, token, room)
			grant.Withdrawn = func() bool { return gone.Load() != nil && *gone.Load() == token }
			return grant, err
		}
	}
}

// joinWith says hello with a token.
func (s *service) joinWith(replica moveop.ReplicaID, token string) *peer {
	s.t.Helper()
	p := s.connect("plan")
	p.replica = replica
	p.send(wire.Hello{Replica: replica, Token: token})
	expect[wire.Welcome](p)
	return p
}

func TestAnOpenSocketEndsWithItsToken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setupPipe(t, until)
		begin := time.Now()
		inHello := s.joinWith(0xa, "10s")
		inHeader, _, err := s.socket("plan", wire.JSON, http.Header{"Authorization": {"Bearer 20s"}})
		if err != nil {
			t.Fatal(err)
		}
		inHeader.hello(0xb, nil, 0)
		inHello.push(1)
		for _, p := range []*peer{inHello, inHeader} {
			if refusal := expectRefusal(p); refusal.Code != wire.CodeUnauthorized || refusal.Retryable {
				t.Errorf("told %+v", refusal)
			}
			if closed := p.expectClose(); closed.Code != wire.CloseUnauthorized {
				t.Errorf("closed with %v", closed)
			}
			begin = begin.Add(10 * time.Second)
			if late := time.Since(begin); late < 0 || late > 5*time.Second {
				t.Errorf("closed %v after the expiry", late)
			}
		}
		if ops := s.stored("plan"); len(ops) != 1 {
			t.Errorf("the log has %d ops, not the acknowledged one", len(ops))
		}
	})
}

func TestAFreshTokenOverTheOpenSocket(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setupPipe(t, until)
		begin := time.Now()
		p := s.joinWith(0xa, "10s")
		time.Sleep(5 * time.Second)
		p.send(wire.Auth{Token: "60s"})
		time.Sleep(10 * time.Second) // past the first one
		p.send(wire.Auth{Token: "unsure"})
		if refusal := expectRefusal(p); refusal.Code != wire.CodeBusy {
			t.Errorf("told %+v", refusal)
		}
		p.push(1) // with the second one still
		if closed := p.expectClose(); closed.Code != wire.CloseUnauthorized || time.Since(begin) < time.Minute {
			t.Errorf("closed with %v after %v", closed, time.Since(begin))
		}
		other := s.joinWith(0xb, "ever")
		other.send(wire.Auth{Token: "10s"}) // has expired
		if closed := other.expectClose(); closed.Code != wire.CloseUnauthorized {
			t.Errorf("an expired token: %v", closed)
		}
	})
}

// A token that expires between the upgrade and hello lets nobody in.
func TestATokenThatEndsBeforeHello(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setupPipe(t, until)
		p, _, err := s.socket("plan", wire.JSON, http.Header{"Authorization": {"Bearer 2s"}})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		p.send(wire.Hello{Replica: 0xa})
		if closed := p.expectClose(); closed.Code != wire.CloseUnauthorized {
			t.Errorf("closed with %v", closed)
		}
	})
}

// A close frame has 123 bytes for the reason, which have to be UTF-8: a peer takes any other for a broken one.
func TestALongReasonIsCutBetweenCharacters(t *testing.T) {
	t.Parallel()
	s := setup(t, func(cfg *realtime.Config) {
		cfg.Authorize = func(context.Context, string, string) (realtime.Grant, error) {
			return realtime.Grant{}, wire.NewError(wire.CodeUnauthorized, "%s", strings.Repeat("ü", 100))
		}
	})
	p := s.connect("plan")
	p.send(wire.Hello{Replica: 0xa, Token: "x"})
	expect[*wire.Error](p)
	if closed := p.expectClose(); closed.Code != wire.CloseUnauthorized || closed.Text != strings.Repeat("ü", 61) {
		t.Errorf("closed with %v", closed)
	}
}

func TestRevocationReachesOpenSockets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var revoked atomic.Pointer[string]
		s := setupPipe(t, until, withdrawing(&revoked))
		p, other := s.joinWith(0xa, "ever"), s.joinWith(0xb, "90s")
		time.Sleep(20 * time.Second)
		id := "ever"
		revoked.Store(&id)
		begin := time.Now()
		if closed := p.expectClose(); closed.Code != wire.CloseUnauthorized || time.Since(begin) > 5*time.Second {
			t.Errorf("closed with %v after %v", closed, time.Since(begin))
		}
		other.push(1) // is not concerned
	})
}

// A peer that takes nothing is turned away as soon as any other.
func TestRevocationReachesASocketThatDoesNotRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setupPipe(t, until)
		p := s.joinWith(0xa, "10s")
		watcher := s.joinWith(0xb, "ever")
		watcher.push(20) // which the first one does not take
		time.Sleep(10 * time.Second)
		begin := time.Now()
		expectMembers(watcher, 1)
		if late := time.Since(begin); late > 5*time.Second {
			t.Errorf("in the room for %v more", late)
		}
		_ = p.conn.Close()
	})
}

// expectRefusal reads until an error message comes.
func expectRefusal(p *peer) *wire.Error {
	p.t.Helper()
	for {
		if e, ok := p.next().(*wire.Error); ok {
			return e
		}
	}
}
