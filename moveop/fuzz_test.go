package moveop_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/canopysync/canopy/moveop"
)

// Oracle: an id has one spelling, so what parses prints as it was.
func FuzzParseID(f *testing.F) {
	f.Add("00000000-0000-0000-0000-000000000001")
	f.Add("01934bcd-d180-0000-80a1-b2c3d4e5f607")
	f.Add("00a1b2c3d4e5f607")
	f.Fuzz(func(t *testing.T, text string) {
		if id, err := moveop.ParseNodeID(text); err == nil && id.String() != text {
			t.Errorf("node %q prints as %q", text, id)
		} else if err != nil && !errors.Is(err, moveop.ErrInvalidID) {
			t.Errorf("%q: %v", text, err)
		}
		if ts, err := moveop.ParseTimestamp(text); err == nil && ts.String() != text {
			t.Errorf("timestamp %q prints as %q", text, ts)
		}
		if r, err := moveop.ParseReplicaID(text); err == nil && (r.String() != text || !r.Valid()) {
			t.Errorf("replica %q prints as %q", text, r)
		}
	})
}

// checkCodecs checks what holds for every op that a codec gave: both codecs keep it, and encode it
// alike when it comes back.
func checkCodecs(t *testing.T, ops []moveop.Op) {
	t.Helper()
	binary := moveop.AppendOps(nil, ops)
	back, err := moveop.DecodeOps(binary)
	if err != nil || !reflect.DeepEqual(back, ops) {
		t.Fatalf("binary made %+v of %+v, %v", back, ops, err)
	}
	text, err := json.Marshal(ops)
	if err != nil {
		t.Fatalf("%+v has no JSON: %v", ops, err)
	}
	back = nil
	if err := json.Unmarshal(text, &back); err != nil || !reflect.DeepEqual(back, ops) {
		t.Fatalf("JSON made %+v of %+v, %v", back, ops, err)
	}
}

