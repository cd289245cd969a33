package auth_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canopysync/canopy/realtime/auth"
	"github.com/canopysync/canopy/realtime/wire"
)

// issuer publishes keys.
type issuer struct {
	*httptest.Server
	mu     sync.Mutex
	body   string
	status int
	asked  int
	gate   chan struct{} // answers wait for it
}

func newIssuer(t *testing.T, body string) *issuer {
	t.Helper()
	i := &issuer{body: body, status: http.StatusOK}
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		body, status, gate := i.body, i.status, i.gate
		i.asked++
		i.mu.Unlock()
		if gate != nil {
			<-gate
		}
		if status == http.StatusFound {
			http.Redirect(w, r, "/elsewhere", status)
			return
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(i.Close)
	return i
}

func (i *issuer) publish(status int, keys ...string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.status, i.body = status, jwks(keys...)
}

func (i *issuer) requests() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.asked
}

// verifier is one with the issuer's keys.
func (i *issuer) verifier(t *testing.T, c *clock) *auth.Verifier {
	t.Helper()
	source, err := auth.URL(i.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	keys := auth.NewKeyring(auth.KeyringConfig{Sources: []auth.Source{source}, Now: c.Now})
	if err := keys.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return verifier(t, auth.VerifierConfig{Keys: keys, Now: c.Now})
}

func TestRotation(t *testing.T) {
	t.Parallel()
	first, second := generate(t, auth.ES256), generate(t, auth.EdDSA)
	i := newIssuer(t, jwks(public(t, first)))
	c := newClock()
	v := i.verifier(t, c)
	for _, s := range []struct {
		what    string
		do      func()
		old     wire.Code
		fresh   wire.Code
		fetched int // in all
	}{
		{"at first", func() {}, "", wire.CodeUnauthorized, 1}, // loaded just now
		{"before the pause is over", func() { i.publish(200, public(t, first), public(t, second)) }, "", wire.CodeUnauthorized, 1},
		{"after the pause", func() { c.advance(10 * time.Second) }, "", "", 2},
		{"the issuer is gone", func() { i.publish(503); c.advance(10 * time.Minute) }, "", "", 3},
		{"the first key is taken back", func() { i.publish(200, public(t, second)); c.advance(10 * time.Minute) }, wire.CodeUnauthorized, "", 4},
		{"a set without keys keeps those at hand", func() { i.publish(200); c.advance(10 * time.Minute) }, wire.CodeUnauthorized, "", 5},
	} {
		s.do()
		token := ann()
		token.Expires = c.Now().Add(time.Hour)
		old, fresh := sign(t, first, token), sign(t, second, token)
		if got := codeOf(t, v, old); got != s.old {
			t.Errorf("%s: old key: %q, want %q", s.what, got, s.old)
		}
		if got := codeOf(t, v, fresh); got != s.fresh {
			t.Errorf("%s: new key: %q, want %q", s.what, got, s.fresh)
		}
		if got := i.requests(); got != s.fetched {
			t.Errorf("%s: fetched %d times, want %d", s.what, got, s.fetched)
		}
	}
}

// However many tokens name keys that are not there, the issuer is asked at most once in a pause; those
// who come meanwhile get the answer of that one.
func TestUnknownKeysDoNotFloodTheIssuer(t *testing.T) {
	t.Parallel()
	known, fresh := generate(t, auth.EdDSA), generate(t, auth.EdDSA)
	i := newIssuer(t, jwks(public(t, known)))
	c := newClock()
	v := i.verifier(t, c)
	c.advance(time.Minute)
	i.publish(200, public(t, known), public(t, fresh))
	gate := make(chan struct{})
	i.mu.Lock()
	i.gate = gate
	i.mu.Unlock()
	token := sign(t, fresh, ann())
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if _, err := v.Verify(t.Context(), token); err != nil {
				t.Error(err)
			}
		})
	}
	if code := codeOf(t, v, sign(t, known, ann())); code != "" { // does not wait
		t.Errorf("a known key meanwhile: %q", code)
	}
	close(gate)
	all.Wait()
	for range 50 {
		if code := codeOf(t, v, sign(t, generate(t, auth.EdDSA), ann())); code != wire.CodeUnauthorized {
			t.Errorf("unknown key: %q", code)
		}
	}
	if n := i.requests(); n != 2 {
		t.Errorf("asked %d times", n)
	}
}

