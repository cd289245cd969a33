//go:build unix

package main

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/pgfuncs/pgtest"
)

// startRealtime starts `canopy serve realtime` on a free port and returns its URL when it is ready.
func startRealtime(t *testing.T, database string, args ...string) (*program, string) {
	t.Helper()
	p := start(t, append([]string{
		"serve", "realtime", "--json", "--insecure-no-auth", "--addr=127.0.0.1:0", "--database-url", database,
	}, args...)...)
	var ready serviceReady
	parseJSON(t, p.line(), &ready)
	return p, ready.URL
}

// Three processes serve one room. One of them is killed while its people are at it: nothing is lost, and
// nobody who does not come back is shown as still there.
func TestARealtimeProcessIsKilled(t *testing.T) {
	t.Parallel()
	w := setup(t)
	var programs []*program
	var urls []string
	for range 3 {
		p, url := startRealtime(t, w.database)
		programs, urls = append(programs, p), append(urls, url)
	}
	playKilled(t, w, programs, urls)
}

// The same where they talk over NATS.
func TestARealtimeProcessOnNATSIsKilled(t *testing.T) {
	t.Parallel()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	w := setup(t)
	var programs []*program
	var urls []string
	for range 3 {
		p, url := startRealtime(t, w.database, "--hints=nats", "--nats-url", s.ClientURL())
		programs, urls = append(programs, p), append(urls, url)
	}
	playKilled(t, w, programs, urls)
}

func TestNATSSettingsAreChecked(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	for _, flags := range [][]string{
		{"--nats-url=nats://127.0.0.1:x"}, {"--nats-prefix=a.*"}, {"--nats-creds=/nowhere"}, {"--nats-ca=/nowhere"},
	} {
		args := append([]string{"serve", "realtime", "--insecure-no-auth", "--addr=127.0.0.1:0", "--hints=nats", "--database-url", database}, flags...)
		if r := command(t.Context(), nil, nil, args...); r.code != exitUsage {
			t.Errorf("%v: exit code %d: %s", flags, r.code, r.stderr)
		}
	}
}

// playKilled has people meet at three processes, and kills the first.
func playKilled(t *testing.T, w *world, programs []*program, urls []string) {
	t.Helper()
	const edits = 60
	dir := t.TempDir()
	var people []*person
	for i, name := range []string{"ann", "ben", "cleo", "dan"} {
		at := world{t: t, realtime: urls[i%3], bootstrap: w.bootstrap} // dan is where ann is
		p := newPerson(t, &at, name, filepath.Join(dir, name), rand.New(rand.NewPCG(1, uint64(i))))
		t.Cleanup(func() { _ = p.Close() })
		if err := p.SetPresence(name); err != nil {
			t.Fatal(err)
		}
		people = append(people, p)
		p.editOnce(t)
	}
	ann, ben, cleo, dan := people[0], people[1], people[2], people[3]
	for _, p := range people {
		p.awaitOps(t, 4)
		p.awaitPeers(t, "ann", "ben", "cleo", "dan")
	}

	for i := range edits {
		for _, p := range people[:3] {
			p.editOnce(t)
		}
		if i == edits/2 {
			programs[0].signal(syscall.SIGKILL)
			<-programs[0].exited
			if err := dan.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	ann.cable.to(urls[1])
	for _, p := range people[:3] {
		p.awaitOps(t, 4+3*edits)
		p.awaitPeers(t, "ann", "ben", "cleo")
	}
	for _, p := range []*person{ben, cleo} {
		if p.Digest() != ann.Digest() || p.Status().Mismatches != 0 {
			t.Errorf("%s has digest %+v, ann %+v", p.name, p.Digest(), ann.Digest())
		}
	}
}

// editOnce makes one operation.
func (p *person) editOnce(t *testing.T) {
	t.Helper()
	err := p.Edit(t.Context(), func(tx *client.Tx) error {
		_, err := tx.Create(moveop.Root, client.Last)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// awaitOps waits until so many operations have come, and all of the person's own have been acknowledged.
func (p *person) awaitOps(t *testing.T, seq int64) {
	t.Helper()
	for s := range p.WatchStatus(t.Context()) {
		if s.Seq == seq && s.Pending == 0 {
			return
		}
	}
	t.Fatalf("%s: %+v", p.name, p.Status())
}

// awaitPeers waits until exactly those of the named who are others are there, each showing its name.
func (p *person) awaitPeers(t *testing.T, names ...string) {
	t.Helper()
	want := slices.DeleteFunc(names, func(name string) bool { return name == p.name })
	for peers := range p.WatchPeers(t.Context()) {
		var got []string
		for _, peer := range peers {
			if string(peer.State) == fmt.Sprintf("%q", peer.Name) {
				got = append(got, peer.Name)
			} else {
				got = append(got, peer.Name+" without presence")
			}
		}
		if slices.Sort(got); strings.Join(got, " ") == strings.Join(want, " ") {
			return
		}
	}
	t.Fatalf("%s knows of %+v", p.name, p.Peers())
}
