// Package auth decides what the bearer of a JSON Web Token may do in which room. It verifies tokens, holds
// the keys to verify them with and the list of revoked tokens, and signs your own tokens. README.md in this
// directory describes the claims and the kinds of keys.
//
// # Invariants
//
//   - A key has one algorithm, which its type determines. A token's header chooses among the keys of that
//     algorithm and has no other influence: any key, URL or certificate in it is ignored.
//   - Ambiguous tokens are refused: with a duplicate claim, an audience when none is configured, or a grant
//     with an unknown member. So no two programs can read one token differently.
//   - A token without an expiry is refused.
//   - Fetching keys is bounded in time, size and frequency, however many tokens cause it.
//
// The services do not import this package: each has a hook, and cmd/canopy connects the two. Verifier,
// Keyring and Revocations are safe for concurrent use.
package auth

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/canopysync/canopy/realtime/wire"
)

// Access is the level of access to a room. Each level includes the lower ones.
type Access int

// The levels of access.
const (
	None  Access = iota // the room does not exist for the bearer
	Read                // see everything in the room, and who is in it
	Write               // push operations; the first one creates the room
	Admin               // the same: rooms are administered on the database
)

var accessNames = [...]string{None: "none", Read: "read", Write: "write", Admin: "admin"}

// String returns the level's name in claims.
func (a Access) String() string {
	if a < None || a > Admin {
		return fmt.Sprintf("Access(%d)", int(a))
	}
	return accessNames[a]
}

// parseAccess returns the level with the given name in claims: "read", "write" or "admin".
func parseAccess(name string) (Access, error) {
	for a := Read; a <= Admin; a++ {
		if accessNames[a] == name {
			return a, nil
		}
	}
	return None, fmt.Errorf("access %.40q is not read, write or admin", name)
}

// Grant gives access to a room, or to all rooms with a common prefix.
type Grant struct {
	// Room is a room's name, or a prefix and a star: "team-*", or "*" for every room.
	Room   string
	Access Access
}

// ParseGrant parses the command line's form of a grant, such as "team-*=write".
func ParseGrant(text string) (Grant, error) {
	room, name, ok := strings.Cut(text, "=")
	if !ok {
		return Grant{}, fmt.Errorf("grant %.200q is not of the form ROOM=ACCESS", text)
	}
	access, err := parseAccess(name)
	if err != nil {
		return Grant{}, err
	}
	g := Grant{Room: room, Access: access}
	return g, g.check()
}

// String returns the form that ParseGrant parses.
func (g Grant) String() string { return g.Room + "=" + g.Access.String() }

// MarshalJSON writes the grant in the form of the claim.
func (g Grant) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]string{"room": g.Room, "access": g.Access.String()})
}

// UnmarshalJSON reads the grant in the form of the claim. It refuses unknown members, because they may be
// meant to narrow the grant.
func (g *Grant) UnmarshalJSON(text []byte) error {
	members, err := object(text)
	if err != nil {
		return err
	}
	for name := range members {
		if name != "room" && name != "access" {
			return fmt.Errorf("a grant has no member %.40q", name)
		}
	}
	var access string
	if err := firstError(members.text("room", &g.Room), members.text("access", &access)); err != nil {
		return err
	}
	if g.Access, err = parseAccess(access); err != nil {
		return err
	}
	return g.check()
}

func (g Grant) check() error {
	prefix, isPattern := strings.CutSuffix(g.Room, "*")
	if isPattern && prefix == "" {
		return nil
	}
	if err := wire.ValidRoom(prefix); err != nil {
		return fmt.Errorf("grant for %.200q: neither a room name nor a prefix of one with a star", g.Room)
	}
	return nil
}

func (g Grant) covers(room string) bool {
	prefix, isPattern := strings.CutSuffix(g.Room, "*")
	if isPattern {
		return strings.HasPrefix(room, prefix)
	}
	return room == g.Room
}

// Claims is the content of a token.
type Claims struct {
	Subject   string // sub: who the bearer is; the others in a room see it
	ID        string // jti: the id by which the token can be revoked; may be empty
	Issuer    string // iss
	Audience  []string
	Issued    time.Time // iat, zero if missing
	NotBefore time.Time // nbf, zero if missing
	Expires   time.Time // exp
	Rooms     []Grant

	signer fingerprint // of the key that the token was verified with
}

// Access returns the token's access to a room: the highest level of all its grants.
func (c Claims) Access(room string) Access {
	access := None
	for _, g := range c.Rooms {
		if g.covers(room) {
			access = max(access, g.Access)
		}
	}
	return access
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
