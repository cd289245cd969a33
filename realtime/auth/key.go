package auth

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"

	"github.com/golang-jwt/jwt/v5"
)

// The algorithms for signing tokens.
const (
	HS256 = "HS256" // HMAC with SHA-256: whoever can verify can sign
	RS256 = "RS256" // RSA, PKCS #1 v1.5, with SHA-256
	ES256 = "ES256" // ECDSA on P-256 with SHA-256
	EdDSA = "EdDSA" // Ed25519
)

var algorithms = []string{HS256, RS256, ES256, EdDSA}

const (
	// minSecretBytes is what RFC 7518 requires for HS256.
	minSecretBytes = 32
	// The bounds of an RSA modulus. Larger ones make verification slow enough to be an attack.
	minRSABits, maxRSABits = 2048, 8192
)

// Key is a key that verifies tokens and, if it has its private part, signs them.
type Key struct {
	// ID identifies the key in tokens (kid). Keys from PEM have none.
	ID string
	// Algorithm is the only algorithm that the key may be used with. The type of the key determines it.
	Algorithm string

	public  any // what package jwt verifies with
	private any // what package jwt signs with; nil if there is none

	fingerprint fingerprint
}

// fingerprint identifies a key, whatever its id.
type fingerprint [sha256.Size]byte

func (k Key) print() (fingerprint, error) {
	text, secret := k.public.([]byte)
	if !secret {
		var err error
		if text, err = x509.MarshalPKIXPublicKey(k.public); err != nil {
			return fingerprint{}, err
		}
	}
	return sha256.Sum256(append([]byte(k.Algorithm), text...)), nil
}

// Signs reports whether the key can sign.
func (k Key) Signs() bool { return k.private != nil }

// newKey derives the algorithm from the type of the key, and refuses weak keys. private, which may be nil, is the
// private part of public; for HS256 both are the secret.
func newKey(id string, public, private any) (Key, error) {
	k := Key{ID: id, public: public, private: private}
	if err := checkName(id); err != nil {
		return Key{}, fmt.Errorf("the id %w", err)
	}
	switch public := public.(type) {
	case []byte:
		k.Algorithm = HS256
		if len(public) < minSecretBytes {
			return Key{}, fmt.Errorf("a secret of %d bytes is too short, %d are needed", len(public), minSecretBytes)
		}
	case *rsa.PublicKey:
		k.Algorithm = RS256
		if bits := public.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return Key{}, fmt.Errorf("an RSA key of %d bits is not within %d to %d", bits, minRSABits, maxRSABits)
		}
		if public.E < 3 || public.E%2 == 0 {
			return Key{}, errors.New("the RSA key's exponent is not an odd number of at least 3")
		}
	case *ecdsa.PublicKey:
		k.Algorithm = ES256
		if public.Curve != elliptic.P256() {
			return Key{}, fmt.Errorf("a key on the curve %s, not P-256", public.Curve.Params().Name)
		}
	case ed25519.PublicKey:
		k.Algorithm = EdDSA
	default:
		return Key{}, fmt.Errorf("keys of type %T are not for tokens", public)
	}
	print, err := k.print()
	k.fingerprint = print
	return k, err
}

// GenerateKey makes a key for one of the algorithms, with a random id. Its randomness comes from crypto/rand
// if random is nil.
func GenerateKey(algorithm string, random io.Reader) (Key, error) {
	if random == nil {
		random = rand.Reader
	}
	id, err := randomID(random)
	if err != nil {
		return Key{}, err
	}
	switch algorithm {
	case HS256:
		secret := make([]byte, minSecretBytes)
		if _, err := io.ReadFull(random, secret); err != nil {
			return Key{}, fmt.Errorf("generate key: %w", err)
		}
		return newKey(id, secret, secret)
	case RS256:
		return pair(id)(rsa.GenerateKey(random, 3072))
	case ES256:
		return pair(id)(ecdsa.GenerateKey(elliptic.P256(), random))
	case EdDSA:
		_, private, err := ed25519.GenerateKey(random)
		return pair(id)(private, err)
	}
	return Key{}, fmt.Errorf("generate key: the algorithm %.40q is unknown", algorithm)
}

