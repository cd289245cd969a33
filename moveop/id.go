package moveop

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// ErrInvalidID is wrapped by every failure to parse a NodeID, Timestamp or ReplicaID.
var ErrInvalidID = errors.New("invalid id")

// NodeID identifies a node. Any 128-bit value is legal; NewNodeID makes UUIDv7s. IDs are ordered
// bytewise, as is their text form.
type NodeID [16]byte

var (
	// Root is the root of the visible tree. It is never moved.
	Root = NodeID{15: 1}
	// Trash is the parent of deleted nodes. It is never moved.
	Trash = NodeID{15: 2}
)

// NewNodeID returns a UUIDv7 (RFC 9562, section 5.7) for the given Unix time in milliseconds, with 74
// bits from random. The error is that of random.
func NewNodeID(unixMilli int64, random io.Reader) (NodeID, error) {
	var id NodeID
	if _, err := io.ReadFull(random, id[6:]); err != nil {
		return NodeID{}, fmt.Errorf("new node id: %w", err)
	}
	putUint48(id[:6], uint64(unixMilli))
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return id, nil
}

// ParseNodeID parses the canonical lower-case UUID form. The error wraps ErrInvalidID.
func ParseNodeID(s string) (NodeID, error) {
	b, err := parseUUID(s)
	return NodeID(b), err
}

// IsReserved reports whether id is Root or Trash, the two nodes that no operation may move.
func (id NodeID) IsReserved() bool { return id == Root || id == Trash }

// Compare orders ids bytewise.
func (id NodeID) Compare(other NodeID) int { return bytes.Compare(id[:], other[:]) }

// String returns the canonical lower-case UUID form.
func (id NodeID) String() string { return formatUUID(id) }

// MarshalText implements encoding.TextMarshaler.
func (id NodeID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *NodeID) UnmarshalText(text []byte) (err error) {
	*id, err = parseUUID(text)
	return err
}

// ReplicaID identifies a replica: 64 random bits, not zero, with the top bit clear. The top bit marks
// the server's corrections (see Timestamp.Correction), which no replica may author.
type ReplicaID uint64

// correctionBit is the bit of a ReplicaID that only server corrections carry.
const correctionBit ReplicaID = 1 << 63

// NewReplicaID draws a valid ReplicaID from random. The error is that of random.
func NewReplicaID(random io.Reader) (ReplicaID, error) {
	for {
		var b [8]byte
		if _, err := io.ReadFull(random, b[:]); err != nil {
			return 0, fmt.Errorf("new replica id: %w", err)
		}
		if r := ReplicaID(binary.BigEndian.Uint64(b[:])) &^ correctionBit; r != 0 {
			return r, nil
		}
	}
}

// ParseReplicaID parses a valid ReplicaID of 16 lower-case hexadecimal digits. The error wraps
// ErrInvalidID.
func ParseReplicaID(s string) (ReplicaID, error) {
	if len(s) != 16 || !isLowerHex(s) {
		return 0, fmt.Errorf("%w: replica %q is not 16 lower-case hexadecimal digits", ErrInvalidID, s)
	}
	v, _ := strconv.ParseUint(s, 16, 64) // 16 digits always fit
	r := ReplicaID(v)
	if !r.Valid() {
		return 0, fmt.Errorf("%w: replica %q must not be zero nor have its top bit set", ErrInvalidID, s)
	}
	return r, nil
}

// Valid reports whether a replica may use the id: not zero, top bit clear.
func (r ReplicaID) Valid() bool { return r != 0 && r&correctionBit == 0 }

// String returns 16 lower-case hexadecimal digits.
func (r ReplicaID) String() string { return fmt.Sprintf("%016x", uint64(r)) }

// MarshalText implements encoding.TextMarshaler.
func (r ReplicaID) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *ReplicaID) UnmarshalText(text []byte) (err error) {
	*r, err = ParseReplicaID(string(text))
	return err
}

func formatUUID(b [16]byte) string {
	var stack [36]byte
	return string(appendUUID(stack[:0], b))
}

func appendUUID(dst []byte, b [16]byte) []byte {
	dst = append(hex.AppendEncode(dst, b[0:4]), '-')
	dst = append(hex.AppendEncode(dst, b[4:6]), '-')
	dst = append(hex.AppendEncode(dst, b[6:8]), '-')
	dst = append(hex.AppendEncode(dst, b[8:10]), '-')
	return hex.AppendEncode(dst, b[10:16])
}

// parseUUID accepts the canonical form only, so that equal ids have equal text.
func parseUUID[T string | []byte](s T) (b [16]byte, err error) {
	if len(s) == 36 && s[8] == '-' && s[13] == '-' && s[18] == '-' && s[23] == '-' {
		var stack [32]byte
		digits := append(append(append(stack[:0], s[0:8]...), s[9:13]...), s[14:18]...)
		digits = append(append(digits, s[19:23]...), s[24:36]...)
		if isLowerHex(digits) {
			_, _ = hex.Decode(b[:], digits) // 32 digits: cannot fail
			return b, nil
		}
	}
	return b, fmt.Errorf("%w: %q is not a lower-case UUID like %s", ErrInvalidID, s, Root)
}

func isLowerHex[T string | []byte](s T) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func putUint48(b []byte, v uint64) {
	binary.BigEndian.PutUint16(b[0:2], uint16(v>>32))
	binary.BigEndian.PutUint32(b[2:6], uint32(v))
}
