package moveop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// MarshalJSON writes the JSON form of the protocol: only the fields of the op's kind, and seq and cause
// only if they are set.
func (op Op) MarshalJSON() ([]byte, error) {
	b := make([]byte, 0, 256+len(op.Value))
	b = append(b, `{"kind":"`...)
	b = append(b, op.Kind.String()...)
	b = append(appendUUID(append(b, `","ts":"`...), op.TS), `","node":"`...)
	b = append(appendUUID(b, op.Node), '"')
	switch op.Kind {
	case Move:
		b = append(appendUUID(append(b, `,"parent":"`...), op.Parent), `","order_key":`...)
		b = appendJSONString(b, op.OrderKey)
	case Set:
		if !json.Valid(op.Value) {
			return nil, invalid("the value is not JSON")
		}
		b = appendJSONString(append(b, `,"key":`...), op.Key)
		b = append(append(b, `,"value":`...), op.Value...)
	default:
		return nil, invalid("unknown kind %d", op.Kind)
	}
	b = strconv.AppendInt(append(b, `,"known":`...), op.Known, 10)
	if op.Seq != 0 {
		b = strconv.AppendInt(append(b, `,"seq":`...), op.Seq, 10)
	}
	if !op.Cause.IsZero() {
		b = append(appendUUID(append(b, `,"cause":"`...), op.Cause), '"')
	}
	return append(b, '}'), nil
}

// UnmarshalJSON reads the JSON form of the protocol and compacts the value. Field names are
// case-sensitive; unknown ones are ignored, duplicate known ones refused, so that every program reads the
// same from an op. It checks only the shape: pass ops from outside to Validate as well.
//
// The error wraps ErrInvalidOp. (encoding/json refuses text that is not JSON before it calls this, with
// an error of its own.)
func (op *Op) UnmarshalJSON(text []byte) error {
	var f opFields
	if err := f.scan(text); err != nil {
		return err
	}
	p := opParser{}
	kind := p.text("kind", f.kind)
	read := Op{
		TS:    Timestamp(p.uuid("ts", f.ts)),
		Node:  NodeID(p.uuid("node", f.node)),
		Known: p.integer("known", f.known),
		Seq:   p.integer("seq", f.seq),
	}
	if f.cause != nil {
		read.Cause = Timestamp(p.uuid("cause", f.cause))
	}
	switch string(kind) {
	case "move":
		read.Kind, read.Parent = Move, NodeID(p.uuid("parent", f.parent))
		read.OrderKey = string(p.text("order_key", f.orderKey))
	case "set":
		read.Kind, read.Key = Set, string(p.text("key", f.key))
		read.Value = p.value(f.value)
	default:
		p.fail(invalid("unknown kind %q", kind))
	}
	if p.err != nil {
		return p.err
	}
	*op = read
	return nil
}

// opFields holds the raw text of an op's fields, nil where there is none.
type opFields struct {
	kind, ts, node, parent, orderKey, key, value, known, seq, cause []byte
}

func (f *opFields) named(name []byte) *[]byte {
	switch string(name) {
	case "kind":
		return &f.kind
	case "ts":
		return &f.ts
	case "node":
		return &f.node
	case "parent":
		return &f.parent
	case "order_key":
		return &f.orderKey
	case "key":
		return &f.key
	case "value":
		return &f.value
	case "known":
		return &f.known
	case "seq":
		return &f.seq
	case "cause":
		return &f.cause
	}
	return nil
}

// scan finds the fields. A null is a value for "value" and absence for everything else.
func (f *opFields) scan(text []byte) error {
	if !utf8.Valid(text) || !json.Valid(text) {
		return invalid("not JSON in UTF-8")
	}
	rest := trimSpace(text)
	if rest[0] != '{' {
		return invalid("not a JSON object")
	}
	for rest = trimSpace(rest[1:]); rest[0] != '}'; {
		n := jsonValueLen(rest)
		rawName := rest[:n]
		rest = trimSpace(trimSpace(rest[n:])[1:]) // the colon
		n = jsonValueLen(rest)
		raw := rest[:n]
		if rest = trimSpace(rest[n:]); rest[0] == ',' {
			rest = trimSpace(rest[1:])
		}
		name, err := unquoteJSON(rawName)
		if err != nil {
			return err
		}
		into := f.named(name)
		if into == nil || into != &f.value && string(raw) == "null" {
			continue
		}
		if *into != nil {
			return invalid("duplicate field %q", name)
		}
		*into = raw
	}
	return nil
}

