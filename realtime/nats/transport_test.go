package nats_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/canopysync/canopy/realtime/nats"
	"github.com/canopysync/canopy/realtime/transporttest"
)

func listen(t *testing.T, cfg nats.Config) *transporttest.Ear {
	t.Helper()
	transport, err := nats.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(transport.Close)
	return transporttest.Listen(t, transport)
}

// What is said in a room comes to those who follow it, under whatever name; what is said to all to all.
func TestRoomsThatAreFollowed(t *testing.T) {
	t.Parallel()
	url, _ := startServer(t)
	a, b := listen(t, nats.Config{URL: url}), listen(t, nats.Config{URL: url})
	other := listen(t, nats.Config{URL: url, Prefix: "canopy.staging"})
	for _, e := range []*transporttest.Ear{a, b, other} {
		e.ExpectLive(true)
	}
	other.Follow("a..b.")
	unfollow := b.Follow("a..b.")
	b.Follow("plan")
	b.Say("", "subscribed") // behind which the server has seen to that
	a.Expect(" subscribed")
	a.Say("elsewhere", "0")
	a.Say("a..b.", "1")
	a.Say("plan", "2")
	a.Say("", "\x00\xff")
	b.Expect("a..b. 1")
	b.Expect("plan 2")
	b.Expect(" \x00\xff")
	unfollow()
	b.Say("", "unsubscribed")
	a.Expect(" unsubscribed")
	a.Say("a..b.", "3")
	a.Say("plan", "4")
	b.Expect("plan 4")
	if n := len(other.Heard); n != 0 {
		t.Errorf("%d messages under another prefix", n)
	}
}

// A server that stops and comes back: that is told, and rooms are followed as before.
func TestServerRestarts(t *testing.T) {
	t.Parallel()
	address, stop := startServer(t)
	e, other := listen(t, nats.Config{URL: address}), listen(t, nats.Config{URL: address})
	e.ExpectLive(true)
	other.ExpectLive(true)
	e.Follow("plan")
	stop()
	e.ExpectLive(false)
	other.ExpectLive(false)
	if err := e.Send(t.Context(), map[string][]byte{"plan": nil}); err == nil {
		t.Error("sent to nobody")
	}
	startServer(t, onPort(t, address))
	e.ExpectLive(true)
	other.ExpectLive(true)
	other.Say("plan", "1")
	e.Expect("plan 1")
}

// Nobody has to start the server first.
func TestServerComesLater(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := "nats://" + ln.Addr().String()
	_ = ln.Close()
	e := listen(t, nats.Config{URL: address})
	e.Follow("plan")
	startServer(t, onPort(t, address))
	e.ExpectLive(true)
	other := listen(t, nats.Config{URL: address})
	other.ExpectLive(true)
	other.Say("plan", "1")
	e.Expect("plan 1")
}

// Who hears too slowly loses messages, and is told so.
func TestLostMessagesAreTold(t *testing.T) {
	t.Parallel()
	address, _ := startServer(t)
	transport, err := nats.Open(nats.Config{URL: address})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(transport.Close)
	ctx, cancel := context.WithCancel(t.Context())
	hold, live, done := make(chan struct{}), make(chan bool, 100), make(chan struct{})
	go func() {
		defer close(done)
		transport.Listen(ctx, func(string, []byte) { <-hold }, func(v bool) { live <- v })
	}()
	<-live
	talker := listen(t, nats.Config{URL: address})
	talker.ExpectLive(true)
	follower := listen(t, nats.Config{URL: address})
	follower.ExpectLive(true)
	for i := range 5000 {
		talker.Say("", fmt.Sprint(i))
		follower.Expect(fmt.Sprint(" ", i)) // so that the follower is never slow
	}
	close(hold)
	if <-live || !<-live {
		t.Error("not lost and live again")
	}
	cancel()
	<-done
}

func TestTooLongForTheServer(t *testing.T) {
	t.Parallel()
	address, _ := startServer(t, func(o *server.Options) { o.MaxPayload = 1000 })
	e, other := listen(t, nats.Config{URL: address}), listen(t, nats.Config{URL: address})
	e.ExpectLive(true)
	other.ExpectLive(true)
	e.Say("", strings.Repeat("x", 1001))
	e.Say("", "short")
	other.Expect(" short")
}

func TestPasswordAndTLS(t *testing.T) {
	t.Parallel()
	cert, ca := selfSigned(t)
	address, _ := startServer(t, func(o *server.Options) {
		o.Username, o.Password = "canopy", "secret"
		o.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}}
	})
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	e := listen(t, nats.Config{URL: "tls://canopy:secret@" + u.Host, CA: ca})
	e.ExpectLive(true)
	for _, cfg := range []nats.Config{
		{URL: "tls://canopy:wrong@" + u.Host, CA: ca}, {URL: "tls://canopy:secret@" + u.Host},
	} {
		refused := listen(t, cfg)
		e.Say("", "1")
		if len(refused.Live) != 0 || len(refused.Heard) != 0 {
			t.Errorf("%s with CA %q is let in", cfg.URL, cfg.CA)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "missing")
	for name, cfg := range map[string]nats.Config{
		"no port":        {URL: "nats://127.0.0.1:x"},
		"empty token":    {URL: "nats://127.0.0.1", Prefix: "a..b"},
		"wildcard":       {URL: "nats://127.0.0.1", Prefix: "a.*"},
		"space":          {URL: "nats://127.0.0.1", Prefix: "a b"},
		"no CA":          {URL: "nats://127.0.0.1", CA: missing},
		"key only":       {URL: "nats://127.0.0.1", Key: missing},
		"no credentials": {URL: "nats://127.0.0.1", Credentials: missing},
	} {
		transport, err := nats.Open(cfg)
		if err == nil {
			transport.Close()
			t.Errorf("%s: no error", name)
		}
	}
}

// selfSigned makes a certificate for this machine and a file that has it.
func selfSigned(t *testing.T) (cert tls.Certificate, file string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}

// onPort has a server listen where another one did, or will be looked for.
func onPort(t *testing.T, address string) func(*server.Options) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	return func(o *server.Options) { o.Port = port }
}
