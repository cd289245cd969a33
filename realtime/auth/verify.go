package auth

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/canopysync/canopy/realtime/wire"
)

// MaxTokenBytes is the maximum length of a token in bytes.
const MaxTokenBytes = 8 << 10

// tokenAlphabet is the characters of a token. It is checked because base64 decoders skip line ends.
const tokenAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."

// MaxLeeway is the maximum of VerifierConfig.Leeway: revocations are kept for a day after expiry.
const MaxLeeway = 10 * time.Minute

// VerifierConfig configures NewVerifier. Only Keys is required.
type VerifierConfig struct {
	// Keys are the keys to verify tokens with.
	Keys *Keyring
	// Issuer is the required iss. Defaults to any.
	Issuer string
	// Audience is a string that aud must contain. Defaults to none; then tokens with an audience are refused,
	// because they are meant for another service.
	Audience string
	// Leeway is how far issuers' clocks may be off: a token is valid for this long before nbf and after exp.
	// At most MaxLeeway; negative means none. Defaults to 2 s.
	Leeway time.Duration
	// Revocations are the revoked tokens. Defaults to none.
	Revocations *Revocations
	// Now is the wall clock. Defaults to time.Now.
	Now func() time.Time
}

// Verifier checks tokens.
type Verifier struct {
	cfg    VerifierConfig
	parser *jwt.Parser
}

// NewVerifier returns a verifier; it does no I/O.
func NewVerifier(cfg VerifierConfig) (*Verifier, error) {
	if cfg.Keys == nil {
		return nil, errors.New("auth: VerifierConfig.Keys is required")
	}
	if cfg.Leeway > MaxLeeway {
		return nil, fmt.Errorf("auth: a leeway of %s is more than %s", cfg.Leeway, MaxLeeway)
	}
	if cfg.Leeway == 0 {
		cfg.Leeway = 2 * time.Second
	}
	cfg.Leeway = max(cfg.Leeway, 0)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	options := []jwt.ParserOption{
		jwt.WithValidMethods(algorithms), jwt.WithExpirationRequired(), jwt.WithStrictDecoding(),
		jwt.WithLeeway(cfg.Leeway), jwt.WithTimeFunc(cfg.Now),
	}
	if cfg.Issuer != "" {
		options = append(options, jwt.WithIssuer(cfg.Issuer))
	}
	if cfg.Audience != "" {
		options = append(options, jwt.WithAudience(cfg.Audience))
	}
	return &Verifier{cfg: cfg, parser: jwt.NewParser(options...)}, nil
}

// Verify returns the claims of a valid token. Its error is a *wire.Error: unauthorized, with the fault of the
// token, or busy if it cannot tell now. An error about the claims is only ever given for a correctly signed
// token.
func (v *Verifier) Verify(ctx context.Context, token string) (Claims, error) {
	switch {
	case token == "":
		return Claims{}, unauthorized("a token is required")
	case len(token) > MaxTokenBytes:
		return Claims{}, unauthorized("the token has more than %d bytes", MaxTokenBytes)
	}
	if strings.Trim(token, tokenAlphabet) != "" {
		return Claims{}, unauthorized("malformed token: it contains a character that is neither base64url nor a dot")
	}
	head, err := parseHeader(token)
	if err != nil {
		return Claims{}, unauthorized("malformed token: %s", err.Error())
	}
	keys := v.cfg.Keys.find(ctx, head)
	if len(keys) == 0 {
		return Claims{}, unauthorized("no key for %s tokens has the id %q", head.algorithm, head.keyID)
	}
	claims, err := v.parse(token, keys)
	if err == nil {
		err = v.check(claims)
	}
	if err != nil {
		return Claims{}, refusal(err)
	}
	if v.cfg.Revocations == nil {
		return claims, nil
	}
	return claims, v.cfg.Revocations.check(claims.ID)
}

// parse reads a token signed by one of the keys, and records which.
func (v *Verifier) parse(token string, keys []Key) (claims Claims, err error) {
	for _, key := range keys {
		_, err = v.parser.ParseWithClaims(token, &registered{&claims}, func(*jwt.Token) (any, error) { return key.public, nil })
		if !errors.Is(err, jwt.ErrTokenSignatureInvalid) {
			claims.signer = key.fingerprint
			return claims, err
		}
	}
	return Claims{}, err
}