// opParser reads fields and keeps the first error, so that reading an op is a list of its fields.
type opParser struct{ err error }

func (p *opParser) fail(err error) {
	if p.err == nil {
		p.err = err
	}
}

// text reads a string. The result may be part of raw.
func (p *opParser) text(name string, raw []byte) []byte {
	if len(raw) == 0 || raw[0] != '"' {
		p.fail(invalid("%s must be a string", name))
		return nil
	}
	s, err := unquoteJSON(raw)
	if err != nil {
		p.fail(err)
	}
	if HasHalfSurrogate(raw) {
		p.fail(invalid("%s has half a surrogate pair", name))
	}
	return s
}

func (p *opParser) uuid(name string, raw []byte) [16]byte {
	b, err := parseUUID(p.text(name, raw))
	if err != nil {
		p.fail(fmt.Errorf("%w: %s: %w", ErrInvalidOp, name, err))
	}
	return b
}

// integer reads a sequence number; a missing one is 0.
func (p *opParser) integer(name string, raw []byte) int64 {
	if raw == nil {
		return 0
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil || n < 0 {
		p.fail(invalid("%s must be an integer from 0 to 2^63-1", name))
	}
	return n
}

func (p *opParser) value(raw []byte) json.RawMessage {
	if raw == nil {
		p.fail(invalid("a set needs a value"))
		return nil
	}
	return appendCompact(make([]byte, 0, len(raw)), raw)
}

// jsonValueLen returns the length of the JSON value at the beginning of valid JSON.
func jsonValueLen(text []byte) int {
	depth, inString := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
			if !inString && depth == 0 {
				return i + 1
			}
		case inString:
		case c == '[' || c == '{':
			depth++
		case c == ']' || c == '}':
			if depth == 0 { // the end of what a number or literal stands in
				return i
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case depth == 0 && (c == ',' || isSpace(c)):
			return i
		}
	}
	return len(text)
}

func trimSpace(text []byte) []byte {
	for len(text) > 0 && isSpace(text[0]) {
		text = text[1:]
	}
	return text
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// unquoteJSON reads a valid JSON string. The result may be part of raw.
func unquoteJSON(raw []byte) ([]byte, error) {
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1], nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, invalid("%v", err)
	}
	return []byte(s), nil
}

// HasHalfSurrogate reports whether a valid JSON string contains an unpaired surrogate. That is not text:
// encoding/json reads U+FFFD for each, so different strings would become equal.
func HasHalfSurrogate(raw []byte) bool {
	for i := bytes.IndexByte(raw, '\\'); i >= 0 && i < len(raw); i++ {
		if raw[i] != '\\' {
			continue
		}
		switch first := escaped(raw[i:]); {
		case !utf16.IsSurrogate(first):
			i++
		case utf16.DecodeRune(first, escaped(raw[i+len(`\uXXXX`):])) == utf8.RuneError:
			return true
		default:
			i += len(`\uXXXX\uXXXX`) - 1
		}
	}
	return false
}

// escaped is the code unit of the \u escape that text begins with, or -1.
func escaped(text []byte) rune {
	if len(text) < len(`\uXXXX`) || text[0] != '\\' || text[1] != 'u' {
		return -1
	}
	unit, err := strconv.ParseUint(string(text[2:len(`\uXXXX`)]), 16, 16)
	if err != nil {
		return -1
	}
	return rune(unit)
}

// appendJSONString appends s as encoding/json would write it.
func appendJSONString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c > 0x7e || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, _ := json.Marshal(s) // a string never fails
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}
