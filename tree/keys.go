package tree

import (
	"encoding/binary"

	"github.com/canopysync/canopy/moveop"
)

// keys holds the order keys of all moves end to end, outside the garbage collector's sight: a log
// never shrinks, so nothing is ever freed.
type keys struct {
	pages [][]byte
}

// keyRef is where a key is: page, offset in the page, length, in 32, 24 and 8 bits.
type keyRef uint64

const keyPageLen = 1 << 16

// A keyRef's length has 8 bits.
const _ = uint8(moveop.MaxOrderKeyBytes)

func (k *keys) add(key string) keyRef {
	last := len(k.pages) - 1
	if last < 0 || len(k.pages[last])+len(key) > keyPageLen {
		k.pages = append(k.pages, make([]byte, 0, keyPageLen))
		last++
	}
	offset := len(k.pages[last])
	k.pages[last] = append(k.pages[last], key...)
	return keyRef(last)<<32 | keyRef(offset)<<8 | keyRef(len(key))
}

// get returns the key's bytes, which must not be changed.
func (k *keys) get(ref keyRef) []byte {
	offset, n := int(uint32(ref)>>8), int(uint8(ref))
	return k.pages[ref>>32][offset : offset+n]
}

// prefix returns the first eight bytes of the key as a number that orders as they do. A shorter key is
// filled up with zeros: where prefixes are equal, keys may differ.
func (k *keys) prefix(ref keyRef) uint64 {
	key := k.get(ref)
	if len(key) >= 8 {
		return binary.BigEndian.Uint64(key)
	}
	var padded [8]byte
	copy(padded[:], key)
	return binary.BigEndian.Uint64(padded[:])
}
