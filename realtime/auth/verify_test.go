package auth_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/canopysync/canopy/realtime/auth"
	"github.com/canopysync/canopy/realtime/wire"
)

var algorithms = []string{auth.HS256, auth.RS256, auth.ES256, auth.EdDSA}

func TestTokensOfEveryAlgorithm(t *testing.T) {
	t.Parallel()
	keys := map[string]auth.Key{}
	var texts []string
	for _, algorithm := range algorithms {
		keys[algorithm] = generate(t, algorithm)
		texts = append(texts, private(t, keys[algorithm]))
	}
	v := verifier(t, auth.VerifierConfig{Keys: keyring(t, jwks(texts...))})
	for _, algorithm := range algorithms {
		if keys[algorithm].Algorithm != algorithm || !keys[algorithm].Signs() {
			t.Errorf("%s: the key is for %s", algorithm, keys[algorithm].Algorithm)
		}
		want := ann()
		got, err := v.Verify(t.Context(), sign(t, keys[algorithm], want))
		if err != nil {
			t.Errorf("%s: %v", algorithm, err)
			continue
		}
		if !got.Expires.Equal(want.Expires) || !got.Issued.Equal(want.Issued) || got.ID != want.ID ||
			got.Subject != want.Subject || !reflect.DeepEqual(got.Rooms, want.Rooms) {
			t.Errorf("%s: got %+v, want %+v", algorithm, got, want)
		}
		if d := v.Deadline(got); !d.Equal(want.Expires.Add(2 * time.Second)) {
			t.Errorf("%s: good until %v", algorithm, d)
		}
		other := sign(t, generate(t, algorithm), want)
		if code := codeOf(t, v, other); code != wire.CodeUnauthorized {
			t.Errorf("%s: another key's token: %q", algorithm, code)
		}
	}
}

func TestAccess(t *testing.T) {
	t.Parallel()
	claims := auth.Claims{Rooms: []auth.Grant{
		{Room: "plan", Access: auth.Read}, {Room: "plan", Access: auth.Admin}, {Room: "plan", Access: auth.Write},
		{Room: "team-*", Access: auth.Write}, {Room: "team-secret", Access: auth.Read},
	}}
	for room, want := range map[string]auth.Access{
		"plan": auth.Admin, "plans": auth.None, "pla": auth.None, "team-": auth.Write, "team-a": auth.Write,
		"team-secret": auth.Write, "team": auth.None, "xteam-a": auth.None, "*": auth.None, "": auth.None,
	} {
		if got := claims.Access(room); got != want {
			t.Errorf("%s: %v, want %v", room, got, want)
		}
	}
	if got := (auth.Claims{Rooms: []auth.Grant{{Room: "*", Access: auth.Read}}}).Access("any"); got != auth.Read {
		t.Errorf("a star gives %v", got)
	}
}

func TestParseGrant(t *testing.T) {
	t.Parallel()
	for text, good := range map[string]bool{
		"plan=read": true, "team-*=write": true, "*=admin": true, "a.b_c-d*=read": true,
		"plan": false, "plan=none": false, "plan=": false, "plan=Read": false, "=read": false, "PLAN=read": false,
		"te*am=read": false, "**=read": false, "a*b*=read": false, "../x=read": false, "-x*=read": false,
	} {
		g, err := auth.ParseGrant(text)
		if (err == nil) != good || good && g.String() != text {
			t.Errorf("%s: %v (%v)", text, g, err)
		}
	}
}

// attack is a token that must not be taken, and how the verifier is set up to meet it.
type attack struct {
	name, token string
}

