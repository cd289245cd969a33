// Package auth decides what the bearer of a JSON Web Token may do in which room. It verifies tokens,
// keeps the keys that they may be signed with and the list of those that were revoked, and signs tokens
// of one's own. README.md in this directory describes the claims and the kinds of keys.
//
// # Invariants
//
//   - A key has one algorithm, which its type decides. A token's header chooses among the keys of that
//     algorithm and has no other influence: no key, URL or certificate in it is ever looked at.
//   - Whatever is ambiguous is refused: a claim that is there twice, an audience that nobody asked for, a
//     grant with a member that is not known. So two programs cannot read one token in two ways.
//   - A token that does not expire is no token.
//   - Fetching keys is bounded in time, size and frequency, however many tokens ask for it.
//
// The services know nothing of this package: each has a hook, and cmd/canopy joins the two. Verifier,
// Keyring and Revocations are safe for concurrent use.
package auth

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/canopysync/canopy/realtime/wire"
)

// Access is what a grant allows in a room. Each level allows what is below it too.
type Access int

// The levels of access.
const (
	None  Access = iota // the room does not exist for the bearer
	Read                // see everything in the room, and who is in it
	Write               // push operations, and make the room by the first one
	Admin               // administer the room
)

var accessNames = [...]string{None: "none", Read: "read", Write: "write", Admin: "admin"}

// String returns the name that claims have for the level.
func (a Access) String() string {
	if a < None || a > Admin {
		return fmt.Sprintf("Access(%d)", int(a))
	}
	return accessNames[a]
}

// ParseAccess returns the level of a name in a claim: "read", "write" or "admin".
func ParseAccess(name string) (Access, error) {
	for a := Read; a <= Admin; a++ {
		if accessNames[a] == name {
			return a, nil
		}
	}
	return None, fmt.Errorf("access %.40q is not read, write or admin", name)
}

// Grant gives access to a room, or to all rooms that begin alike.
type Grant struct {
	// Room is a room's name, or a prefix and a star: "team-*", or "*" for every room.
	Room   string
	Access Access
}

// ParseGrant reads the form that the command line has for a grant, "team-*=write".
func ParseGrant(text string) (Grant, error) {
	room, name, ok := strings.Cut(text, "=")
	if !ok {
		return Grant{}, fmt.Errorf("grant %.200q is not of the form ROOM=ACCESS", text)
	}
	access, err := ParseAccess(name)
	if err != nil {
		return Grant{}, err
	}
	g := Grant{Room: room, Access: access}
	return g, g.check()
}

// String is the form that ParseGrant reads.
func (g Grant) String() string { return g.Room + "=" + g.Access.String() }

// MarshalJSON writes the grant as the claim has it.
func (g Grant) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]string{"room": g.Room, "access": g.Access.String()})
}

// UnmarshalJSON reads the grant as the claim has it. A member that is not known may be meant to narrow
// the grant, so it is refused.
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
	if g.Access, err = ParseAccess(access); err != nil {
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
		return fmt.Errorf("grant for %.200q: neither a room's name nor a prefix of one and a star", g.Room)
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

// Claims is what a token says.
type Claims struct {
	Subject   string // sub: who the bearer is; the others in a room are shown it
	ID        string // jti: the name by which the token can be revoked; may be empty
	Issuer    string // iss
	Audience  []string
	Issued    time.Time // iat, zero if it is not there
	NotBefore time.Time // nbf, zero if it is not there
	Expires   time.Time // exp
	Rooms     []Grant

	signer fingerprint // of the key that the token was verified with
}

// Access returns what the token allows in a room: the most that any of its grants does.
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
