package moveop

import (
	"encoding/json"
	"unicode/utf8"
)

// CompactValue returns a JSON value in the canonical form in which values are stored, compared and
// hashed: no insignificant white space, and <, >, &, U+2028 and U+2029 in strings as \u escapes.
// That is what encoding/json writes for a json.RawMessage, so passing through it changes nothing.
// Member order and number spelling are kept.
//
// The error wraps ErrInvalidOp. To write a property that is to be cleared, the value is null.
func CompactValue(value []byte) (json.RawMessage, error) {
	if len(value) == 0 { // encoding/json would write null, which clears
		return nil, invalid("the value is missing")
	}
	if !utf8.Valid(value) {
		return nil, invalid("the value is not valid UTF-8")
	}
	out, err := json.Marshal(json.RawMessage(value))
	if err != nil {
		return nil, invalid("the value is not JSON: %v", err)
	}
	return out, nil
}

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
