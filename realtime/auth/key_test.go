package auth_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	"github.com/canopysync/canopy/realtime/auth"
)

func pemText(kind string, der []byte, err error) string {
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// signers are private keys as crypto makes them, by the algorithm that they must be pinned to.
func signers(t *testing.T) map[string]any {
	t.Helper()
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	es, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]any{auth.RS256: rs, auth.ES256: es, auth.EdDSA: ed}
}

func TestKeysInPEM(t *testing.T) {
	t.Parallel()
	for algorithm, signer := range signers(t) {
		private, err := x509.MarshalPKCS8PrivateKey(signer)
		texts := []string{pemText("PRIVATE KEY", private, err)}
		public, err := x509.MarshalPKIXPublicKey(signer.(crypto.Signer).Public())
		texts = append(texts, pemText("PUBLIC KEY", public, err))
		switch signer := signer.(type) {
		case *rsa.PrivateKey:
			texts = append(texts, pemText("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(signer), nil),
				pemText("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&signer.PublicKey), nil))
		case *ecdsa.PrivateKey:
			der, err := x509.MarshalECPrivateKey(signer)
			texts = append(texts, pemText("EC PARAMETERS", []byte{6, 0}, nil)+pemText("EC PRIVATE KEY", der, err))
		}
		for _, text := range texts {
			keys, err := auth.ParseKeys([]byte(text))
			if err != nil || len(keys) != 1 || keys[0].Algorithm != algorithm || keys[0].ID != "" {
				t.Errorf("%s: %+v (%v) from %s", algorithm, keys, err, text)
				continue
			}
			if keys[0].Signs() != strings.Contains(text, "PRIVATE") {
				t.Errorf("%s: signs: %v, from %s", algorithm, keys[0].Signs(), text)
			}
			if !keys[0].Signs() {
				continue
			}
			v := verifier(t, auth.VerifierConfig{Keys: keyring(t, strings.Join(texts, "\n"))})
			if code := codeOf(t, v, sign(t, keys[0], ann())); code != "" {
				t.Errorf("%s: %q", algorithm, code)
			}
		}
	}
}

func TestKeysAsJWK(t *testing.T) {
	t.Parallel()
	for _, algorithm := range algorithms {
		key := generate(t, algorithm)
		keys, err := auth.ParseKeys([]byte(private(t, key)))
		if err != nil || len(keys) != 1 || keys[0].ID != key.ID || keys[0].Algorithm != algorithm || !keys[0].Signs() {
			t.Fatalf("%s: %+v (%v)", algorithm, keys, err)
		}
		if private(t, keys[0]) != private(t, key) {
			t.Errorf("%s: the key changed on the way", algorithm)
		}
		if algorithm == auth.HS256 {
			if _, err := key.MarshalPublic(); err == nil {
				t.Error("a secret has a public part")
			}
			continue
		}
		keys, err = auth.ParseKeys([]byte(public(t, key)))
		if err != nil || len(keys) != 1 || keys[0].Signs() || keys[0].ID != key.ID {
			t.Errorf("%s: public part: %+v (%v)", algorithm, keys, err)
		}
		if _, err := keys[0].MarshalPrivate(); err == nil {
			t.Errorf("%s: a public key has a private part", algorithm)
		}
	}
	if _, err := auth.GenerateKey("RS1", nil); err == nil {
		t.Error("generated a key for an unknown algorithm")
	}
}

// with changes members of a JWK; nil takes one away.
func with(t *testing.T, jwk string, changes map[string]any) string {
	t.Helper()
	m := map[string]any{}
	if err := json.Unmarshal([]byte(jwk), &m); err != nil {
		t.Fatal(err)
	}
	for name, value := range changes {
		if m[name] = value; value == nil {
			delete(m, name)
		}
	}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Keys of a set that are for something else are left out; by themselves they are refused.
func TestKeysForSomethingElse(t *testing.T) {
	t.Parallel()
	rs, es, ed := public(t, generate(t, auth.RS256)), public(t, generate(t, auth.ES256)), public(t, generate(t, auth.EdDSA))
	good := generate(t, auth.EdDSA)
	for _, text := range []string{
		with(t, rs, map[string]any{"use": "enc"}), with(t, rs, map[string]any{"alg": "PS256"}),
		with(t, rs, map[string]any{"alg": "HS256"}), with(t, rs, map[string]any{"key_ops": []string{"encrypt"}}),
		with(t, es, map[string]any{"crv": "P-384"}), with(t, ed, map[string]any{"crv": "X25519"}),
		with(t, ed, map[string]any{"kty": "AKP"}), with(t, ed, map[string]any{"kty": nil}),
	} {
		if keys, err := auth.ParseKeys([]byte(text)); err == nil {
			t.Errorf("%s: %+v", text, keys)
		}
		keys, err := auth.ParseKeys([]byte(jwks(text, public(t, good))))
		if err != nil || len(keys) != 1 || keys[0].ID != good.ID {
			t.Errorf("%s: in a set: %+v (%v)", text, keys, err)
		}
	}
}

func TestDamagedKeys(t *testing.T) {
	t.Parallel()
	hs, rs := private(t, generate(t, auth.HS256)), private(t, generate(t, auth.RS256))
	es, ed := private(t, generate(t, auth.ES256)), private(t, generate(t, auth.EdDSA))
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	smallDER, err := x509.MarshalPKIXPublicKey(&small.PublicKey)
	weak := pemText("PUBLIC KEY", smallDER, err)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384DER, err := x509.MarshalPKIXPublicKey(&p384.PublicKey)
	other := public(t, generate(t, auth.ES256))
	var otherPoint struct{ X, Y string }
	if err := json.Unmarshal([]byte(other), &otherPoint); err != nil {
		t.Fatal(err)
	}
	var many []string
	for i := range 65 {
		many = append(many, with(t, hs, map[string]any{"kid": fmt.Sprint(i)}))
	}
	for _, text := range []string{
		"", "secret", "{", "{}", "[]", jwks(), `{"keys":{}}`, `{"keys":[1]}`, jwks(many...), weak, pemText("PUBLIC KEY", p384DER, err),
		"-----BEGIN PUBLIC KEY-----\n", pemText("PUBLIC KEY", []byte{1}, nil), pemText("CERTIFICATE", []byte{1}, nil),
		pemText("OPENSSH PRIVATE KEY", []byte{1}, nil), weak + "rest",
		with(t, hs, map[string]any{"k": b64(make([]byte, 31))}), with(t, hs, map[string]any{"k": nil}),
		with(t, hs, map[string]any{"k": "?"}), with(t, hs, map[string]any{"kid": strings.Repeat("k", 129)}),
		strings.Replace(hs, "{", `{"kty":"RSA",`, 1),
		with(t, rs, map[string]any{"n": nil}), with(t, rs, map[string]any{"e": "AQ"}), with(t, rs, map[string]any{"e": "AAAAAAAB"}),
		with(t, rs, map[string]any{"n": b64(make([]byte, 1100))}), with(t, rs, map[string]any{"d": "AQAB"}),
		with(t, es, map[string]any{"x": otherPoint.X}), with(t, es, map[string]any{"x": otherPoint.X, "y": otherPoint.Y}),
		with(t, es, map[string]any{"x": "AA"}), with(t, ed, map[string]any{"x": "AA"}),
		with(t, ed, map[string]any{"x": b64(make([]byte, 32))}), with(t, ed, map[string]any{"d": "AA"}),
	} {
		if keys, err := auth.ParseKeys([]byte(text)); err == nil {
			t.Errorf("%.200s: %+v", text, keys)
		}
		if !strings.HasPrefix(text, `{"`) || strings.Contains(text, `"keys"`) {
			continue
		}
		if keys, err := auth.ParseKeys([]byte(jwks(ed, text))); err == nil {
			t.Errorf("in a set with a good key: %.200s: %+v", text, keys)
		}
	}
}

// FuzzParseKeys has the oracle that nothing panics, and that every key that is read has one of the
// algorithms and can be written again.
func FuzzParseKeys(f *testing.F) {
	for _, algorithm := range algorithms {
		key, err := auth.GenerateKey(algorithm, nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(private(f, key)))
		f.Add([]byte(jwks(private(f, key))))
	}
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, err := auth.ParseKeys(text)
		if err != nil {
			return
		}
		for _, key := range keys {
			write := key.MarshalPublic
			if key.Algorithm == auth.HS256 {
				write = key.MarshalPrivate
			}
			jwk, err := write()
			if err != nil {
				t.Fatal(err)
			}
			again, err := auth.ParseKeys(jwk)
			if err != nil || len(again) != 1 || again[0].Algorithm != key.Algorithm || again[0].ID != key.ID {
				t.Errorf("%s became %+v (%v)", jwk, again, err)
			}
		}
	})
}
