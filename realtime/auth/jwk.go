package auth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// errOtherUse means that a key is valid, but not for the tokens that we accept.
var errOtherUse = errors.New("the key is for something else")

// parseJWKs reads a JWK or a JWK Set. It skips a set's keys for other uses and algorithms, but a damaged key makes the
// whole set invalid, rather than silently smaller.
func parseJWKs(text []byte) ([]Key, error) {
	m, err := object(text)
	if err != nil {
		return nil, err
	}
	if !m.has("keys") {
		key, err := parseJWK(m)
		return []Key{key}, err
	}
	var list []json.RawMessage
	if err := json.Unmarshal(m["keys"], &list); err != nil {
		return nil, errors.New("keys is not a list")
	}
	var keys []Key
	for i, text := range list {
		m, err := object(text)
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i, err)
		}
		key, err := parseJWK(m)
		if errors.Is(err, errOtherUse) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func parseJWK(m members) (Key, error) {
	var kind, id, algorithm, use string
	var operations []string
	err := firstError(m.text("kty", &kind), m.text("kid", &id), m.text("alg", &algorithm), m.text("use", &use),
		m.texts("key_ops", &operations))
	if err != nil {
		return Key{}, err
	}
	if use != "" && use != "sig" {
		return Key{}, fmt.Errorf("%w: its use is %.40q", errOtherUse, use)
	}
	if operations != nil && !slices.Contains(operations, "verify") && !slices.Contains(operations, "sign") {
		return Key{}, fmt.Errorf("%w: key_ops has neither sign nor verify", errOtherUse)
	}
	parse, ok := jwkKinds[kind]
	if !ok {
		return Key{}, fmt.Errorf("%w: unknown kind of key %.40q", errOtherUse, kind)
	}
	if algorithm != "" && algorithm != parse.algorithm {
		return Key{}, fmt.Errorf("%w: its algorithm is %.40q, not %s", errOtherUse, algorithm, parse.algorithm)
	}
	public, private, err := parse.keys(m)
	if err != nil {
		return Key{}, err
	}
	return newKey(id, public, private)
}

// jwkKinds are the kinds of keys, and the one algorithm for each.
var jwkKinds = map[string]struct {
	algorithm string
	keys      func(members) (public, private any, err error)
}{
	"oct": {HS256, secretJWK},
	"RSA": {RS256, rsaJWK},
	"EC":  {ES256, ecJWK},
	"OKP": {EdDSA, edJWK},
}

// bytes reads base64url, nil if missing.
func (m members) bytes(name string, to *[]byte) error {
	var text string
	if err := m.text(name, &text); err != nil || text == "" {
		return err
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return fmt.Errorf("%s is not base64url", name)
	}
	*to = b
	return nil
}

func secretJWK(m members) (public, private any, err error) {
	var secret []byte
	err = m.bytes("k", &secret)
	return secret, secret, err
}

func rsaJWK(m members) (public, private any, err error) {
	var n, e, d, p, q []byte
	err = firstError(m.bytes("n", &n), m.bytes("e", &e), m.bytes("d", &d), m.bytes("p", &p), m.bytes("q", &q))
	if err != nil {
		return nil, nil, err
	}
	if len(e) == 0 || len(e) > 4 || len(n) > maxRSABits/8 {
		return nil, nil, errors.New("the size of the RSA key is out of range")
	}
	key := rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
	if d == nil || p == nil || q == nil {
		return &key, nil, nil
	}
	signer := &rsa.PrivateKey{PublicKey: key, D: new(big.Int).SetBytes(d),
		Primes: []*big.Int{new(big.Int).SetBytes(p), new(big.Int).SetBytes(q)}}
	if err := signer.Validate(); err != nil {
		return nil, nil, err
	}
	signer.Precompute()
	return &key, signer, nil
}

