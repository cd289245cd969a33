package moveop_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/canopysync/canopy/moveop"
)

var (
	node   = moveop.NodeID{0: 1, 15: 7}
	parent = moveop.NodeID{0: 1, 15: 8}
	at     = moveop.NewTimestamp(1732143600000, 0, alice)
)

func move() moveop.Op {
	return moveop.Op{Kind: moveop.Move, TS: at, Node: node, Parent: parent, OrderKey: "a0", Known: 3}
}

func set(key, value string) moveop.Op {
	return moveop.Op{Kind: moveop.Set, TS: at, Node: node, Key: key, Value: json.RawMessage(value)}
}

func with(op moveop.Op, change func(*moveop.Op)) moveop.Op {
	change(&op)
	return op
}

func TestValidate(t *testing.T) {
	t.Parallel()
	limits := moveop.Limits{KeyBytes: 8, ValueBytes: 16, ValueDepth: 3}
	tests := []struct {
		name  string
		op    moveop.Op
		valid bool
	}{
		{"a move", move(), true},
		{"a delete", with(move(), func(op *moveop.Op) { op.Parent = moveop.Trash }), true},
		{"under a zero id", with(move(), func(op *moveop.Op) { op.Parent = moveop.NodeID{} }), true},
		{"under itself: not effective, but an op", with(move(), func(op *moveop.Op) { op.Parent = node }), true},
		{"of Root", with(move(), func(op *moveop.Op) { op.Node = moveop.Root }), false},
		{"of Trash", with(move(), func(op *moveop.Op) { op.Node = moveop.Trash }), false},
		{"without an order key", with(move(), func(op *moveop.Op) { op.OrderKey = "" }), false},
		{"with an order key that is none", with(move(), func(op *moveop.Op) { op.OrderKey = "a0V0" }), false},
		{"a move with a key", with(move(), func(op *moveop.Op) { op.Key = "title" }), false},
		{"a move with a value", with(move(), func(op *moveop.Op) { op.Value = json.RawMessage("1") }), false},

		{"a set", set("title", `"x"`), true},
		{"of null", set("title", `null`), true},
		{"on Root", with(set("title", `1`), func(op *moveop.Op) { op.Node = moveop.Root }), true},
		{"a key at the limit", set("12345678", `1`), true},
		{"a key past the limit", set("123456789", `1`), false},
		{"a key past the limit in bytes only", set("ключи", `1`), false},
		{"an empty key", set("", `1`), false},
		{"a key that is no UTF-8", set("a\xff", `1`), false},
		{"a key with a NUL", set("a\x00", `1`), false},
		{"a key with a line feed", set("a\nb", `1`), false},
		{"a key with a DEL", set("a\x7f", `1`), false},
		{"a value at the limit", set("k", `"12345678901234"`), true},
		{"a value past the limit", set("k", `"123456789012345"`), false},
		{"depth at the limit", set("k", `[[[1]],{"[":1}]`), true},
		{"depth past the limit", set("k", `[[[[1]]]]`), false},
		{"an unclosed depth past the limit", set("k", `[[[[`), false},
		{"brackets in a string have no depth", set("k", `"\"[[[[[["`), true},
		{"no value", set("k", ``), false},
		{"a value that is no JSON", set("k", `{`), false},
		{"two values", set("k", `1 2`), false},
		{"a value with white space", set("k", `[1, 2]`), false},
		{"a value that is not escaped", set("k", `"<"`), false},
		{"a value that is no UTF-8", set("k", "\"\xff\""), false},
		{"a set with a parent", with(set("k", `1`), func(op *moveop.Op) { op.Parent = parent }), false},
		{"a set with an order key", with(set("k", `1`), func(op *moveop.Op) { op.OrderKey = "a0" }), false},

		{"no kind", with(move(), func(op *moveop.Op) { op.Kind = 0 }), false},
		{"an unknown kind", with(move(), func(op *moveop.Op) { op.Kind = 3 }), false},
		{"a replica of zero", with(move(), func(op *moveop.Op) { op.TS = moveop.NewTimestamp(1, 0, 0) }), false},
		{"a correction", with(move(), func(op *moveop.Op) { op.TS = op.TS.Correction() }), false},
		{"a cause", with(move(), func(op *moveop.Op) { op.Cause = at }), false},
		{"a negative known", with(move(), func(op *moveop.Op) { op.Known = -1 }), false},
		{"a seq from before", with(move(), func(op *moveop.Op) { op.Seq = 5 }), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := tt.op.Validate(limits)
			if tt.valid && err != nil {
				t.Errorf("refused: %v", err)
			}
			if !tt.valid && !errors.Is(err, moveop.ErrInvalidOp) {
				t.Errorf("got %v, want ErrInvalidOp", err)
			}
		})
	}
}

