package moveop

import (
	"encoding/binary"
	"unicode/utf8"
)

// The binary form of a list of operations:
//
//	u8      version, 1
//	uvarint number of ops
//	ops     each:
//	    u8      kind in bits 0 and 1, flags in the others
//	    varint  milliseconds of the timestamp, less those of the op before
//	    uvarint counter
//	    8 bytes replica                             unless sameReplica
//	    16 bytes node                               unless sameNode
//	    varint  known, less that of the op before
//	    varint  seq, less that of the op before
//	    16 bytes cause                              if hasCause
//	    a move:
//	        16 bytes parent                         unless sameTarget or underNode
//	        uvarint n, order key's first n bytes are those of the move before
//	        uvarint n, n more bytes of the order key
//	    a set:
//	        uvarint n, n bytes of the key           unless sameTarget
//	        uvarint n, n bytes of the value
//
// Varints are those of encoding/binary; differences wrap around. Before the first op, everything is
// zero. A run of siblings made in one go takes about 30 bytes an op, nearly all of it the node id.

// binaryVersion is the first byte of the binary form.
const binaryVersion = 1

const (
	kindMask    = 0x03
	sameReplica = 0x04 // as in the op before
	sameNode    = 0x08 // as in the op before
	hasCause    = 0x10
	sameTarget  = 0x20 // a move's parent, a set's key: as in the move, the set before
	underNode   = 0x40 // a move's parent is the node of the op before
	unusedFlag  = 0x80

	// minOpBytes is the size of the smallest op; it bounds what a count may make the decoder reserve.
	minOpBytes = 7
)

// AppendOps appends the binary form of ops to dst, in their order; similar neighbours take less space.
// As in JSON, it writes only the fields of the op's kind. It does not validate: DecodeOps refuses an op
// whose kind is neither Move nor Set, whose order key is longer than MaxOrderKeyBytes, whose Known or Seq
// is negative, whose text is not UTF-8 or whose value is not JSON.
func AppendOps(dst []byte, ops []Op) []byte {
	dst = append(dst, binaryVersion)
	dst = binary.AppendUvarint(dst, uint64(len(ops)))
	var e opState
	for i := range ops {
		dst = e.append(dst, &ops[i])
	}
	return dst
}

// DecodeOps reads the binary form. The ops do not refer to b, and their values are in CompactValue's
// form. It checks only the shape, as UnmarshalJSON does: pass ops from outside to Validate as well. The
// error wraps ErrInvalidOp. Memory is bounded: no more ops than fit into b, and no order key longer than
// MaxOrderKeyBytes, whatever it shares with the one before.
func DecodeOps(b []byte) ([]Op, error) {
	r := opReader{rest: b}
	if v := r.byte(); r.err == nil && v != binaryVersion {
		return nil, invalid("unknown version %d of the binary form", v)
	}
	n := r.uvarint()
	if r.err == nil && n > uint64(len(r.rest)/minOpBytes) {
		return nil, invalid("%d ops do not fit into %d bytes", n, len(r.rest))
	}
	if r.err != nil {
		return nil, r.err
	}
	ops := make([]Op, n)
	for i := range ops {
		if r.read(&ops[i]); r.err != nil {
			return nil, r.err
		}
	}
	if len(r.rest) > 0 {
		return nil, invalid("%d extra bytes after the last op", len(r.rest))
	}
	return ops, nil
}

// opState is what both sides remember of the ops before.
type opState struct {
	op       Op     // the op before
	parent   NodeID // of the move before
	orderKey string // of the move before
	key      string // of the set before
}

func (s *opState) remember(op *Op) {
	s.op = *op
	switch op.Kind {
	case Move:
		s.parent, s.orderKey = op.Parent, op.OrderKey
	case Set:
		s.key = op.Key
	}
}

func (s *opState) flags(op *Op) byte {
	f := byte(0)
	if op.TS.Replica() == s.op.TS.Replica() {
		f |= sameReplica
	}
	if op.Node == s.op.Node {
		f |= sameNode
	}
	if !op.Cause.IsZero() {
		f |= hasCause
	}
	switch {
	case op.Kind == Move && op.Parent == s.parent, op.Kind == Set && op.Key == s.key:
		f |= sameTarget
	case op.Kind == Move && op.Parent == s.op.Node:
		f |= underNode
	}
	if op.Kind == Move || op.Kind == Set {
		f |= byte(op.Kind)
	}
	return f
}

