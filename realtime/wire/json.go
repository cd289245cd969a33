package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"unicode/utf8"

	"github.com/canopysync/canopy/moveop"
)

// Subprotocols of the WebSocket, in the order in which the Go client offers them.
const (
	SubprotocolBinary = "canopy.v1.bin"
	SubprotocolJSON   = "canopy.v1.json"
)

// Codec is one encoding of the messages. Implementations are stateless.
type Codec interface {
	// Subprotocol returns the name for WebSocket negotiation.
	Subprotocol() string
	// Binary reports whether messages travel in binary frames rather than text frames.
	Binary() bool
	// Encode returns one frame. It fails only for a message that has no encoded form, such as an op of
	// an unknown kind.
	Encode(msg Message) ([]byte, error)
	// Decode reads one frame. Its error is always an *Error, with CodeBadRequest, CodeInvalidOp or
	// CodeTooLarge. If the frame is a push whose id could be read, the message is a Push with only that
	// id, so that the sender gets a Nack; with any other error it is nil.
	Decode(frame []byte) (Message, error)
}

// JSON is the codec of canopy.v1.json.
var JSON Codec = jsonCodec{}

type jsonCodec struct{}

func (jsonCodec) Subprotocol() string { return SubprotocolJSON }

func (jsonCodec) Binary() bool { return false }

func (jsonCodec) Encode(msg Message) ([]byte, error) {
	body, err := json.Marshal(msg)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", msg.Type(), err)
	}
	frame := make([]byte, 0, len(body)+24)
	frame = append(append(append(frame, `{"type":"`...), msg.Type()...), '"')
	if len(body) > len("{}") {
		frame = append(frame, ',')
	}
	return append(frame, body[1:]...), nil
}

func (jsonCodec) Decode(frame []byte) (Message, error) {
	kind, err := peekType(frame)
	if err != nil {
		return nil, err
	}
	return decodeBody(kind, frame)
}

