package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// maxNameBytes bounds a subject, a token id and a key id.
	maxNameBytes = 128
	// maxTime is the last second that a claim may name: the end of the year 9999.
	maxTime = 253402300799
)

// members are the members of a JSON object by their exact names: encoding/json would accept "ROOMS" for rooms.
type members map[string]json.RawMessage

// object reads a JSON object. It refuses duplicate names, because one program may use the first value and another the
// last.
func object(text []byte) (members, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	m := members{}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, err
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, err
		}
		key, _ := name.(string) // names in an object are always strings
		if _, twice := m[key]; twice {
			return nil, fmt.Errorf("duplicate member %.40q", key)
		}
		m[key] = value
	}
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("extra data after the JSON object")
	}
	return m, nil
}

// has reports whether a member is present and not null.
func (m members) has(name string) bool {
	value, ok := m[name]
	return ok && string(value) != "null"
}

// text reads a string, empty if missing.
func (m members) text(name string, to *string) error {
	if !m.has(name) {
		return nil
	}
	if err := json.Unmarshal(m[name], to); err != nil {
		return fmt.Errorf("%s is not a string", name)
	}
	return nil
}

// name reads a string that will be shown, logged or stored.
func (m members) name(name string, to *string) error {
	if err := m.text(name, to); err != nil {
		return err
	}
	if err := checkName(*to); err != nil {
		return fmt.Errorf("%s %w", name, err)
	}
	return nil
}

func checkName(text string) error {
	if len(text) > maxNameBytes {
		return fmt.Errorf("has more than %d bytes", maxNameBytes)
	}
	if !utf8.ValidString(text) {
		return errors.New("is not UTF-8")
	}
	for _, r := range text {
		if !unicode.IsPrint(r) {
			return errors.New("has an unprintable character")
		}
	}
	return nil
}

// time reads a NumericDate, zero if missing.
func (m members) time(name string, to *time.Time) error {
	if !m.has(name) {
		return nil
	}
	seconds, err := strconv.ParseFloat(string(m[name]), 64)
	if err != nil || seconds < 0 || seconds > maxTime {
		return fmt.Errorf("%s is not a time in seconds since 1970", name)
	}
	whole, part := math.Modf(seconds)
	*to = time.Unix(int64(whole), int64(part*1e9))
	return nil
}

// texts reads a string or a list of strings.
func (m members) texts(name string, to *[]string) error {
	if !m.has(name) {
		return nil
	}
	var one string
	if json.Unmarshal(m[name], &one) == nil {
		*to = []string{one}
		return nil
	}
	if err := json.Unmarshal(m[name], to); err != nil {
		return fmt.Errorf("%s is neither a string nor a list of strings", name)
	}
	return nil
}

// UnmarshalJSON reads the claims of a token. It does not check their meaning, but refuses ambiguous ones.
func (c *Claims) UnmarshalJSON(text []byte) error {
	m, err := object(text)
	if err != nil {
		return err
	}
	var read Claims
	err = firstError(
		m.name("sub", &read.Subject), m.name("jti", &read.ID), m.text("iss", &read.Issuer), m.texts("aud", &read.Audience),
		m.time("iat", &read.Issued), m.time("nbf", &read.NotBefore), m.time("exp", &read.Expires))
	if err == nil && m.has("rooms") {
		err = json.Unmarshal(m["rooms"], &read.Rooms)
	}
	if err != nil {
		return err
	}
	*c = read
	return nil
}

// MarshalJSON writes the claims in the form of a token.
func (c Claims) MarshalJSON() ([]byte, error) {
	m := map[string]any{"sub": c.Subject, "rooms": append([]Grant{}, c.Rooms...)}
	for name, text := range map[string]string{"jti": c.ID, "iss": c.Issuer} {
		if text != "" {
			m[name] = text
		}
	}
	if len(c.Audience) > 0 {
		m["aud"] = c.Audience
	}
	for name, t := range map[string]time.Time{"iat": c.Issued, "nbf": c.NotBefore, "exp": c.Expires} {
		if !t.IsZero() {
			m[name] = t.Unix()
		}
	}
	return json.Marshal(m)
}

// registered implements the interface by which package jwt reads claims.
type registered struct{ *Claims }

func numericDate(t time.Time) *jwt.NumericDate {
	if t.IsZero() {
		return nil
	}
	return &jwt.NumericDate{Time: t}
}

func (c registered) GetExpirationTime() (*jwt.NumericDate, error) { return numericDate(c.Expires), nil }
func (c registered) GetIssuedAt() (*jwt.NumericDate, error)       { return numericDate(c.Issued), nil }
func (c registered) GetNotBefore() (*jwt.NumericDate, error)      { return numericDate(c.NotBefore), nil }
func (c registered) GetIssuer() (string, error)                   { return c.Issuer, nil }
func (c registered) GetSubject() (string, error)                  { return c.Subject, nil }
func (c registered) GetAudience() (jwt.ClaimStrings, error)       { return c.Audience, nil }