// The expected answer is always 401 unauthorized: nothing is said that a signature would not have to
// come first for.
func TestForgedTokens(t *testing.T) {
	t.Parallel()
	hs, rs, es := generate(t, auth.HS256), generate(t, auth.RS256), generate(t, auth.ES256)
	v := verifier(t, auth.VerifierConfig{Keys: keyring(t, jwks(private(t, hs), public(t, rs), public(t, es)))})
	secret := secretOf(t, hs)
	good := sign(t, hs, ann())
	head, body, mac := split(good)
	claims := `{"sub":"ann","exp":1790000000,"rooms":[{"room":"*","access":"admin"}]}`
	if code := codeOf(t, v, forge(secret, `{"alg":"HS256"}`, claims)); code != "" {
		t.Fatalf("the claims are not good by themselves: %q", code)
	}
	attacks := []attack{
		{"empty", ""},
		{"no token at all", "hello"},
		{"two parts", head + "." + body},
		{"four parts", good + "." + mac},
		{"signature cut off", head + "." + body + "."},
		{"signature changed", head + "." + body + "." + flip(mac)},
		{"claims changed", head + "." + b64([]byte(claims)) + "." + mac},
		{"padding", head + "=." + body + "." + mac},
		{"trailing bits", head + "." + body + "." + trailing(mac)},
		{"white space", head + "." + body + "." + mac + "\n"},
		{"huge", forge(secret, `{"alg":"HS256"}`, claims+strings.Repeat(" ", auth.MaxTokenBytes))},
		{"nested deeply", forge(secret, `{"alg":"HS256"}`, `{"x":`+strings.Repeat("[", 4000)+`}`)},
	}
	for _, none := range []string{"none", "None", "NONE", "nOnE", ""} {
		header := fmt.Sprintf(`{"alg":%q,"typ":"JWT"}`, none)
		attacks = append(attacks,
			attack{"alg " + none, b64([]byte(header)) + "." + b64([]byte(claims)) + "."},
			attack{"alg " + none + ", signed", forge(secret, header, claims)})
	}
	for _, header := range []string{
		`{}`, `{"alg":null}`, `{"alg":["HS256"]}`, `{"alg":"HS384"}`, `{"alg":"PS256"}`, `{"Alg":"HS256"}`, `null`, `[]`, `"HS256"`, `{"alg":"HS256"`,
		`{"alg":"HS256","alg":"none"}`, `{"alg":"none","alg":"HS256"}`, `{"alg":"HS256"}{}`,
		`{"alg":"HS256","crit":["exp"]}`, `{"alg":"HS256","b64":false,"crit":["b64"]}`,
		`{"alg":"HS256","kid":7}`, `{"alg":"HS256","kid":"` + strings.Repeat("k", 200) + `"}`,
	} {
		attacks = append(attacks, attack{"header " + header, forge(secret, header, claims)})
	}
	for _, a := range attacks {
		if code := codeOf(t, v, a.token); code != wire.CodeUnauthorized {
			t.Errorf("%s: %q", a.name, code)
		}
	}
}

// A public key is public, so whoever takes it for an HMAC secret takes anybody's tokens.
func TestPublicKeysAreNoSecrets(t *testing.T) {
	t.Parallel()
	signer, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&signer.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	keys, err := auth.ParseKeys(text)
	if err != nil || len(keys) != 1 || keys[0].Algorithm != auth.RS256 || keys[0].Signs() {
		t.Fatalf("%+v (%v)", keys, err)
	}
	jwk := public(t, keys[0])
	v := verifier(t, auth.VerifierConfig{Keys: keyring(t, string(text), jwk)})
	claims := `{"sub":"ann","exp":1790000000}`
	for _, secret := range [][]byte{text, []byte(strings.TrimSpace(string(text))), der, []byte(jwk), signer.N.Bytes()} {
		if code := codeOf(t, v, forge(secret, `{"alg":"HS256"}`, claims)); code != wire.CodeUnauthorized {
			t.Errorf("signed with the public key (%d bytes): %q", len(secret), code)
		}
	}
}

