// Package formattest makes snapshots in memory, for the tests of those who read or serve them. It
// holds the only encoder of binary COPY data in Canopy: outside tests that is Postgres' work.
package formattest

import (
	"encoding/binary"
	"fmt"

	"github.com/canopysync/canopy/moveop"
)

// CopySignature and the two empty words behind it are how COPY data begins.
const CopySignature = "PGCOPY\n\xff\r\n\x00"

// AppendCopyHeader appends what comes before the first row.
func AppendCopyHeader(dst []byte) []byte {
	return append(append(dst, CopySignature...), 0, 0, 0, 0, 0, 0, 0, 0)
}

// AppendCopyTrailer appends what comes after the last row.
func AppendCopyTrailer(dst []byte) []byte { return append(dst, 0xff, 0xff) }

// AppendCopyRow appends one row. A value is nil for null, or an id, a timestamp, an int64, int16,
// bool, string or byte slice; a nil slice is null too.
func AppendCopyRow(dst []byte, values ...any) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(values)))
	for _, value := range values {
		b, null := encode(value)
		if null {
			dst = append(dst, 0xff, 0xff, 0xff, 0xff)
			continue
		}
		dst = append(binary.BigEndian.AppendUint32(dst, uint32(len(b))), b...)
	}
	return dst
}

func encode(value any) (b []byte, null bool) {
	switch v := value.(type) {
	case nil:
		return nil, true
	case moveop.NodeID:
		return v[:], false
	case moveop.Timestamp:
		return v[:], false
	case [16]byte:
		return v[:], false
	case int64:
		return binary.BigEndian.AppendUint64(nil, uint64(v)), false
	case int16:
		return binary.BigEndian.AppendUint16(nil, uint16(v)), false
	case bool:
		if v {
			return []byte{1}, false
		}
		return []byte{0}, false
	case string:
		return []byte(v), false
	case []byte:
		return v, v == nil
	}
	panic(fmt.Sprintf("formattest: no COPY form for %T", value))
}