// Withdrawn returns a function that reports, without I/O, whether a verified token is no longer valid because
// it was revoked, or because its key was removed.
func (v *Verifier) Withdrawn(claims Claims) func() bool {
	id, signer := claims.ID, claims.signer
	return func() bool {
		return !v.cfg.Keys.has(signer) || id != "" && v.cfg.Revocations != nil && v.cfg.Revocations.Revoked(id)
	}
}

// Deadline returns the time at which a token becomes invalid by itself: Expires plus the leeway.
func (v *Verifier) Deadline(claims Claims) time.Time { return claims.Expires.Add(v.cfg.Leeway) }

var (
	errAudience = errors.New("the token is for an audience, and this service has none")
	errSubject  = errors.New("the token has no sub")
)

// check makes the checks that package jwt does not.
func (v *Verifier) check(claims Claims) error {
	if v.cfg.Audience == "" && len(claims.Audience) > 0 {
		return errAudience
	}
	if claims.Subject == "" {
		return errSubject
	}
	return nil
}

// refusals are the reasons given to a bearer, in place of package jwt's messages.
var refusals = []struct {
	is   error
	text string
}{
	{jwt.ErrTokenSignatureInvalid, "the token's signature is not valid"},
	{jwt.ErrTokenExpired, "the token has expired"},
	{jwt.ErrTokenNotValidYet, "the token is not valid yet"},
	{jwt.ErrTokenInvalidAudience, "the token is for another audience"},
	{jwt.ErrTokenInvalidIssuer, "the token is from another issuer"},
	{jwt.ErrTokenRequiredClaimMissing, "the token lacks a claim: exp, or the aud or iss that this service requires"},
	{errAudience, errAudience.Error()},
	{errSubject, errSubject.Error()},
}

func refusal(err error) *wire.Error {
	for _, r := range refusals {
		if errors.Is(err, r.is) {
			return unauthorized("%s", r.text)
		}
	}
	return unauthorized("malformed token")
}

func unauthorized(format string, args ...any) *wire.Error {
	return wire.NewError(wire.CodeUnauthorized, format, args...)
}

// header is the part of a token's header that is used.
type header struct{ algorithm, keyID string }

// parseHeader reads the algorithm and the key id from a token's header. It ignores keys and addresses of keys (jwk, jku,
// x5c, x5u). It refuses crit, which lists extensions that must not be ignored, because none is implemented.
func parseHeader(token string) (header, error) {
	segment, _, _ := strings.Cut(token, ".")
	text, err := base64.RawURLEncoding.Strict().DecodeString(segment)
	if err != nil {
		return header{}, errors.New("the header is not base64url")
	}
	m, err := object(text)
	if err != nil {
		return header{}, fmt.Errorf("header: %w", err)
	}
	if _, ok := m["crit"]; ok {
		return header{}, errors.New("header: crit is not understood")
	}
	var h header
	if err := firstError(m.text("alg", &h.algorithm), m.name("kid", &h.keyID)); err != nil {
		return header{}, fmt.Errorf("header: %w", err)
	}
	for _, known := range algorithms {
		if h.algorithm == known {
			return h, nil
		}
	}
	return header{}, fmt.Errorf("header: the algorithm is none of %s", strings.Join(algorithms, ", "))
}

// Inspect returns what a token says and the JSON of its header, whether it is good or not. Nothing that
// it returns may be trusted.
func Inspect(token string) (head json.RawMessage, claims Claims, err error) {
	if len(token) > MaxTokenBytes {
		return nil, claims, fmt.Errorf("the token has more than %d bytes", MaxTokenBytes)
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, claims, errors.New("a token has three parts with dots between them")
	}
	var texts [2][]byte
	for i := range texts {
		if texts[i], err = base64.RawURLEncoding.DecodeString(parts[i]); err != nil {
			return nil, claims, fmt.Errorf("read token: %w", err)
		}
	}
	if _, err := object(texts[0]); err != nil {
		return nil, claims, fmt.Errorf("read header: %w", err)
	}
	if err := json.Unmarshal(texts[1], &claims); err != nil {
		return nil, claims, fmt.Errorf("read claims: %w", err)
	}
	return texts[0], claims, nil
}