// A key id is compared, and used for nothing else.
func TestKeyIDs(t *testing.T) {
	t.Parallel()
	key, other := generate(t, auth.HS256), generate(t, auth.HS256)
	named, nameless := private(t, key), strings.Replace(private(t, other), `"kid":"`+other.ID+`",`, "", 1)
	if strings.Contains(nameless, "kid") {
		t.Fatal("the key still has its id")
	}
	secret, claims := secretOf(t, key), `{"sub":"ann","exp":1790000000}`
	v := verifier(t, auth.VerifierConfig{Keys: keyring(t, named)})
	for kid, want := range map[string]wire.Code{
		key.ID: "", "": "", // without an id, every key of the algorithm is tried
		"../../../../dev/null": wire.CodeUnauthorized, "/etc/passwd": wire.CodeUnauthorized,
		"' or '1'='1": wire.CodeUnauthorized, "x'; select 'AAAA' --": wire.CodeUnauthorized,
		"http://127.0.0.1:1/jwks.json": wire.CodeUnauthorized, strings.ToUpper(key.ID): wire.CodeUnauthorized,
		key.ID + `\u0000`: wire.CodeUnauthorized, "%2e%2e": wire.CodeUnauthorized, "$$": wire.CodeUnauthorized,
	} {
		header := fmt.Sprintf(`{"alg":"HS256","kid":"%s"}`, kid)
		if got := codeOf(t, v, forge(secret, header, claims)); got != want {
			t.Errorf("kid %s: %q, want %q", kid, got, want)
		}
		// An empty secret, which is what a path to an empty file would give.
		if got := codeOf(t, v, forge(nil, header, claims)); got != wire.CodeUnauthorized {
			t.Errorf("kid %s with an empty secret: %q", kid, got)
		}
	}
	both := verifier(t, auth.VerifierConfig{Keys: keyring(t, named, nameless)})
	for kid, want := range map[string]wire.Code{"": "", "its issuer's name": "", key.ID: wire.CodeUnauthorized} {
		header := fmt.Sprintf(`{"alg":"HS256","kid":%q}`, kid)
		if got := codeOf(t, both, forge(secretOf(t, other), header, claims)); got != want {
			t.Errorf("nameless key, kid %q: %q, want %q", kid, got, want)
		}
	}
}