// Oracle: encoding/json reading the object into a map agrees on every field, and both codecs keep
// the op. Errors wrap ErrInvalidOp and leave the op alone.
func FuzzOpJSON(f *testing.F) {
	f.Add([]byte(moveJSON))
	f.Add([]byte(setJSON))
	f.Add([]byte(`{"kind":"set","TS":1,"ts":null,"value":[1,{"}":"\""}] , "\u0074s":""}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		op := move()
		if err := op.UnmarshalJSON(text); err != nil {
			if !errors.Is(err, moveop.ErrInvalidOp) || !reflect.DeepEqual(op, move()) {
				t.Fatalf("got %v, and op %+v", err, op)
			}
			return
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(text, &fields); err != nil {
			t.Fatalf("not JSON, but it gave %+v: %v", op, err)
		}
		for name, got := range map[string]any{"kind": op.Kind.String(), "ts": op.TS, "node": op.Node, "known": op.Known, "seq": op.Seq} {
			want := reflect.New(reflect.TypeOf(got))
			if raw, ok := fields[name]; ok && json.Unmarshal(raw, want.Interface()) != nil {
				t.Fatalf("%s %s gave %v", name, raw, got)
			}
			// A field that is repeated with one null is read; the map has the last only.
			if string(fields[name]) != "null" && got != want.Elem().Interface() {
				t.Fatalf("%s %s gave %v", name, fields[name], got)
			}
		}
		// Order keys have no limit in JSON; Validate has one.
		if len(op.OrderKey) <= moveop.MaxOrderKeyBytes {
			checkCodecs(t, []moveop.Op{op})
		}
	})
}

// Oracle: what decodes survives both codecs unchanged. Errors wrap ErrInvalidOp; nothing panics.
func FuzzDecodeOps(f *testing.F) {
	f.Add([]byte{1, 0})
	f.Add(moveop.AppendOps(nil, []moveop.Op{move(), set("title", `"x"`), with(move(), func(op *moveop.Op) { op.TS, op.Cause = at.Correction(), at })}))
	f.Add(moveop.AppendOps(nil, siblings(rand.New(rand.NewPCG(1, 2)), 3)))
	f.Fuzz(func(t *testing.T, text []byte) {
		ops, err := moveop.DecodeOps(text)
		if err != nil {
			if !errors.Is(err, moveop.ErrInvalidOp) || ops != nil {
				t.Fatalf("got %v, and ops %+v", err, ops)
			}
			return
		}
		checkCodecs(t, ops)
	})
}

// Oracle: the canonical form means the same, is its own canonical form, and passes validation.
func FuzzCompactValue(f *testing.F) {
	f.Add([]byte(` { "b" : [ 1.50 , -0 ] , "<" : "\u003c" } `))
	f.Add([]byte(`"` + "\u2028" + `"`))
	f.Fuzz(func(t *testing.T, text []byte) {
		value, err := moveop.CompactValue(text)
		if err != nil {
			if !errors.Is(err, moveop.ErrInvalidOp) || json.Valid(text) && utf8.Valid(text) {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if !reflect.DeepEqual(parse(t, value), parse(t, text)) {
			t.Fatalf("%q became %q", text, value)
		}
		if again, err := moveop.CompactValue(value); err != nil || !bytes.Equal(again, value) {
			t.Fatalf("%q became %q, then %q, %v", text, value, again, err)
		}
		limits := moveop.Limits{ValueBytes: len(value), ValueDepth: len(value)}
		if err := moveop.ValidateValue(value, limits); err != nil {
			t.Fatalf("%q: %v", value, err)
		}
		if !bytes.Equal(value, text) && moveop.ValidateValue(text, moveop.DefaultLimits) == nil {
			t.Fatalf("%q passes, but its canonical form is %q", text, value)
		}
	})
}

func parse(t *testing.T, text []byte) (v any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return v
}

// classicKey is the order key's definition once more: an integer of any length, then a fraction.
func classicKey() *regexp.Regexp {
	integers := make([]string, 26)
	for i := range integers {
		integers[i] = fmt.Sprintf("[%c%c][0-9A-Za-z]{%d}", 'a'+i, 'Z'-i, i+1)
	}
	return regexp.MustCompile(`^(` + strings.Join(integers, "|") + `)([0-9A-Za-z]*[1-9A-Za-z])?$`)
}

// Oracle: a regular expression for the classic scheme.
func FuzzValidateOrderKey(f *testing.F) {
	for _, key := range []string{"", "a0", "a00", "Zz", "A00000000000000000000000000", "a0V", "a-", "bzz1"} {
		f.Add(key)
	}
	classic := classicKey()
	f.Fuzz(func(t *testing.T, key string) {
		want := len(key) <= 255 && classic.MatchString(key) && key != "A"+strings.Repeat("0", 26)
		err := moveop.ValidateOrderKey(key)
		if (err == nil) != want || err != nil && !errors.Is(err, moveop.ErrInvalidOp) {
			t.Errorf("%q: got %v, want valid %t", key, err, want)
		}
	})
}

// Oracle: keys are valid, ascend, and are bytewise between their neighbours; there is no room only
// where a neighbour is long or the two are in the wrong order.
func FuzzKeysBetween(f *testing.F) {
	f.Add("", "", uint8(1), uint64(0))
	f.Add("a0", "a1", uint8(3), uint64(1))
	f.Add("a0V", "a0V1", uint8(100), uint64(2))
	f.Add("", "A00000000000000000000000000001", uint8(1), uint64(3))
	f.Add("zzzzzzzzzzzzzzzzzzzzzzzzzzz", "zzzzzzzzzzzzzzzzzzzzzzzzzzz1", uint8(2), uint64(4))
	f.Fuzz(func(t *testing.T, a, b string, n uint8, seed uint64) {
		random := reader{rand.New(rand.NewPCG(seed, 0))}
		keys, err := moveop.KeysBetween(a, b, int(n), random)
		switch {
		case err == nil && len(keys) == int(n):
			checkBetween(t, a, b, keys...)
		case errors.Is(err, moveop.ErrInvalidOp):
			if (a == "" || moveop.ValidateOrderKey(a) == nil) && (b == "" || moveop.ValidateOrderKey(b) == nil) {
				t.Fatalf("%q and %q: %v", a, b, err)
			}
		case !errors.Is(err, moveop.ErrNoRoom):
			t.Fatalf("%d keys between %q and %q: %d keys, %v", n, a, b, len(keys), err)
		case (b == "" || a < b) && max(len(a), len(b)) < moveop.MaxOrderKeyBytes-64:
			t.Fatalf("%d keys between %q and %q: %v", n, a, b, err)
		}
	})
}
