package auth_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canopysync/canopy/realtime/auth"
	"github.com/canopysync/canopy/realtime/wire"
)

// fakeLog is a log of revocations in memory.
type fakeLog struct {
	mu     sync.Mutex
	list   []auth.Revocation
	broken error
	reads  int
}

func (l *fakeLog) RevocationsAfter(_ context.Context, after int64, limit int) ([]auth.Revocation, int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads++
	if l.broken != nil {
		return nil, 0, l.broken
	}
	head := int64(len(l.list))
	if after > head {
		return nil, head, nil
	}
	return l.list[after:min(head, after+int64(limit))], head, nil
}

func (l *fakeLog) revoke(ids ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		l.list = append(l.list, auth.Revocation{Version: int64(len(l.list) + 1), ID: id, Expires: noon.Add(time.Hour)})
	}
}

func (l *fakeLog) breakDown(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = err
}

func TestRevokedTokensAreRefused(t *testing.T) {
	t.Parallel()
	log, c := &fakeLog{}, newClock()
	for i := range 2500 { // more than are read at a time
		log.revoke(fmt.Sprint("other-", i))
	}
	key := generate(t, auth.EdDSA)
	list := auth.NewRevocations(auth.RevocationsConfig{Log: log, Now: c.Now})
	v := verifier(t, auth.VerifierConfig{Keys: keyring(t, private(t, key)), Revocations: list, Now: c.Now})
	token := sign(t, key, ann())
	anonymous := ann()
	anonymous.ID = ""
	expect := func(what string, want wire.Code) {
		t.Helper()
		if got := codeOf(t, v, token); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
		if got := codeOf(t, v, sign(t, key, anonymous)); got != "" {
			t.Errorf("%s: a token without an id: %q", what, got)
		}
	}
	load := func() {
		t.Helper()
		if err := list.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	expect("before the list was read", wire.CodeBusy)
	load()
	expect("not revoked", "")
	if !list.Revoked("other-0") || !list.Revoked("other-2499") || list.Revoked("token-1") {
		t.Error("the list is not whole")
	}
	c.advance(11 * time.Second)
	expect("a list that is old", wire.CodeBusy)
	log.revoke("token-1")
	load()
	expect("revoked", wire.CodeUnauthorized)
	log.mu.Lock()
	log.list = nil
	log.mu.Unlock()
	log.revoke("token-1") // after a restore from backup, with version 1
	load()
	expect("in another history", wire.CodeUnauthorized)
	log.revoke("later")
	if load(); !list.Revoked("later") {
		t.Error("the new history is not followed")
	}
	c.advance(2 * time.Hour)
	if load(); list.Revoked("token-1") {
		t.Error("the list keeps what has expired")
	}
}

func TestTheListIsKeptUpToDate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := &fakeLog{}
		list := auth.NewRevocations(auth.RevocationsConfig{Log: log})
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { list.Run(ctx) })
		time.Sleep(10 * time.Second)
		log.revoke("a")
		if time.Sleep(2 * time.Second); !list.Revoked("a") {
			t.Error("not known after two seconds")
		}
		log.breakDown(errors.New("no database"))
		time.Sleep(time.Minute)
		log.breakDown(nil)
		log.revoke("b")
		if time.Sleep(2 * time.Second); !list.Revoked("a") || !list.Revoked("b") {
			t.Error("not known after the database came back")
		}
		stop()
		running.Wait()
		if log.reads > 80 {
			t.Errorf("%d reads in a minute and a bit", log.reads)
		}
	})
}
