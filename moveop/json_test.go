package moveop_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/canopysync/canopy/moveop"
)

const (
	moveJSON = `{"kind":"move","ts":"01934bcd-d180-0000-00a1-b2c3d4e5f607",` +
		`"node":"01000000-0000-0000-0000-000000000007","parent":"01000000-0000-0000-0000-000000000008",` +
		`"order_key":"a0","known":3}`
	setJSON = `{"kind":"set","ts":"01934bcd-d180-0000-00a1-b2c3d4e5f607",` +
		`"node":"01000000-0000-0000-0000-000000000007","key":"title","value":"x","known":0}`
)

func TestOpJSON_roundTrip(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	for range 2000 {
		op := randomOp(r)
		text := must(json.Marshal(op))
		var back moveop.Op
		if err := json.Unmarshal(text, &back); err != nil || !reflect.DeepEqual(back, op) {
			t.Fatalf("%s\ngave %+v, %v\nwant %+v", text, back, err, op)
		}
	}
}

func TestOpJSON_isStableThroughEncoders(t *testing.T) {
	t.Parallel()
	op := set("a<b", `"\u003c\u2028"`)
	direct := must(op.MarshalJSON())
	var buf bytes.Buffer
	plain := json.NewEncoder(&buf)
	plain.SetEscapeHTML(false)
	if err := plain.Encode(op); err != nil {
		t.Fatal(err)
	}
	if through := must(json.Marshal(op)); !bytes.Equal(direct, through) || buf.String() != string(direct)+"\n" {
		t.Errorf("three texts for one op:\n%s\n%s\n%s", direct, through, buf.Bytes())
	}
}

func TestOpJSON_marshalRefuses(t *testing.T) {
	t.Parallel()
	for name, op := range map[string]moveop.Op{
		"no kind":                       {},
		"a set without a value":         set("k", ``),
		"a value that would add fields": set("k", `1,"seq":7`),
	} {
		if text, err := json.Marshal(op); !errors.Is(err, moveop.ErrInvalidOp) {
			t.Errorf("%s: got %s, %v", name, text, err)
		}
	}
}

func TestOpJSON_reads(t *testing.T) {
	t.Parallel()
	replace := strings.NewReplacer
	tests := []struct {
		name, text string
		want       moveop.Op
	}{
		{"a move", moveJSON, move()},
		{"a set", setJSON, set("title", `"x"`)},
		{"null as a value", strings.Replace(setJSON, `"x"`, `null`, 1), set("title", `null`)},
		{
			"white space",
			replace(`,"`, " ,\n\t\"", `:`, ` : `, `{`, ` { `, `}`, "\r}\n").Replace(moveJSON), move(),
		},
		{"a value with white space", strings.Replace(setJSON, `"x"`, "{ \"<\" : [ ] }", 1), set("title", `{"\u003c":[]}`)},
		{"unknown fields", strings.Replace(moveJSON, `{`, `{"x":1,"x":"}","y":{"ts":[{"ts":"\\\""}]},"":null,`, 1), move()},
		{"names in another case are unknown", strings.Replace(moveJSON, `{`, `{"TS":1,"Node":2,"Kind":"set",`, 1), move()},
		{"an escaped name", strings.Replace(moveJSON, `"ts"`, `"\u0074s"`, 1), move()},
		{"escaped text", strings.Replace(setJSON, `"title"`, `"\u0074itle"`, 1), set("title", `"x"`)},
		{"an escaped pair", strings.Replace(setJSON, `"title"`, `"\\\ud83d\uDE00\ufffd"`, 1), set("\\\U0001F600\uFFFD", `"x"`)},
		{"halves where they stay text", strings.Replace(setJSON, `"x"`, `"\ud83d"`, 1), set("title", `"\ud83d"`)},
		{"an unknown name with a half", strings.Replace(moveJSON, `{`, `{"\ud83d":"\ude00",`, 1), move()},
		{"null is absence", strings.Replace(moveJSON, `{`, `{"seq":null,"cause":null,"ts":null,`, 1), move()},
		{"without known", strings.Replace(setJSON, `,"known":0`, ``, 1), set("title", `"x"`)},
		{"fields of the other kind", strings.Replace(moveJSON, `{`, `{"key":5,"value":[1],`, 1), move()},
		{
			"from the server",
			strings.Replace(moveJSON, `}`, `,"seq":9223372036854775807,"cause":"01934bcd-d180-0000-00a1-b2c3d4e5f607"}`, 1),
			with(move(), func(op *moveop.Op) { op.Seq, op.Cause = 1<<63-1, at }),
		},
		{"a number that ends the op", `{"known":3,` + strings.Replace(moveJSON[1:], `,"known":3`, ``, 1), move()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got moveop.Op
			if err := json.Unmarshal([]byte(tt.text), &got); err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("%s\ngave %+v, %v\nwant %+v", tt.text, got, err, tt.want)
			}
		})
	}
}

