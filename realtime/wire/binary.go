package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/canopysync/canopy/moveop"
)

// Binary is the codec of canopy.v1.bin. A frame is
//
//	version 0x01 | type | body
//
// where the body of the three large messages is binary, and that of the others is the message's JSON
// object without its type. Numbers are unsigned varints; ops are in the form of moveop.AppendOps, up to
// the end of the frame.
//
//	0x04 ops   from | to | ops
//	0x05 push  length of id | id | ops
//	0x06 ack   length of id | id | head | number of results | results: 16 bytes ts | seq | status
//
// A status is 1 applied, 2 ineffective, 3 duplicate.
var Binary Codec = binaryCodec{}

// MaxFrame is the size in bytes of the largest frame that clients read, whatever the server's own limit
// (Limits.MaxFrame).
const MaxFrame = 64 << 20

// MaxFrameOps is the maximum number of ops or results that the binary decoder accepts in one frame. Ops are
// small in this form, so the size of a frame alone would not bound the memory to decode it.
const MaxFrameOps = 10000

const frameVersion = 1

// typeNumbers are part of the format; numbers are never reused.
var typeNumbers = map[string]byte{
	"hello": 0x01, "welcome": 0x02, "resync": 0x03, "ops": 0x04, "push": 0x05, "ack": 0x06,
	"nack": 0x07, "pull": 0x08, "head": 0x09, "presence": 0x0a, "connections": 0x0b, "ping": 0x0c,
	"status": 0x0d, "auth": 0x0e, "error": 0x0f,
}

var typeNames = func() map[byte]string {
	names := make(map[byte]string, len(typeNumbers))
	for name, number := range typeNumbers {
		names[number] = name
	}
	return names
}()

// statuses maps numbers to statuses; 0 is none.
var statuses = [...]Status{1: StatusApplied, 2: StatusIneffective, 3: StatusDuplicate}

// CodecFor returns the codec of a subprotocol.
func CodecFor(subprotocol string) (Codec, bool) {
	switch subprotocol {
	case SubprotocolJSON:
		return JSON, true
	case SubprotocolBinary:
		return Binary, true
	}
	return nil, false
}

type binaryCodec struct{}

func (binaryCodec) Subprotocol() string { return SubprotocolBinary }

func (binaryCodec) Binary() bool { return true }

func (binaryCodec) Encode(msg Message) ([]byte, error) {
	frame := []byte{frameVersion, typeNumbers[msg.Type()]}
	switch msg := msg.(type) {
	case Ops:
		if msg.From < 0 || msg.To < 0 {
			return nil, fmt.Errorf("encode ops: %d to %d is not a range", msg.From, msg.To)
		}
		frame = binary.AppendUvarint(frame, uint64(msg.From))
		frame = binary.AppendUvarint(frame, uint64(msg.To))
		return appendOps(frame, msg.Ops)
	case Push:
		return appendOps(appendString(frame, msg.ID), msg.Ops)
	case Ack:
		return appendAck(frame, msg)
	}
	body, err := json.Marshal(msg)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", msg.Type(), err)
	}
	return append(frame, body...), nil
}

func appendOps(frame []byte, ops []moveop.Op) ([]byte, error) {
	for i := range ops {
		if k := ops[i].Kind; k != moveop.Move && k != moveop.Set {
			return nil, fmt.Errorf("encode op %s: unknown kind %d", ops[i].TS, k)
		}
	}
	return moveop.AppendOps(frame, ops), nil
}

func appendString(frame []byte, s string) []byte {
	return append(binary.AppendUvarint(frame, uint64(len(s))), s...)
}

func appendAck(frame []byte, ack Ack) ([]byte, error) {
	if ack.Head < 0 {
		return nil, fmt.Errorf("encode ack: head %d is negative", ack.Head)
	}
	frame = appendString(frame, ack.ID)
	frame = binary.AppendUvarint(frame, uint64(ack.Head))
	frame = binary.AppendUvarint(frame, uint64(len(ack.Results)))
	for _, r := range ack.Results {
		status := slices.Index(statuses[:], r.Status)
		if status < 1 {
			return nil, fmt.Errorf("encode ack: unknown status %q", r.Status)
		}
		if r.Seq < 0 {
			return nil, fmt.Errorf("encode ack: seq %d is negative", r.Seq)
		}
		frame = binary.AppendUvarint(append(frame, r.TS[:]...), uint64(r.Seq))
		frame = append(frame, byte(status))
	}
	return frame, nil
}

