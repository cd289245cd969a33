package moveop

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"
)

// Digest summarises a replica so that two can be compared in O(1): the number of ops in the log (Ops),
// the XOR of a 64-bit hash of each op (Log) and the XOR of a hash of each item of the current state
// (State: each node's placement, each property's current write). XOR makes it independent of order and
// lets an item be taken out again. Compare digests only at the same (epoch, seq) with nothing pending.
//
// Each hash is the first 8 bytes, big-endian, of SHA-256 over a tag byte and the item's fields. The
// SQL functions log_hash, placement_hash and value_hash compute the same.
type Digest struct {
	Ops   int64
	Log   uint64
	State uint64
}

// LogHash returns an op's contribution to Digest.Log.
//
//	'm' | ts | node | parent | order_key
//	's' | ts | node | key | 0x00 | value
func (op Op) LogHash() uint64 {
	var stack [160]byte
	if op.Kind == Move {
		b := append(stack[:0], 'm')
		b = append(append(append(b, op.TS[:]...), op.Node[:]...), op.Parent[:]...)
		return hash64(append(b, op.OrderKey...))
	}
	b := append(stack[:0], 's')
	b = append(append(b, op.TS[:]...), op.Node[:]...)
	b = append(append(b, op.Key...), 0)
	return hash64(append(b, op.Value...))
}

// PlacementHash returns the contribution of a node's current placement to Digest.State.
//
//	'p' | node | parent | order_key
func PlacementHash(node, parent NodeID, orderKey string) uint64 {
	var stack [128]byte
	b := append(stack[:0], 'p')
	b = append(append(b, node[:]...), parent[:]...)
	return hash64(append(b, orderKey...))
}

// ValueHash returns the contribution of a property's current write to Digest.State. A cleared property
// counts too.
//
//	'v' | node | ts | key
func ValueHash(node NodeID, key string, ts Timestamp) uint64 {
	var stack [128]byte
	b := append(stack[:0], 'v')
	b = append(append(b, node[:]...), ts[:]...)
	return hash64(append(b, key...))
}

func hash64(b []byte) uint64 {
	sum := sha256.Sum256(b)
	return binary.BigEndian.Uint64(sum[:8])
}

type digestJSON struct {
	Ops   int64  `json:"ops"`
	Log   string `json:"log"`
	State string `json:"state"`
}

// MarshalJSON writes {"ops":N,"log":"<16 hex>","state":"<16 hex>"}.
func (d Digest) MarshalJSON() ([]byte, error) {
	return json.Marshal(digestJSON{d.Ops, fmt.Sprintf("%016x", d.Log), fmt.Sprintf("%016x", d.State)})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (d *Digest) UnmarshalJSON(text []byte) error {
	var j digestJSON
	if err := json.Unmarshal(text, &j); err != nil {
		return fmt.Errorf("decode digest: %w", err)
	}
	log, err := parseHash(j.Log)
	if err != nil {
		return err
	}
	state, err := parseHash(j.State)
	if err != nil {
		return err
	}
	*d = Digest{Ops: j.Ops, Log: log, State: state}
	return nil
}

func parseHash(s string) (uint64, error) {
	if len(s) != 16 || !isLowerHex(s) {
		return 0, fmt.Errorf("decode digest: %q is not 16 lower-case hexadecimal digits", s)
	}
	return strconv.ParseUint(s, 16, 64)
}
