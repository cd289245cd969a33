// Package transporttest listens to a transport, for the tests of each. It is for tests only.
package transporttest

import (
	"context"
	"sync"
	"testing"

	"github.com/canopysync/canopy/realtime"
)

// Ear is a transport with the messages heard on it.
type Ear struct {
	realtime.Transport
	Heard chan string // room, space, data
	Live  chan bool

	t testing.TB
}

// Listen listens until the test ends.
func Listen(t testing.TB, transport realtime.Transport) *Ear {
	e := &Ear{Transport: transport, Heard: make(chan string, 10_000), Live: make(chan bool, 100), t: t}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		e.Transport.Listen(ctx, func(room string, data []byte) { e.Heard <- room + " " + string(data) }, func(live bool) { e.Live <- live })
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return e
}

// Say sends one message.
func (e *Ear) Say(room, data string) {
	e.t.Helper()
	if err := e.Send(e.t.Context(), map[string][]byte{room: []byte(data)}); err != nil {
		e.t.Fatal(err)
	}
}

// Expect waits for the next message, which must be the wanted one: room, space, data.
func (e *Ear) Expect(want string) {
	e.t.Helper()
	if got := <-e.Heard; got != want {
		e.t.Fatalf("heard %.100q, not %.100q", got, want)
	}
}

// ExpectLive waits until the transport reports whether it is live, and fails the test on the wrong answer.
func (e *Ear) ExpectLive(want bool) {
	e.t.Helper()
	if got := <-e.Live; got != want {
		e.t.Fatalf("live is %v", got)
	}
}
