package client_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
)

// jwt makes what looks like a token that ends at a time.
func jwt(end time.Time) string {
	claims := fmt.Sprintf(`{"sub":"ann","exp":%d}`, end.Unix())
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
}

// A token is replaced over the open connection before it ends, also where the first try to get another
// one fails.
func TestAFreshTokenBeforeTheOldOneEnds(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	sent := make(chan string, 10)
	s.hook(func(h *hooks) { h.auth = func(token string) { sent <- token } })
	short, long := jwt(time.Now().Add(8*time.Second)), jwt(time.Now().Add(time.Hour))
	var connected atomic.Bool
	var asked atomic.Int32
	opts := s.options()
	opts.Token = func(context.Context) (string, error) {
		if !connected.Load() {
			return short, nil
		}
		if asked.Add(1) == 1 {
			return "", errors.New("not now")
		}
		return long, nil
	}
	c := open(t, filepath.Join(t.TempDir(), "replica"), opts)
	s.synced(t, c)
	connected.Store(true)
	select {
	case token := <-sent:
		if token != long {
			t.Errorf("sent %s", token)
		}
	case <-time.After(time.Minute):
		t.Fatal("no token was sent")
	}
	create(t, c, moveop.Root, client.Last, "a")
	s.synced(t, c)
	if hellos := s.counts().hellos; len(hellos) != 1 {
		t.Errorf("%d connections", len(hellos))
	}
}

// Tokens that say nothing of an end are left alone.
func TestOpaqueTokensAreNotRefreshed(t *testing.T) {
	t.Parallel()
	for _, token := range []string{"", "opaque", "a.b.c", "e30.e30.", "e30.W10.", jwt(time.Unix(0, 0))} {
		s := newServer(t)
		s.hook(func(h *hooks) { h.auth = func(string) { t.Errorf("%q was refreshed", token) } })
		opts := s.options()
		opts.Token = func(context.Context) (string, error) { return token, nil }
		c := open(t, filepath.Join(t.TempDir(), "replica"), opts)
		s.synced(t, c)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
