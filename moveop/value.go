package moveop

import (
	"encoding/json"
	"unicode/utf8"
)

// CompactValue returns a JSON value in the canonical form in which values are stored, compared and
// hashed: no insignificant white space, and <, >, &, U+2028 and U+2029 in strings as \u escapes.
// encoding/json writes a json.RawMessage in the same form, so a round trip through it changes nothing.
// Member order and number spelling are kept. The error wraps ErrInvalidOp.
func CompactValue(value []byte) (json.RawMessage, error) {
	if !utf8.Valid(value) {
		return nil, invalid("the value is not valid UTF-8")
	}
	if !json.Valid(value) {
		return nil, invalid("the value is not JSON")
	}
	return appendCompact(make([]byte, 0, len(value)), value), nil
}

// appendCompact appends the canonical form of a valid value.
func appendCompact(dst, value []byte) []byte {
	inString := false
	for i := 0; i < len(value); i++ {
		c := value[i]
		switch {
		case !inString && isSpace(c):
			continue
		case inString && c == '\\':
			dst = append(dst, c)
			i++
			c = value[i]
		case c == '"':
			inString = !inString
		case c == '<' || c == '>' || c == '&':
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
			continue
		case c == 0xe2 && (string(value[i:i+3]) == "\u2028" || string(value[i:i+3]) == "\u2029"):
			i += 2
			dst = append(dst, '\\', 'u', '2', '0', '2', hexDigits[value[i]&0xf])
			continue
		}
		dst = append(dst, c)
	}
	return dst
}

const hexDigits = "0123456789abcdef"

// jsonDepth returns the deepest nesting of arrays and objects without recursing, so that it can run
// before anything that does.
func jsonDepth(value []byte) int {
	depth, deepest, inString := 0, 0, false
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '[' || c == '{':
			depth++
			deepest = max(deepest, depth)
		case c == ']' || c == '}':
			depth--
		}
	}
	return deepest
}