func (s *opState) append(dst []byte, op *Op) []byte {
	f := s.flags(op)
	dst = append(dst, f)
	dst = binary.AppendVarint(dst, op.TS.Millis()-s.op.TS.Millis())
	dst = binary.AppendUvarint(dst, uint64(op.TS.Counter()))
	if f&sameReplica == 0 {
		dst = append(dst, op.TS[8:]...)
	}
	if f&sameNode == 0 {
		dst = append(dst, op.Node[:]...)
	}
	dst = binary.AppendVarint(dst, op.Known-s.op.Known)
	dst = binary.AppendVarint(dst, op.Seq-s.op.Seq)
	if f&hasCause != 0 {
		dst = append(dst, op.Cause[:]...)
	}
	if op.Kind == Move {
		if f&(sameTarget|underNode) == 0 {
			dst = append(dst, op.Parent[:]...)
		}
		n := sharedPrefix(op.OrderKey, s.orderKey)
		dst = binary.AppendUvarint(dst, uint64(n))
		dst = appendBytes(dst, op.OrderKey[n:])
	} else {
		if f&sameTarget == 0 {
			dst = appendBytes(dst, op.Key)
		}
		dst = appendBytes(dst, string(op.Value))
	}
	s.remember(op)
	return dst
}

func appendBytes(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func sharedPrefix(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// opReader takes ops off rest. After an error it returns zeros.
type opReader struct {
	opState
	rest []byte
	err  error
}

func (r *opReader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = invalid(format, args...)
	}
	r.rest = nil
}

func (r *opReader) read(op *Op) {
	f := r.byte()
	millis := r.op.TS.Millis() + r.varint()
	counter := r.uvarint()
	replica := r.op.TS.Replica()
	if f&sameReplica == 0 {
		replica = ReplicaID(binary.BigEndian.Uint64(r.take(8)))
	}
	op.Node = r.op.Node
	if f&sameNode == 0 {
		op.Node = NodeID(r.take(16))
	}
	op.Known = r.op.Known + r.varint()
	op.Seq = r.op.Seq + r.varint()
	if f&hasCause != 0 {
		op.Cause = Timestamp(r.take(16))
	}
	if millis < 0 || millis > MaxMillis || counter > 0xffff {
		r.fail("a timestamp is out of range")
	}
	if op.Known < 0 || op.Seq < 0 {
		r.fail("known %d or seq %d is negative", op.Known, op.Seq)
	}
	op.TS = NewTimestamp(millis, uint16(counter), replica)
	r.readBody(op, f)
	r.remember(op)
}

func (r *opReader) readBody(op *Op, f byte) {
	switch op.Kind = Kind(f & kindMask); {
	case f&unusedFlag != 0, f&sameTarget != 0 && f&underNode != 0:
		r.fail("unknown flags %#x", f)
	case op.Kind == Move:
		r.readMove(op, f)
	case op.Kind == Set && f&underNode == 0:
		r.readSet(op, f)
	default:
		r.fail("unknown kind in %#x", f)
	}
}

func (r *opReader) readMove(op *Op, f byte) {
	switch {
	case f&sameTarget != 0:
		op.Parent = r.parent
	case f&underNode != 0:
		op.Parent = r.op.Node
	default:
		op.Parent = NodeID(r.take(16))
	}
	shared := r.uvarint()
	suffix := r.bytes()
	if shared > uint64(len(r.orderKey)) || int(shared)+len(suffix) > MaxOrderKeyBytes {
		r.fail("an order key shares more than the one before has, or is longer than %d bytes", MaxOrderKeyBytes)
		return
	}
	if op.OrderKey = r.orderKey[:shared]; len(suffix) > 0 {
		op.OrderKey += string(suffix)
	}
	if !utf8.ValidString(op.OrderKey) {
		r.fail("an order key is not UTF-8")
	}
}

func (r *opReader) readSet(op *Op, f byte) {
	if op.Key = r.key; f&sameTarget == 0 {
		op.Key = string(r.bytes())
	}
	value := r.bytes()
	if !utf8.ValidString(op.Key) {
		r.fail("a key is not UTF-8")
	}
	if r.err == nil {
		op.Value, r.err = CompactValue(value)
	}
}

func (r *opReader) byte() byte { return r.take(1)[0] }

// take returns the next n bytes, n at most 16; zeros after an error.
func (r *opReader) take(n int) []byte {
	if len(r.rest) < n {
		r.fail("cut short")
		return make([]byte, n)
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *opReader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.rest)) {
		r.fail("cut short")
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *opReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.fail("cut short, or a number out of range")
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *opReader) varint() int64 {
	v, n := binary.Varint(r.rest)
	if n <= 0 {
		r.fail("cut short, or a number out of range")
		return 0
	}
	r.rest = r.rest[n:]
	return v
}