func (binaryCodec) Decode(frame []byte) (Message, error) {
	if len(frame) < 2 || frame[0] != frameVersion {
		return nil, NewError(CodeBadRequest, "not a frame of %s", SubprotocolBinary)
	}
	r := frameReader{rest: frame[2:]}
	switch frame[1] {
	case typeNumbers["ops"]:
		return r.ops()
	case typeNumbers["push"]:
		return r.push()
	case typeNumbers["ack"]:
		return r.ack()
	}
	name, ok := typeNames[frame[1]]
	if !ok {
		return nil, unknownType(fmt.Sprintf("0x%02x", frame[1]))
	}
	return decodeBody(name, frame[2:])
}

var errTruncated = errors.New("the frame ends early")

// frameReader reads from the front; after an error, all reads return zero.
type frameReader struct {
	rest []byte
	err  error
}

func (r *frameReader) ops() (Message, error) {
	msg := Ops{From: r.number(), To: r.number()}
	if r.err != nil {
		return nil, malformed(r.err)
	}
	ops, err := r.opsBlock()
	if err != nil {
		return nil, err
	}
	msg.Ops = ops
	return msg, nil
}

func (r *frameReader) push() (Message, error) {
	id := string(r.bytes(r.length()))
	if r.err != nil {
		return nil, malformed(r.err)
	}
	if err := checkPushID(id); err != nil {
		return nil, err
	}
	ops, err := r.opsBlock()
	return Push{ID: id, Ops: ops}, err
}

// opsBlock checks the number of ops before it decodes them.
func (r *frameReader) opsBlock() ([]moveop.Op, error) {
	if len(r.rest) > 0 {
		if n, size := binary.Uvarint(r.rest[1:]); size > 0 && n > MaxFrameOps {
			return nil, NewError(CodeTooLarge, "%d ops in one frame, the limit is %d", n, MaxFrameOps)
		}
	}
	ops, err := moveop.DecodeOps(r.rest)
	if err != nil {
		return nil, NewError(CodeInvalidOp, "%.300s", err.Error())
	}
	return ops, nil
}

func (r *frameReader) ack() (Message, error) {
	ack := Ack{ID: string(r.bytes(r.length())), Head: r.number()}
	const resultBytes = 18 // the smallest
	n := r.number()
	if n > MaxFrameOps || n > int64(len(r.rest)/resultBytes) {
		return nil, malformed(errTruncated)
	}
	ack.Results = make([]Result, n)
	for i := range ack.Results {
		var result Result
		copy(result.TS[:], r.bytes(len(result.TS)))
		result.Seq = r.number()
		if b := r.bytes(1); b != nil && b[0] >= 1 && int(b[0]) < len(statuses) {
			result.Status = statuses[b[0]]
		} else if r.err == nil {
			r.err = errors.New("unknown status")
		}
		ack.Results[i] = result
	}
	if r.err == nil && len(r.rest) > 0 {
		r.err = errors.New("extra bytes after the last result")
	}
	if r.err != nil {
		return nil, malformed(r.err)
	}
	return ack, nil
}

func (r *frameReader) number() int64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 || n > 1<<63-1 {
		r.fail(errTruncated)
		return 0
	}
	r.rest = r.rest[size:]
	return int64(n)
}

// length reads a number that must not exceed the bytes left.
func (r *frameReader) length() int {
	n := r.number()
	if n > int64(len(r.rest)) {
		r.fail(errTruncated)
		return 0
	}
	return int(n)
}

func (r *frameReader) bytes(n int) []byte {
	if n > len(r.rest) {
		r.fail(errTruncated)
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *frameReader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.rest = nil
}