func ecJWK(m members) (public, private any, err error) {
	var curve string
	var x, y, d []byte
	if err := firstError(m.text("crv", &curve), m.bytes("x", &x), m.bytes("y", &y), m.bytes("d", &d)); err != nil {
		return nil, nil, err
	}
	if curve != "P-256" {
		return nil, nil, fmt.Errorf("%w: the curve %.40q is not P-256", errOtherUse, curve)
	}
	if len(x) != 32 || len(y) != 32 {
		return nil, nil, errors.New("the coordinates of the point do not have 32 bytes each")
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
	if err != nil || d == nil {
		return key, nil, err
	}
	signer, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d)
	if err == nil && !signer.PublicKey.Equal(key) {
		err = errors.New("the private part belongs to another key")
	}
	return key, signer, err
}

func edJWK(m members) (public, private any, err error) {
	var curve string
	var x, d []byte
	if err := firstError(m.text("crv", &curve), m.bytes("x", &x), m.bytes("d", &d)); err != nil {
		return nil, nil, err
	}
	if curve != "Ed25519" {
		return nil, nil, fmt.Errorf("%w: the curve %.40q is not Ed25519", errOtherUse, curve)
	}
	if len(x) != ed25519.PublicKeySize {
		return nil, nil, errors.New("the key does not have 32 bytes")
	}
	key := ed25519.PublicKey(x)
	if d == nil {
		return key, nil, nil
	}
	if len(d) != ed25519.SeedSize {
		return nil, nil, errors.New("the private part does not have 32 bytes")
	}
	signer := ed25519.NewKeyFromSeed(d)
	if !key.Equal(signer.Public()) {
		return nil, nil, errors.New("the private part belongs to another key")
	}
	return key, signer, nil
}

// MarshalPrivate writes the key as a JWK with its private part.
func (k Key) MarshalPrivate() ([]byte, error) { return k.marshal(true) }

// MarshalPublic writes the key as a JWK without its private part. It fails for a secret, which has no public
// part.
func (k Key) MarshalPublic() ([]byte, error) { return k.marshal(false) }

func (k Key) marshal(whole bool) ([]byte, error) {
	m := map[string]string{"alg": k.Algorithm, "use": "sig"}
	if k.ID != "" {
		m["kid"] = k.ID
	}
	put := func(name string, b []byte) { m[name] = base64.RawURLEncoding.EncodeToString(b) }
	switch key := k.public.(type) {
	case []byte:
		if !whole {
			return nil, errors.New("write key: a secret has no public part")
		}
		m["kty"] = "oct"
		put("k", key)
	case *rsa.PublicKey:
		m["kty"] = "RSA"
		put("n", key.N.Bytes())
		put("e", big.NewInt(int64(key.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := key.Bytes()
		if err != nil {
			return nil, fmt.Errorf("write key: %w", err)
		}
		m["kty"], m["crv"] = "EC", "P-256"
		put("x", point[1:33])
		put("y", point[33:])
	case ed25519.PublicKey:
		m["kty"], m["crv"] = "OKP", "Ed25519"
		put("x", key)
	}
	if whole {
		if err := k.putPrivate(put); err != nil {
			return nil, fmt.Errorf("write key: %w", err)
		}
	}
	return json.Marshal(m)
}

func (k Key) putPrivate(put func(name string, b []byte)) error {
	switch key := k.private.(type) {
	case []byte: // written with the rest
	case *rsa.PrivateKey:
		if len(key.Primes) != 2 {
			return errors.New("an RSA key with more than two primes has no form as JWK")
		}
		put("d", key.D.Bytes())
		put("p", key.Primes[0].Bytes())
		put("q", key.Primes[1].Bytes())
	case *ecdsa.PrivateKey:
		d, err := key.Bytes()
		if err != nil {
			return err
		}
		put("d", d)
	case ed25519.PrivateKey:
		put("d", key.Seed())
	default:
		return errors.New("it has no private part")
	}
	return nil
}
