package moveop_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/canopysync/canopy/moveop"
)

func TestBinary_roundTrip(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	for range 500 {
		ops := make([]moveop.Op, r.IntN(20))
		for i := range ops {
			ops[i] = randomOp(r)
		}
		text := moveop.AppendOps([]byte("before"), ops)
		back, err := moveop.DecodeOps(text[len("before"):])
		if err != nil || !slices.EqualFunc(back, ops, func(a, b moveop.Op) bool { return reflect.DeepEqual(a, b) }) {
			t.Fatalf("%x\ngave %+v, %v\nwant %+v", text, back, err, ops)
		}
	}
}

// Bulk creates are what the form is made for.
func TestBinary_isCompact(t *testing.T) {
	t.Parallel()
	ops := siblings(newRand(t), 1000)
	if n := len(moveop.AppendOps(nil, ops)) / len(ops); n > 26 {
		t.Errorf("%d bytes an op, want at most 26", n)
	}
}

// siblings returns a run of n creates by one replica under one parent.
func siblings(r *rand.Rand, n int) []moveop.Op {
	keys := must(moveop.KeysBetween("", "", n, reader{r}))
	ops := make([]moveop.Op, n)
	for i := range ops {
		ops[i] = moveop.Op{
			Kind: moveop.Move, TS: moveop.NewTimestamp(1732143600000, uint16(i), alice), Node: randomID(r),
			Parent: moveop.Root, OrderKey: keys[i], Known: 7, Seq: int64(8 + i),
		}
	}
	return ops
}

// Every prefix of a valid text is refused, and so is anything behind it.
func TestBinary_cutAnywhere(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	ops := []moveop.Op{randomOp(r), randomOp(r), randomOp(r), move(), set("k", `1`)}
	text := moveop.AppendOps(nil, ops)
	for n := range text {
		if _, err := moveop.DecodeOps(text[:n]); !errors.Is(err, moveop.ErrInvalidOp) {
			t.Fatalf("cut at %d of %d: %v", n, len(text), err)
		}
	}
	if _, err := moveop.DecodeOps(append(text, 0)); !errors.Is(err, moveop.ErrInvalidOp) {
		t.Errorf("a byte behind the end: %v", err)
	}
}

func TestBinary_refuses(t *testing.T) {
	t.Parallel()
	encode := func(ops ...moveop.Op) []byte { return moveop.AppendOps(nil, ops) }
	flags := func(f byte) []byte { b := encode(move()); b[2] = f; return b }
	long := func(n int) moveop.Op {
		return with(move(), func(op *moveop.Op) { op.OrderKey = "a0" + strings.Repeat("1", n-2) })
	}
	for name, text := range map[string][]byte{
		"nothing":                       nil,
		"another version":               {2, 0},
		"a count without ops":           {1, 1},
		"a huge count":                  append([]byte{1}, binary.AppendUvarint(nil, 1<<62)...),
		"a count of too many bytes":     append([]byte{1}, bytes.Repeat([]byte{0xff}, 10)...),
		"no kind":                       encode(with(move(), func(op *moveop.Op) { op.Kind = 0 })),
		"another kind":                  encode(with(move(), func(op *moveop.Op) { op.Kind = 5 })),
		"kind 3":                        flags(3),
		"an unknown flag":               flags(0x81),
		"two parents":                   flags(0x61),
		"a set under a node":            flags(0x42),
		"an order key past the cap":     encode(long(256)),
		"shared order key past the cap": encode(long(255), with(long(255), func(op *moveop.Op) { op.OrderKey += "1" })),
		"an order key that is no UTF-8": encode(with(move(), func(op *moveop.Op) { op.OrderKey = "a\xff" })),
		"a key that is no UTF-8":        encode(set("\xff", `1`)),
		"a set without a value":         encode(set("k", ``)),
		"a value that is no JSON":       encode(set("k", `{`)),
		"a negative known":              encode(with(move(), func(op *moveop.Op) { op.Known = -1 })),
		"a negative seq":                encode(with(move(), func(op *moveop.Op) { op.Seq = -1 })),
		"millis before 1970":            must(hex.DecodeString("0101" + "0d0100" + "0000" + "0000" + "00000000")),
		"a counter past 16 bits":        must(hex.DecodeString("0101" + "2d00808004" + "0000" + "0000")),
		"more shared than there is":     must(hex.DecodeString("0101" + "2d0000" + "0000" + "0100")),
	} {
		if ops, err := moveop.DecodeOps(text); !errors.Is(err, moveop.ErrInvalidOp) {
			t.Errorf("%s: got %+v, %v, want ErrInvalidOp", name, ops, err)
		}
	}
}

// A frame buffer is used again for the next message.
func TestBinary_doesNotKeepTheInput(t *testing.T) {
	t.Parallel()
	want := []moveop.Op{move(), set("title", `"text"`)}
	text := moveop.AppendOps(nil, want)
	got := must(moveop.DecodeOps(text))
	clear(text)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the ops changed with the buffer: %+v", got)
	}
}

func TestBinary_compactsValues(t *testing.T) {
	t.Parallel()
	got := must(moveop.DecodeOps(moveop.AppendOps(nil, []moveop.Op{set("k", ` [ "<" ] `)})))
	if want := `["\u003c"]`; string(got[0].Value) != want {
		t.Errorf("got %s, want %s", got[0].Value, want)
	}
}