func TestClaims(t *testing.T) {
	t.Parallel()
	key := generate(t, auth.HS256)
	keys := keyring(t, private(t, key))
	plain := auth.VerifierConfig{Keys: keys}
	strict := auth.VerifierConfig{Keys: keys, Issuer: "https://issuer.example", Audience: "canopy", Leeway: -1}
	now := noon.Unix()
	for _, tc := range []struct {
		cfg    auth.VerifierConfig
		claims string // EXP is an hour from now
		good   bool
	}{
		{plain, `{"sub":"ann","exp":EXP}`, true},
		{plain, `{"sub":"ann","exp":EXP,"rooms":null,"other":[1,{"a":1}]}`, true},
		{plain, `{"sub":"ann","exp":EXP.5,"nbf":1.5e9,"iat":0}`, true},
		{plain, `{"sub":"ann"}`, false},
		{plain, `{"sub":"ann","exp":null}`, false},
		{plain, `{"sub":"ann","exp":"EXP"}`, false},
		{plain, `{"sub":"ann","exp":0}`, false},
		{plain, `{"sub":"ann","exp":-1}`, false},
		{plain, `{"sub":"ann","exp":1e300}`, false},
		{plain, `{"sub":"ann","exp":1e999}`, false},
		{plain, `{"sub":"ann","exp":[EXP]}`, false},
		{plain, `{"sub":"ann","Exp":EXP}`, false},
		{plain, `{"exp":EXP}`, false},
		{plain, `{"sub":"","exp":EXP}`, false},
		{plain, `{"sub":7,"exp":EXP}`, false},
		{plain, `{"sub":"a\nb","exp":EXP}`, false},
		{plain, `{"sub":"a\u202eb","exp":EXP}`, false},
		{plain, `{"sub":"` + strings.Repeat("a", 129) + `","exp":EXP}`, false},
		{plain, fmt.Sprintf(`{"sub":"ann","exp":%d}`, now-1), true}, // within the leeway
		{plain, fmt.Sprintf(`{"sub":"ann","exp":%d}`, now-2), false},
		{plain, fmt.Sprintf(`{"sub":"ann","exp":EXP,"nbf":%d}`, now+2), true},
		{plain, fmt.Sprintf(`{"sub":"ann","exp":EXP,"nbf":%d}`, now+3), false},
		{strict, fmt.Sprintf(`{"sub":"ann","exp":%d,"iss":"https://issuer.example","aud":"canopy"}`, now), false},
		{strict, fmt.Sprintf(`{"sub":"ann","exp":EXP,"nbf":%d,"iss":"https://issuer.example","aud":"canopy"}`, now+1), false},
		// A claim that is there twice.
		{plain, `{"sub":"ann","sub":"root","exp":EXP}`, false},
		{plain, `{"sub":"ann","exp":1,"exp":EXP}`, false},
		{plain, `{"sub":"ann","exp":EXP,"rooms":[],"rooms":[{"room":"*","access":"admin"}]}`, false},
		{plain, `{"sub":"ann","exp":EXP,"rooms":[{"room":"a","access":"read","access":"admin"}]}`, false},
		{plain, `{"sub":"ann","exp":EXP,"s\u0075b":"root"}`, false},
		{plain, `{"sub":"ann","exp":EXP,"SUB":"root"}`, true}, // another claim, not read
		{plain, `{"sub":"ann","exp":EXP}{}`, false},
		{plain, `null`, false},
		{plain, `[]`, false},
		{plain, ``, false},
		// Grants.
		{plain, `{"sub":"ann","exp":EXP,"rooms":[{"room":"team-*","access":"write"}]}`, true},
		{plain, `{"sub":"ann","exp":EXP,"rooms":{"room":"a","access":"read"}}`, false},
		{plain, `{"sub":"ann","exp":EXP,"rooms":["a"]}`, false},
		{plain, `{"sub":"ann","exp":EXP,"rooms":[{"room":"a"}]}`, false},
		{plain, `{"sub":"ann","exp":EXP,"rooms":[{"room":"a","access":"own"}]}`, false},
		{plain, `{"sub":"ann","exp":EXP,"rooms":[{"room":"a","access":1}]}`, false},
		{plain, `{"sub":"ann","exp":EXP,"rooms":[{"room":"a*b","access":"read"}]}`, false},
		{plain, `{"sub":"ann","exp":EXP,"rooms":[{"room":"","access":"read"}]}`, false},
		{plain, `{"sub":"ann","exp":EXP,"rooms":[{"room":"a","access":"read","until":"noon"}]}`, false},
		{plain, `{"sub":"ann","exp":EXP,"rooms":[{"room":"a'; drop table canopy.rooms; --","access":"read"}]}`, false},
		// Audience and issuer.
		{plain, `{"sub":"ann","exp":EXP,"aud":"canopy"}`, false},
		{plain, `{"sub":"ann","exp":EXP,"aud":[]}`, true},
		{plain, `{"sub":"ann","exp":EXP,"iss":"anybody"}`, true},
		{strict, `{"sub":"ann","exp":EXP,"iss":"https://issuer.example","aud":"canopy"}`, true},
		{strict, `{"sub":"ann","exp":EXP,"iss":"https://issuer.example","aud":["mail","canopy"]}`, true},
		{strict, `{"sub":"ann","exp":EXP,"iss":"https://issuer.example","aud":["mail"]}`, false},
		{strict, `{"sub":"ann","exp":EXP,"iss":"https://issuer.example","aud":"canopy2"}`, false},
		{strict, `{"sub":"ann","exp":EXP,"iss":"https://issuer.example","aud":[1]}`, false},
		{strict, `{"sub":"ann","exp":EXP,"iss":"https://issuer.example"}`, false},
		{strict, `{"sub":"ann","exp":EXP,"iss":"https://issuer.example/","aud":"canopy"}`, false},
		{strict, `{"sub":"ann","exp":EXP,"iss":["https://issuer.example"],"aud":"canopy"}`, false},
		{strict, `{"sub":"ann","exp":EXP,"aud":"canopy"}`, false},
	} {
		claims := strings.ReplaceAll(tc.claims, "EXP", fmt.Sprint(now+3600))
		v := verifier(t, tc.cfg)
		want := wire.CodeUnauthorized
		if tc.good {
			want = ""
		}
		if got := codeOf(t, v, forge(secretOf(t, key), `{"alg":"HS256"}`, claims)); got != want {
			t.Errorf("%s: %q, want %q", claims, got, want)
		}
	}
}