func TestOpJSON_refuses(t *testing.T) {
	t.Parallel()
	swap := func(text, from, to string) string { return strings.Replace(text, from, to, 1) }
	for name, text := range map[string]string{
		"null":                     `null`,
		"a number":                 `1`,
		"an array":                 `[` + moveJSON + `]`,
		"no fields":                `{}`,
		"no kind":                  swap(moveJSON, `"kind":"move",`, ``),
		"an unknown kind":          swap(moveJSON, `"move"`, `"Move"`),
		"a kind that is no string": swap(moveJSON, `"move"`, `1`),
		"no ts":                    swap(moveJSON, `"ts"`, `"TS"`),
		"a null ts":                swap(moveJSON, `"01934bcd-d180-0000-00a1-b2c3d4e5f607"`, `null`),
		"a ts in capitals":         swap(moveJSON, `01934bcd`, `01934BCD`),
		"no node":                  swap(moveJSON, `"node"`, `"n"`),
		"no parent":                swap(moveJSON, `"parent"`, `"p"`),
		"no order key":             swap(moveJSON, `"order_key"`, `"o"`),
		"an order key of null":     swap(moveJSON, `"a0"`, `null`),
		"no key":                   swap(setJSON, `"key"`, `"k"`),
		"no value":                 swap(setJSON, `"value"`, `"v"`),
		"a field twice":            swap(moveJSON, `{`, `{"node":"01000000-0000-0000-0000-000000000009",`),
		"a value twice":            swap(setJSON, `{`, `{"value":null,`),
		"known with a fraction":    swap(moveJSON, `3}`, `3.0}`),
		"known with an exponent":   swap(moveJSON, `3}`, `3e0}`),
		"known as text":            swap(moveJSON, `3}`, `"3"}`),
		"known past 2^63-1":        swap(moveJSON, `3}`, `9223372036854775808}`),
		"a negative known":         swap(moveJSON, `3}`, `-1}`),
		"a negative seq":           swap(moveJSON, `3}`, `3,"seq":-1}`),
		"a cause that is none":     swap(moveJSON, `3}`, `3,"cause":"x"}`),
		"a key that is no UTF-8":   swap(setJSON, `title`, "\xff"),
		"a key with a high half":   swap(setJSON, `title`, `a\uD83D`),
		"a key with a low half":    swap(setJSON, `title`, `\ude00b`),
		"halves the wrong way":     swap(setJSON, `title`, `\ude00\ud83d`),
		"a half before an escape":  swap(setJSON, `title`, `\ud83d\u0061`),
	} {
		op := move()
		if err := json.Unmarshal([]byte(text), &op); !errors.Is(err, moveop.ErrInvalidOp) {
			t.Errorf("%s: got %v, want ErrInvalidOp", name, err)
		}
		if !reflect.DeepEqual(op, move()) {
			t.Errorf("%s: an error changed the op", name)
		}
		batch := struct{ Ops []moveop.Op }{}
		if err := json.Unmarshal([]byte(`{"ops":[`+text+`]}`), &batch); !errors.Is(err, moveop.ErrInvalidOp) {
			t.Errorf("%s, in a batch: got %v, want ErrInvalidOp", name, err)
		}
	}
}

// Callers that come without encoding/json have had nothing checked.
func TestOpJSON_directCallsAreSafe(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", " ", "{", `{"`, `{"ts"`, `{"ts":`, `{"ts":1`, `{"ts":1,`, `{"ts":1,}`, `{}}`, `{"a":1}x`, "{\"\xff\":1}"} {
		if err := new(moveop.Op).UnmarshalJSON([]byte(text)); !errors.Is(err, moveop.ErrInvalidOp) {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

func TestOpJSON_namesTheWrongID(t *testing.T) {
	t.Parallel()
	err := json.Unmarshal([]byte(strings.Replace(moveJSON, `"01000000-0000-0000-0000-000000000008"`, `"root"`, 1)), &moveop.Op{})
	if !errors.Is(err, moveop.ErrInvalidOp) || !errors.Is(err, moveop.ErrInvalidID) {
		t.Errorf("got %v, want both ErrInvalidOp and ErrInvalidID", err)
	}
}