func TestValidate_defaultLimits(t *testing.T) {
	t.Parallel()
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	text := func(n int) string { return `"` + strings.Repeat("x", n-2) + `"` }
	for _, tt := range []struct {
		name     string
		ok, past moveop.Op
	}{
		{"key", set(strings.Repeat("k", 255), `1`), set(strings.Repeat("k", 256), `1`)},
		{"depth", set("k", deep(64)), set("k", deep(65))},
		{"value", set("k", text(1000<<10)), set("k", text(1000<<10+1))},
		{
			"order key",
			with(move(), func(op *moveop.Op) { op.OrderKey = "a0" + strings.Repeat("1", 253) }),
			with(move(), func(op *moveop.Op) { op.OrderKey = "a0" + strings.Repeat("1", 254) }),
		},
	} {
		if err := tt.ok.Validate(moveop.DefaultLimits); err != nil {
			t.Errorf("%s at its limit: %v", tt.name, err)
		}
		if err := tt.past.Validate(moveop.DefaultLimits); !errors.Is(err, moveop.ErrInvalidOp) {
			t.Errorf("%s past its limit: %v", tt.name, err)
		}
	}
}

func TestSameBody(t *testing.T) {
	t.Parallel()
	for _, op := range []moveop.Op{move(), set("title", `"x"`)} {
		circumstances := with(op, func(op *moveop.Op) { op.Known, op.Seq, op.Cause = 9, 9, at })
		if !op.SameBody(circumstances) || op.LogHash() != circumstances.LogHash() {
			t.Errorf("%s: known, seq and cause are not body", op.Kind)
		}
		for name, change := range map[string]func(*moveop.Op){
			"kind":      func(op *moveop.Op) { op.Kind = 3 - op.Kind },
			"ts":        func(op *moveop.Op) { op.TS[15]++ },
			"node":      func(op *moveop.Op) { op.Node[15]++ },
			"parent":    func(op *moveop.Op) { op.Parent[15]++ },
			"order key": func(op *moveop.Op) { op.OrderKey += "1" },
			"key":       func(op *moveop.Op) { op.Key += "x" },
			"value":     func(op *moveop.Op) { op.Value = json.RawMessage(`2`) },
		} {
			if op.SameBody(with(op, change)) {
				t.Errorf("%s: another %s is the same body", op.Kind, name)
			}
		}
	}
}

func TestKind_string(t *testing.T) {
	t.Parallel()
	for kind, want := range map[moveop.Kind]string{moveop.Move: "move", moveop.Set: "set", 7: "kind(7)"} {
		if got := kind.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestCompactValue(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		" { \"b\" : [ 1.50 , -0 ] ,\n\t\"a\":1E2,\"a\":null}\r": `{"b":[1.50,-0],"a":1E2,"a":null}`,
		`"<&>` + "\u2028\u2029" + `"`:                           `"\u003c\u0026\u003e\u2028\u2029"`,
		`"\u003C\/ é\u00e9\ud83c\udf33"`:                        `"\u003C\/ é\u00e9\ud83c\udf33"`,
		`null`:                                                  `null`,
	} {
		got, err := moveop.CompactValue([]byte(in))
		if err != nil || string(got) != want {
			t.Errorf("%s: got %s, %v, want %s", in, got, err, want)
		}
		again, err := moveop.CompactValue(got)
		if err != nil || string(again) != want {
			t.Errorf("%s: a second time gave %s, %v", in, again, err)
		}
		if err := moveop.ValidateValue(got, moveop.DefaultLimits); err != nil {
			t.Errorf("%s: %v", got, err)
		}
	}
	for _, in := range []string{"", " ", "nul", "1 2", "[", "{1:2}", "'x'", "NaN", "\"\n\"", "\"\xff\"", "01", "\ufeff1"} {
		if got, err := moveop.CompactValue([]byte(in)); !errors.Is(err, moveop.ErrInvalidOp) {
			t.Errorf("%q: got %s, %v", in, got, err)
		}
	}
	if got, err := moveop.CompactValue(nil); !errors.Is(err, moveop.ErrInvalidOp) {
		t.Errorf("nil: got %s, %v; a missing value must not clear", got, err)
	}
}

// The input is somebody else's buffer.
func TestCompactValue_copies(t *testing.T) {
	t.Parallel()
	in := []byte(`"text"`)
	out := must(moveop.CompactValue(in))
	in[1] = 'T'
	if string(out) != `"text"` {
		t.Errorf("the value changed with its source: %s", out)
	}
}