// A token's own word on where its key is goes unheard.
func TestOnlyTheConfiguredURLIsAsked(t *testing.T) {
	t.Parallel()
	key, mine := generate(t, auth.HS256), generate(t, auth.EdDSA)
	evil := newIssuer(t, jwks(public(t, mine)))
	i := newIssuer(t, jwks(public(t, generate(t, auth.EdDSA))))
	c := newClock()
	v := i.verifier(t, c)
	c.advance(time.Hour)
	claims := `{"sub":"ann","exp":1790000000}`
	for _, header := range []string{
		`{"alg":"EdDSA","kid":"` + mine.ID + `","jku":"` + evil.URL + `"}`,
		`{"alg":"EdDSA","kid":"` + evil.URL + `","x5u":"` + evil.URL + `"}`,
		`{"alg":"EdDSA","jwk":` + public(t, mine) + `}`,
		`{"alg":"HS256","jwk":` + private(t, key) + `,"x5c":["AAAA"]}`,
	} {
		if code := codeOf(t, v, forge(secretOf(t, key), header, claims)); code != wire.CodeUnauthorized {
			t.Errorf("%s: %q", header, code)
		}
	}
	if evil.requests() != 0 {
		t.Error("the URL in a token was asked")
	}
}

func TestSourcesThatAreRefused(t *testing.T) {
	t.Parallel()
	load := func(s auth.Source) error {
		return auth.NewKeyring(auth.KeyringConfig{Sources: []auth.Source{s}}).Load(context.Background())
	}
	for _, address := range []string{
		"", "keys.json", "http://issuer.example/jwks", "http://192.0.2.1/jwks", "ftp://issuer.example/jwks",
		"https://user:password@issuer.example/jwks", "file:///etc/passwd", "https://", "http://127.0.0.1.example/jwks",
	} {
		if _, err := auth.URL(address, nil); err == nil {
			t.Errorf("%s was taken", address)
		}
	}
	good := public(t, generate(t, auth.EdDSA))
	for name, set := range map[string]func(*issuer){
		"redirect":  func(i *issuer) { i.status = http.StatusFound },
		"not found": func(i *issuer) { i.status = http.StatusNotFound },
		"secret":    func(i *issuer) { i.body = jwks(good, private(t, generate(t, auth.HS256))) },
		"huge":      func(i *issuer) { i.body = jwks(good) + strings.Repeat(" ", 256<<10) },
		"a page":    func(i *issuer) { i.body = "<html>" },
	} {
		i := newIssuer(t, jwks(good))
		set(i)
		source, err := auth.URL(i.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := load(source); err == nil {
			t.Errorf("%s: loaded", name)
		}
	}
	if err := load(auth.File(filepath.Join(t.TempDir(), "none"))); err == nil {
		t.Error("a file that is not there was loaded")
	}
}

// A file is read again like a URL.
func TestAFileWithNewKeys(t *testing.T) {
	t.Parallel()
	first, second := generate(t, auth.HS256), generate(t, auth.HS256)
	path := filepath.Join(t.TempDir(), "keys.json")
	write := func(keys ...string) {
		if err := os.WriteFile(path, []byte(jwks(keys...)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(private(t, first))
	c := newClock()
	keys := auth.NewKeyring(auth.KeyringConfig{Sources: []auth.Source{auth.File(path)}, Now: c.Now})
	if err := keys.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	v := verifier(t, auth.VerifierConfig{Keys: keys, Now: c.Now})
	write(private(t, first), private(t, second))
	c.advance(10 * time.Second)
	if code := codeOf(t, v, sign(t, second, ann())); code != "" {
		t.Errorf("the new key: %q", code)
	}
	write(private(t, second))
	c.advance(5 * time.Minute)
	if code := codeOf(t, v, sign(t, first, ann())); code != wire.CodeUnauthorized {
		t.Errorf("the old key: %q", code)
	}
}

// A key that is taken away ends what its tokens have begun: within a second in a file, with the next reading
// at a URL.
func TestTokensOfAKeyThatIsTakenAwayAreWithdrawn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		first, second := generate(t, auth.EdDSA), generate(t, auth.EdDSA)
		path := filepath.Join(t.TempDir(), "keys.json")
		write := func(text string) {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(jwks(private(t, first), private(t, second)))
		keys := auth.NewKeyring(auth.KeyringConfig{Sources: []auth.Source{auth.File(path), auth.Text("other", jwks(private(t, generate(t, auth.ES256))))}})
		if err := keys.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		v := verifier(t, auth.VerifierConfig{Keys: keys})
		withdrawn := func(key auth.Key) func() bool {
			claims, err := v.Verify(t.Context(), sign(t, key, ann()))
			if err != nil {
				t.Fatal(err)
			}
			return v.Withdrawn(claims)
		}
		ofFirst, ofSecond := withdrawn(first), withdrawn(second)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { keys.Run(ctx) })
		defer running.Wait()
		defer cancel()
		for _, step := range []struct {
			text          string
			first, second bool
		}{
			{jwks(private(t, first), private(t, second)), false, false},
			{"{", false, false}, // half written
			{jwks(private(t, second)), true, false},
			{jwks(private(t, second), private(t, first)), false, false}, // an error, mended
			{jwks(private(t, first)), false, true},
		} {
			write(step.text)
			time.Sleep(1500 * time.Millisecond)
			if ofFirst() != step.first || ofSecond() != step.second {
				t.Errorf("with %.20q… the tokens of the first key are withdrawn: %v, of the second: %v", step.text, ofFirst(), ofSecond())
			}
		}
	})
}
