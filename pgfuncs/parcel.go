package pgfuncs

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A NOTIFY payload is text of less than 8,000 bytes. So one Send makes a parcel: the names and data of all rooms, each
// preceded by its length (an unsigned varint), split into as many parts as needed. A part is
// "sender parcel index count base64". Parts of one transaction arrive in order with nothing in between; parts that do
// not fit together are discarded.
const (
	partBytes   = 5850 // 7,800 in base64, plus the fields before it
	parcelBytes = 2 << 20
)

// pack returns the payloads of a parcel.
func pack(sender string, parcel uint64, batch map[string][]byte) []string {
	var data []byte
	for room, said := range batch {
		data = appendString(appendString(data, room), said)
	}
	count := (len(data) + partBytes - 1) / partBytes
	payloads := make([]string, count)
	for i := range payloads {
		part := data[i*partBytes : min((i+1)*partBytes, len(data))]
		payloads[i] = fmt.Sprintf("%s %d %d %d %s", sender, parcel, i, count, base64.StdEncoding.EncodeToString(part))
	}
	return payloads
}

func appendString[T string | []byte](data []byte, s T) []byte {
	return append(binary.AppendUvarint(data, uint64(len(s))), s...)
}

// unpacker reassembles parcels from their parts, one parcel at a time.
type unpacker struct {
	name string // sender and number of the current parcel
	next int    // the index of the next part
	data []byte
}

// add takes a payload and, if it is the last part of a parcel, calls hear for each room in the parcel.
func (u *unpacker) add(payload string, hear func(room string, data []byte)) {
	name, index, count, part, ok := parsePart(payload)
	if ok && index == 0 {
		*u = unpacker{name: name, data: u.data[:0]}
	}
	if !ok || name != u.name || index != u.next || len(u.data)+len(part) > parcelBytes {
		*u = unpacker{}
		return
	}
	u.data = append(u.data, part...)
	if u.next++; u.next < count {
		return
	}
	unpack(u.data, hear)
	*u = unpacker{}
}

func parsePart(payload string) (name string, index, count int, part []byte, ok bool) {
	fields := strings.Fields(payload)
	if len(fields) != 5 {
		return "", 0, 0, nil, false
	}
	index, badIndex := strconv.Atoi(fields[2])
	count, badCount := strconv.Atoi(fields[3])
	part, err := base64.StdEncoding.DecodeString(fields[4])
	ok = errors.Join(badIndex, badCount, err) == nil && 0 <= index && index < count
	return fields[0] + " " + fields[1], index, count, part, ok
}

func unpack(data []byte, hear func(room string, data []byte)) {
	for len(data) > 0 {
		room, rest, ok := cutString(data)
		if !ok {
			return
		}
		said, rest, ok := cutString(rest)
		if !ok {
			return
		}
		hear(string(room), said)
		data = rest
	}
}

func cutString(data []byte) (s, rest []byte, ok bool) {
	n, width := binary.Uvarint(data)
	if width <= 0 || n > uint64(len(data)-width) {
		return nil, nil, false
	}
	return data[width : width+int(n)], data[width+int(n):], true
}