// peekType finds a message's type: at the front, where encoders usually write it, or by a full parse.
func peekType(frame []byte) (string, error) {
	const prefix = `{"type":"`
	if rest, ok := bytes.CutPrefix(frame, []byte(prefix)); ok {
		if i := bytes.IndexAny(rest, `"\`); i >= 0 && i <= 16 && rest[i] == '"' {
			return string(rest[:i]), nil
		}
	}
	var head struct {
		Type *string `json:"type"`
	}
	if err := unmarshal(frame, &head); err != nil {
		return "", malformed(err)
	}
	if head.Type == nil {
		return "", NewError(CodeBadRequest, "the message has no type")
	}
	return *head.Type, nil
}

func malformed(err error) *Error {
	return NewError(CodeBadRequest, "malformed message: %.200s", err.Error())
}

// decoders maps a message's name to the decoder of its JSON body.
var decoders = map[string]func(body []byte) (Message, error){
	"hello":       decodeAs[Hello],
	"welcome":     decodeAs[Welcome],
	"resync":      decodeAs[Resync],
	"ops":         decodeAs[Ops],
	"push":        decodePush,
	"ack":         decodeAs[Ack],
	"nack":        decodeAs[Nack],
	"pull":        decodeAs[Pull],
	"head":        decodeAs[Head],
	"presence":    decodeAs[Presence],
	"connections": decodeAs[Connections],
	"ping":        decodeAs[Ping],
	"status":      decodeAs[ServerStatus],
	"auth":        decodeAs[Auth],
	"error":       decodeErrorMessage,
}

func decodeBody(kind string, body []byte) (Message, error) {
	decode, ok := decoders[kind]
	if !ok {
		return nil, unknownType(fmt.Sprintf("%.40q", kind))
	}
	return decode(body)
}

func decodeAs[M Message](body []byte) (Message, error) {
	var msg M
	if err := unmarshalText(body, &msg); err != nil {
		return nil, malformed(err)
	}
	return msg, nil
}

func decodeErrorMessage(body []byte) (Message, error) {
	var msg Error
	if err := unmarshalText(body, &msg); err != nil {
		return nil, malformed(err)
	}
	return &msg, nil
}

// unmarshalText is unmarshal for what may be passed on to others, whose connections invalid UTF-8 would break.
func unmarshalText(body []byte, into any) error {
	if !utf8.Valid(body) {
		return errNotUTF8
	}
	return unmarshal(body, into)
}

var errNotUTF8 = errors.New("not UTF-8")

// unmarshal matches fields by their exact names, all of which are lower case: encoding/json would accept the unknown
// field "ID" as "id".
func unmarshal(body []byte, into any) error {
	if allLower(body) {
		return json.Unmarshal(body, into)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return err
	}
	maps.DeleteFunc(fields, func(name string, _ json.RawMessage) bool { return !isLower([]byte(name)) })
	var known bytes.Buffer
	as := json.NewEncoder(&known)
	as.SetEscapeHTML(false) // so that a presence state is passed on unchanged and does not grow
	if err := as.Encode(fields); err != nil {
		return err
	}
	return json.Unmarshal(known.Bytes(), into)
}

// allLower reports whether the names of a message's members are in lower case and written without escapes. It skips
// their values, which may be large and have names of their own.
func allLower(message []byte) bool {
	depth := 0
	for rest := message; len(rest) > 0; {
		c := rest[0]
		rest = rest[1:]
		switch c {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case '"':
			text := rest[:textLen(rest)]
			rest = rest[min(len(text)+1, len(rest)):]
			if depth == 1 && !isLower(text) && bytes.HasPrefix(bytes.TrimLeft(rest, " \t\r\n"), []byte(":")) {
				return false
			}
		}
	}
	return true
}

// textLen returns the length of rest up to the end of a JSON string.
func textLen(rest []byte) int {
	for n := 0; ; n++ {
		end := bytes.IndexByte(rest[n:], '"')
		if end < 0 {
			return len(rest)
		}
		n += end
		if before := bytes.TrimRight(rest[:n], `\`); (n-len(before))%2 == 0 {
			return n
		}
	}
}

func isLower(name []byte) bool {
	for _, c := range name {
		if (c < 'a' || c > 'z') && c != '_' {
			return false
		}
	}
	return true
}

// pushJSON keeps the ops raw, so that a bad op is not taken for a bad message, and fields that are read separately.
type pushJSON struct {
	ID          json.RawMessage   `json:"id"`
	Replica     json.RawMessage   `json:"replica"` // of POST …/ops only
	Ops         []json.RawMessage `json:"ops"`
	TraceParent json.RawMessage   `json:"traceparent"` // an invalid one does not invalidate the push
}

func decodePush(body []byte) (Message, error) {
	var raw pushJSON
	err := unmarshal(body, &raw)
	mistyped, ok := errors.AsType[*json.UnmarshalTypeError](err)
	if err != nil && !ok {
		return nil, malformed(err)
	}
	id, wrong := raw.id()
	if wrong != nil {
		return nil, wrong
	}
	if mistyped != nil { // the rest was read all the same
		return Push{ID: id}, malformed(err)
	}
	var parent string
	if json.Unmarshal(raw.TraceParent, &parent) != nil {
		parent = ""
	}
	ops, err := decodeOps(raw.Ops)
	return Push{ID: id, Ops: ops, TraceParent: parent}, err
}

// id returns the push's id, which may be missing.
func (p pushJSON) id() (id string, err error) {
	if p.ID == nil {
		return "", nil
	}
	if err := unmarshalText(p.ID, &id); err != nil {
		return "", malformed(fmt.Errorf("id: %w", err))
	}
	if moveop.HasHalfSurrogate(p.ID) {
		return "", NewError(CodeBadRequest, "the push id has half a surrogate pair")
	}
	return id, checkPushID(id)
}

// maxPushID bounds what an ack has to carry back, in bytes.
const maxPushID = 128

func checkPushID(id string) error {
	if len(id) > maxPushID {
		return NewError(CodeBadRequest, "the push id has %d bytes, the limit is %d", len(id), maxPushID)
	}
	if !utf8.ValidString(id) { // a nack could not return it
		return malformed(fmt.Errorf("id: %w", errNotUTF8))
	}
	return nil
}

func decodeOps(raw []json.RawMessage) ([]moveop.Op, error) {
	ops := make([]moveop.Op, len(raw))
	for i, text := range raw {
		if err := ops[i].UnmarshalJSON(text); err != nil {
			return nil, badOp(text, err)
		}
	}
	return ops, nil
}

// badOp names the op by its timestamp if that can be read.
func badOp(text []byte, err error) *Error {
	e := NewError(CodeInvalidOp, "%.300s", err.Error())
	var id struct {
		TS *moveop.Timestamp `json:"ts"`
	}
	if json.Unmarshal(text, &id) == nil {
		e.Op = id.TS
	}
	return e
}

// DecodePushRequest reads the body of POST …/ops. Its error is an *Error, as in Codec.Decode.
func DecodePushRequest(body []byte) (req PushRequest, err error) {
	var raw pushJSON
	if err := unmarshal(body, &raw); err != nil {
		return PushRequest{}, malformed(err)
	}
	if req.ID, err = raw.id(); err != nil {
		return PushRequest{}, err
	}
	if raw.Replica == nil || bytes.Equal(raw.Replica, null) {
		return req, NewError(CodeBadRequest, "replica is required")
	}
	if err := json.Unmarshal(raw.Replica, &req.Replica); err != nil {
		return PushRequest{}, malformed(err)
	}
	req.Ops, err = decodeOps(raw.Ops)
	return req, err
}

// presenceJSON uses pointers to tell the two directions apart.
type presenceJSON struct {
	State   *json.RawMessage                     `json:"state,omitempty"`
	Updates map[moveop.ReplicaID]json.RawMessage `json:"updates,omitempty"`
}

var null = json.RawMessage("null")

// MarshalJSON writes the updates if there are any, otherwise the state.
func (p Presence) MarshalJSON() ([]byte, error) {
	if p.Updates != nil {
		return json.Marshal(struct {
			Updates map[moveop.ReplicaID]json.RawMessage `json:"updates"`
		}{p.Updates})
	}
	state := p.State
	if state == nil {
		state = null
	}
	return json.Marshal(presenceJSON{State: &state})
}

// UnmarshalJSON reads either direction. A state of null becomes nil.
func (p *Presence) UnmarshalJSON(text []byte) error {
	var j presenceJSON
	if err := json.Unmarshal(text, &j); err != nil {
		return err
	}
	*p = Presence{Updates: j.Updates}
	if j.State != nil && !bytes.Equal(*j.State, null) {
		p.State = *j.State
	}
	return nil
}
