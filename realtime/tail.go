package realtime

import (
	"slices"
	"sort"
	"sync"

	"github.com/gorilla/websocket"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// frame is something to send that many sockets share: it is encoded once per form, by the first
// socket that needs it.
type frame struct {
	kind string
	msg  wire.Message
	text encoded
	bin  encoded
}

type encoded struct {
	once     sync.Once
	prepared *websocket.PreparedMessage
	size     int
	err      error
}

func newFrame(msg wire.Message) *frame { return &frame{kind: msg.Type(), msg: msg} }

// prepare returns the frame in one form, and its size in bytes.
func (f *frame) prepare(codec wire.Codec) (*websocket.PreparedMessage, int, error) {
	e := &f.text
	if codec.Binary() {
		e = &f.bin
	}
	e.once.Do(func() {
		var data []byte
		if data, e.err = codec.Encode(f.msg); e.err != nil {
			return
		}
		e.size = len(data)
		e.prepared, e.err = websocket.NewPreparedMessage(frameType(codec), data)
	})
	return e.prepared, e.size, e.err
}

func frameType(codec wire.Codec) int {
	if codec.Binary() {
		return websocket.BinaryMessage
	}
	return websocket.TextMessage
}

// opsFrame is a frame with the ops from…to.
type opsFrame struct {
	*frame
	from, to int64
	ops      []moveop.Op
	bytes    int // about what it occupies
}

func newOpsFrame(ops []moveop.Op) *opsFrame {
	from, to := ops[0].Seq, ops[len(ops)-1].Seq
	f := &opsFrame{frame: newFrame(wire.Ops{From: from, To: to, Ops: ops}), from: from, to: to, ops: ops}
	for i := range ops {
		f.bytes += opSize(&ops[i])
	}
	return f
}

// after returns the part of the frame behind a cursor that is inside it.
func (f *opsFrame) after(cursor int64) *opsFrame {
	if cursor < f.from {
		return f
	}
	return newOpsFrame(f.ops[cursor-f.from+1:])
}

// opBytes is the maximum size of an op in either form: 36 bytes for each of four ids, two numbers, the names of the
// fields, and a key whose every byte needs an escape.
func opBytes(value, key int) int { return value + 6*key + 512 }

// envelope is the size of a frame of ops without them: the names of its fields and two numbers.
const envelope = 96

func opSize(op *moveop.Op) int { return opBytes(len(op.Value), len(op.Key)+len(op.OrderKey)) }

// takeFrame cuts a frame's worth from the front of ops: one op at least, and no more than fit into
// maxBytes. ops is not empty.
func takeFrame(ops []moveop.Op, maxBytes int64) (f *opsFrame, rest []moveop.Op) {
	size, n := int64(0), 0
	for n < len(ops) {
		size += int64(opSize(&ops[n]))
		if n > 0 && size > maxBytes-envelope {
			break
		}
		n++
	}
	return newOpsFrame(ops[:n:n]), ops[n:]
}

// contiguous reports whether ops are exactly those right after a cursor.
func contiguous(ops []moveop.Op, after int64) bool {
	for i := range ops {
		if ops[i].Seq != after+1+int64(i) {
			return false
		}
	}
	return true
}

// tail is the newest part of a room's log, in frames that all sockets share: bounded in bytes,
// contiguous, ending at the hub's relayed seq.
type tail struct {
	frames []*opsFrame
	bytes  int
	limit  int
}

func (t *tail) push(f *opsFrame) {
	t.frames = append(t.frames, f)
	t.bytes += f.bytes
	for t.bytes > t.limit && len(t.frames) > 1 {
		t.bytes -= t.frames[0].bytes
		t.frames[0] = nil // the array lives on until append moves it
		t.frames = t.frames[1:]
	}
}

// prepend puts ops in front, the newest of them first, as far as they fit.
func (t *tail) prepend(ops []moveop.Op, maxFrame int64) {
	var older []*opsFrame
	for len(ops) > 0 {
		var f *opsFrame
		f, ops = takeFrame(ops, maxFrame)
		older = append(older, f)
	}
	first := len(older)
	for first > 0 && t.bytes+older[first-1].bytes <= t.limit {
		first--
		t.bytes += older[first].bytes
	}
	t.frames = append(older[first:], t.frames...)
}

func (t *tail) clear() { t.frames, t.bytes = nil, 0 }

// find returns the index of the frame with the op right after a cursor, -1 if the tail does not have it.
func (t *tail) find(cursor int64) int {
	i := sort.Search(len(t.frames), func(i int) bool { return t.frames[i].to > cursor })
	if i == len(t.frames) || t.frames[i].from > cursor+1 {
		return -1
	}
	return i
}

// after returns the frame with the op right after a cursor, nil if the tail no longer has it.
func (t *tail) after(cursor int64) *opsFrame {
	i := t.find(cursor)
	if i < 0 {
		return nil
	}
	return t.frames[i].after(cursor)
}

// together is after, joined with as many of the following frames as fit into one, for a socket that catches up: each
// frame costs its receiver a transaction, and the tail of a busy room has one per push.
func (t *tail) together(cursor int64, maxOps int, maxBytes int64) *opsFrame {
	i := t.find(cursor)
	if i < 0 {
		return nil
	}
	first := t.frames[i].after(cursor)
	n, bytes := len(first.ops), int64(first.bytes)
	parts := [][]moveop.Op{first.ops}
	for _, f := range t.frames[i+1:] {
		n, bytes = n+len(f.ops), bytes+int64(f.bytes)
		if n > maxOps || bytes > maxBytes-envelope {
			break
		}
		parts = append(parts, f.ops)
	}
	if len(parts) == 1 {
		return first // which sockets share
	}
	return newOpsFrame(slices.Concat(parts...))
}
