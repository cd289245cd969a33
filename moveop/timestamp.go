package moveop

import (
	"bytes"
	"encoding/binary"
	"time"
)

// Timestamp is a hybrid logical clock reading and the identity of an operation: 48-bit Unix
// milliseconds, 16-bit counter, 64-bit replica, all big-endian, so that byte order is the total
// order of operations. The zero value is before every operation.
//
// Source: Kulkarni et al., "Logical Physical Clocks" (OPODIS 2014), with the replica as tie-break.
type Timestamp [16]byte

// MaxMillis is the last Unix millisecond that a Timestamp can hold (year 10889).
const MaxMillis = 1<<48 - 1

// MaxTimestamp is after every operation.
var MaxTimestamp = Timestamp{
	0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
}

// NewTimestamp packs its arguments into a Timestamp. It uses only the low 48 bits of millis.
func NewTimestamp(millis int64, counter uint16, replica ReplicaID) Timestamp {
	var ts Timestamp
	putUint48(ts[:6], uint64(millis))
	binary.BigEndian.PutUint16(ts[6:8], counter)
	binary.BigEndian.PutUint64(ts[8:16], uint64(replica))
	return ts
}

// ParseTimestamp parses the canonical lower-case UUID form. The error wraps ErrInvalidID.
func ParseTimestamp(s string) (Timestamp, error) {
	b, err := parseUUID(s)
	return Timestamp(b), err
}

// Millis returns the Unix time in milliseconds.
func (ts Timestamp) Millis() int64 { return int64(binary.BigEndian.Uint64(ts[:8]) >> 16) }

// Time returns the physical part, to the millisecond.
func (ts Timestamp) Time() time.Time { return time.UnixMilli(ts.Millis()) }

// Counter returns the logical part, which orders operations within a millisecond.
func (ts Timestamp) Counter() uint16 { return binary.BigEndian.Uint16(ts[6:8]) }

// Replica returns the author. For a correction the top bit is set.
func (ts Timestamp) Replica() ReplicaID { return ReplicaID(binary.BigEndian.Uint64(ts[8:16])) }

// IsZero reports whether ts is the zero value, which no operation has.
func (ts Timestamp) IsZero() bool { return ts == Timestamp{} }

// Correction returns the timestamp of the correction of the delete made at ts: ts with the top bit of the
// replica set, so that the correction is ordered right after the delete.
func (ts Timestamp) Correction() Timestamp {
	ts[8] |= 0x80
	return ts
}

// IsCorrection reports whether ts marks a server correction.
func (ts Timestamp) IsCorrection() bool { return ts[8]&0x80 != 0 }

// Compare orders timestamps bytewise.
func (ts Timestamp) Compare(other Timestamp) int { return bytes.Compare(ts[:], other[:]) }

// Before reports whether ts is ordered before other.
func (ts Timestamp) Before(other Timestamp) bool {
	// As two numbers, so that it is inlined: replicas compare timestamps all the time.
	a, b := binary.BigEndian.Uint64(ts[:8]), binary.BigEndian.Uint64(other[:8])
	if a == b {
		a, b = binary.BigEndian.Uint64(ts[8:]), binary.BigEndian.Uint64(other[8:])
	}
	return a < b
}

// String returns the canonical lower-case UUID form.
func (ts Timestamp) String() string { return formatUUID(ts) }

// MarshalText implements encoding.TextMarshaler.
func (ts Timestamp) MarshalText() ([]byte, error) { return []byte(ts.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (ts *Timestamp) UnmarshalText(text []byte) (err error) {
	*ts, err = parseUUID(text)
	return err
}