// pair makes a Key from the result of a generator or parser of private keys.
func pair(id string) func(private crypto.Signer, err error) (Key, error) {
	return func(private crypto.Signer, err error) (Key, error) {
		if err != nil {
			return Key{}, err
		}
		return newKey(id, private.Public(), private)
	}
}

// ParseKeys reads keys as PEM (any number of public or private keys, or certificates), as a JWK or as a JWK
// Set. It skips keys of a set that are for another use.
func ParseKeys(text []byte) ([]Key, error) {
	text = bytes.TrimSpace(text)
	var keys []Key
	var err error
	switch {
	case bytes.HasPrefix(text, []byte("{")):
		keys, err = parseJWKs(text)
	case bytes.HasPrefix(text, []byte("-----BEGIN ")):
		keys, err = parsePEM(text)
	default:
		return nil, errors.New("read keys: neither PEM nor a JWK or JWK Set")
	}
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	if len(keys) == 0 {
		return nil, errors.New("read keys: none of them is for tokens")
	}
	if len(keys) > maxKeys {
		return nil, fmt.Errorf("read keys: there are more than %d", maxKeys)
	}
	return keys, nil
}

func parsePEM(text []byte) ([]Key, error) {
	var keys []Key
	for len(text) > 0 {
		block, rest := pem.Decode(text)
		if block == nil {
			return nil, errors.New("malformed PEM")
		}
		text = bytes.TrimSpace(rest)
		if block.Type == "EC PARAMETERS" { // which openssl writes before a key that contains the same
			continue
		}
		key, err := parseBlock(block)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", block.Type, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func parseBlock(block *pem.Block) (Key, error) {
	der := block.Bytes
	switch block.Type {
	case "PUBLIC KEY":
		public, err := x509.ParsePKIXPublicKey(der)
		if err != nil {
			return Key{}, err
		}
		return newKey("", public, nil)
	case "RSA PUBLIC KEY":
		public, err := x509.ParsePKCS1PublicKey(der)
		if err != nil {
			return Key{}, err
		}
		return newKey("", public, nil)
	case "CERTIFICATE":
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return Key{}, err
		}
		return newKey("", certificate.PublicKey, nil)
	case "PRIVATE KEY":
		private, err := x509.ParsePKCS8PrivateKey(der)
		signer, ok := private.(crypto.Signer)
		if err == nil && !ok {
			err = errors.New("not a key for signing")
		}
		return pair("")(signer, err)
	case "RSA PRIVATE KEY":
		return pair("")(x509.ParsePKCS1PrivateKey(der))
	case "EC PRIVATE KEY":
		return pair("")(x509.ParseECPrivateKey(der))
	}
	return Key{}, errors.New("neither a key nor a certificate")
}

// Sign makes a token. It accepts only claims that a Verifier accepts.
func Sign(key Key, claims Claims) (string, error) {
	if !key.Signs() {
		return "", errors.New("sign token: the key has no private part")
	}
	if err := claims.check(); err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	token := jwt.NewWithClaims(jwt.GetSigningMethod(key.Algorithm), registered{&claims})
	if key.ID != "" {
		token.Header["kid"] = key.ID
	}
	text, err := token.SignedString(key.private)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	if len(text) > MaxTokenBytes {
		return "", fmt.Errorf("sign token: it would have %d bytes, the limit is %d", len(text), MaxTokenBytes)
	}
	return text, nil
}

func (c Claims) check() error {
	if c.Subject == "" || c.Expires.IsZero() {
		return errors.New("a token needs a subject and an expiry")
	}
	for name, text := range map[string]string{"subject": c.Subject, "id": c.ID} {
		if err := checkName(text); err != nil {
			return fmt.Errorf("the %s %w", name, err)
		}
	}
	for _, g := range c.Rooms {
		if err := g.check(); err != nil {
			return err
		}
	}
	return nil
}

// NewID returns a random id for a token.
func NewID() (string, error) { return randomID(rand.Reader) }

func randomID(random io.Reader) (string, error) {
	var id [16]byte
	if _, err := io.ReadFull(random, id[:]); err != nil {
		return "", fmt.Errorf("make id: %w", err)
	}
	return fmt.Sprintf("%x", id), nil
}