func TestSignRefusesWhatNobodyWouldTake(t *testing.T) {
	t.Parallel()
	key := generate(t, auth.EdDSA)
	verifying, err := auth.ParseKeys([]byte(public(t, key)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := auth.Sign(verifying[0], ann()); err == nil {
		t.Error("signed without a private key")
	}
	for name, change := range map[string]func(*auth.Claims){
		"no subject":    func(c *auth.Claims) { c.Subject = "" },
		"no expiry":     func(c *auth.Claims) { c.Expires = time.Time{} },
		"odd subject":   func(c *auth.Claims) { c.Subject = "a\x00" },
		"long id":       func(c *auth.Claims) { c.ID = strings.Repeat("i", 129) },
		"bad grant":     func(c *auth.Claims) { c.Rooms[0].Room = "NO" },
		"a huge number": func(c *auth.Claims) { c.Rooms = make([]auth.Grant, 1000); fill(c.Rooms) },
	} {
		claims := ann()
		change(&claims)
		if _, err := auth.Sign(key, claims); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

func fill(grants []auth.Grant) {
	for i := range grants {
		grants[i] = auth.Grant{Room: fmt.Sprintf("room-%d", i), Access: auth.Read}
	}
}

func TestInspect(t *testing.T) {
	t.Parallel()
	key := generate(t, auth.ES256)
	head, claims, err := auth.Inspect(sign(t, key, ann()))
	if err != nil || !strings.Contains(string(head), key.ID) || claims.Subject != "ann" || claims.ID != "token-1" {
		t.Errorf("%s %+v (%v)", head, claims, err)
	}
	for _, token := range []string{"", "a.b", "..", "a.b.c.d", strings.Repeat("a", 9000), "e30.W10.", "W10.e30."} {
		if _, _, err := auth.Inspect(token); err == nil {
			t.Errorf("%.20q can be inspected", token)
		}
	}
}

func TestConfigurationsThatCannotBe(t *testing.T) {
	t.Parallel()
	if _, err := auth.NewVerifier(auth.VerifierConfig{}); err == nil {
		t.Error("a verifier without keys")
	}
	if _, err := auth.NewVerifier(auth.VerifierConfig{Keys: keyring(t, private(t, generate(t, auth.HS256))), Leeway: time.Hour}); err == nil {
		t.Error("a leeway of an hour")
	}
	if err := auth.NewKeyring(auth.KeyringConfig{}).Load(t.Context()); err == nil {
		t.Error("a keyring without sources")
	}
}

// The oracle: what is neither signed by the key nor exactly the signed token is unauthorized, and
// nothing panics.
func FuzzVerify(f *testing.F) {
	key, err := auth.GenerateKey(auth.HS256, nil)
	if err != nil {
		f.Fatal(err)
	}
	v := verifier(f, auth.VerifierConfig{Keys: keyring(f, private(f, key))})
	good := sign(f, key, ann())
	f.Add(good)
	f.Add("e30.e30.")
	f.Add(b64([]byte(`{"alg":"none"}`)) + ".e30.")
	f.Fuzz(func(t *testing.T, token string) {
		_, err := v.Verify(t.Context(), token)
		if token == good {
			return
		}
		e, ok := errors.AsType[*wire.Error](err)
		if !ok || e.Code != wire.CodeUnauthorized {
			t.Errorf("%q: %v", token, err)
		}
		_, _, _ = auth.Inspect(token)
	})
}

func split(token string) (header, claims, signature string) {
	parts := strings.Split(token, ".")
	return parts[0], parts[1], parts[2]
}

// flip changes the first character of a base64 text.
func flip(text string) string {
	if text[0] == 'A' {
		return "B" + text[1:]
	}
	return "A" + text[1:]
}

// trailing changes the bits of the last character that stand for nothing: a second form of the same.
func trailing(text string) string {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(digits, text[len(text)-1])
	return text[:len(text)-1] + string(digits[last^1])
}
