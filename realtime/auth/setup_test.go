package auth_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/canopysync/canopy/realtime/auth"
	"github.com/canopysync/canopy/realtime/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// noon is when tests happen, unless they move their clock.
var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// clock is a clock that a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: noon} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func generate(t testing.TB, algorithm string) auth.Key {
	t.Helper()
	key, err := auth.GenerateKey(algorithm, nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func private(t testing.TB, key auth.Key) string {
	t.Helper()
	text, err := key.MarshalPrivate()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func public(t testing.TB, key auth.Key) string {
	t.Helper()
	text, err := key.MarshalPublic()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// jwks is a JWK Set of the texts.
func jwks(keys ...string) string { return `{"keys":[` + strings.Join(keys, ",") + `]}` }

// keyring holds the keys of texts, at noon.
func keyring(t testing.TB, texts ...string) *auth.Keyring {
	t.Helper()
	var sources []auth.Source
	for _, text := range texts {
		sources = append(sources, auth.Text("test", text))
	}
	k := auth.NewKeyring(auth.KeyringConfig{Sources: sources, Now: newClock().Now})
	if err := k.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return k
}

func verifier(t testing.TB, cfg auth.VerifierConfig) *auth.Verifier {
	t.Helper()
	if cfg.Now == nil {
		cfg.Now = newClock().Now
	}
	v, err := auth.NewVerifier(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// ann is a good token's claims: reading everywhere, writing in her team's rooms.
func ann() auth.Claims {
	return auth.Claims{
		Subject: "ann", ID: "token-1", Issued: noon, Expires: noon.Add(time.Hour),
		Rooms: []auth.Grant{{Room: "*", Access: auth.Read}, {Room: "team-*", Access: auth.Write}},
	}
}

func sign(t testing.TB, key auth.Key, claims auth.Claims) string {
	t.Helper()
	token, err := auth.Sign(key, claims)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func b64(text []byte) string { return base64.RawURLEncoding.EncodeToString(text) }

// forge signs any header and any claims with a secret.
func forge(secret []byte, header, claims string) string {
	signed := b64([]byte(header)) + "." + b64([]byte(claims))
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(signed))
	return signed + "." + b64(mac.Sum(nil))
}

// secretOf is what an HS256 key signs with.
func secretOf(t testing.TB, key auth.Key) []byte {
	t.Helper()
	var jwk struct{ K string }
	if err := json.Unmarshal([]byte(private(t, key)), &jwk); err != nil {
		t.Fatal(err)
	}
	secret, err := base64.RawURLEncoding.DecodeString(jwk.K)
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

// codeOf is the code that a token is refused with, empty if it is not.
func codeOf(t testing.TB, v *auth.Verifier, token string) wire.Code {
	t.Helper()
	claims, err := v.Verify(t.Context(), token)
	if err == nil {
		return ""
	}
	if claims.Access("team-a") != auth.None && !errors.As(err, new(*wire.Error)) {
		t.Errorf("claims with an error: %+v", claims)
	}
	e, ok := errors.AsType[*wire.Error](err)
	if !ok {
		t.Fatalf("%v is not a *wire.Error", err)
	}
	return e.Code
}
