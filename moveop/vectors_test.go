package moveop_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"testing"

	"github.com/canopysync/canopy/moveop"
)

// The files of testdata were made by another program than this one: they fix the formats for every
// implementation, in SQL and in other languages too.

type opVectors struct {
	Ops []struct {
		Name string          `json:"name"`
		Op   json.RawMessage `json:"op"`
		Log  string          `json:"log_hash"`
	} `json:"ops"`
	Binary     string `json:"binary"` // of all ops, in this order
	Placements []struct {
		Node     moveop.NodeID `json:"node"`
		Parent   moveop.NodeID `json:"parent"`
		OrderKey string        `json:"order_key"`
		Hash     string        `json:"hash"`
	} `json:"placements"`
	Values []struct {
		Node moveop.NodeID    `json:"node"`
		Key  string           `json:"key"`
		TS   moveop.Timestamp `json:"ts"`
		Hash string           `json:"hash"`
	} `json:"values"`
}

func TestVectors_ops(t *testing.T) {
	t.Parallel()
	var v opVectors
	readVectors(t, "ops.json", &v)
	ops := make([]moveop.Op, len(v.Ops))
	for i, o := range v.Ops {
		if err := json.Unmarshal(o.Op, &ops[i]); err != nil {
			t.Fatalf("%s: %v", o.Name, err)
		}
		if text := must(json.Marshal(ops[i])); !bytes.Equal(text, o.Op) {
			t.Errorf("%s: JSON\n got %s\nwant %s", o.Name, text, o.Op)
		}
		if hash := fmt.Sprintf("%016x", ops[i].LogHash()); hash != o.Log {
			t.Errorf("%s: log hash %s, want %s", o.Name, hash, o.Log)
		}
	}
	if text := hex.EncodeToString(moveop.AppendOps(nil, ops)); text != v.Binary {
		t.Errorf("binary\n got %s\nwant %s", text, v.Binary)
	}
	back, err := moveop.DecodeOps(must(hex.DecodeString(v.Binary)))
	if err != nil || !reflect.DeepEqual(back, ops) {
		t.Errorf("binary gave %+v, %v", back, err)
	}
}

func TestVectors_stateHashes(t *testing.T) {
	t.Parallel()
	var v opVectors
	readVectors(t, "ops.json", &v)
	for _, p := range v.Placements {
		if got := fmt.Sprintf("%016x", moveop.PlacementHash(p.Node, p.Parent, p.OrderKey)); got != p.Hash {
			t.Errorf("placement of %s: %s, want %s", p.Node, got, p.Hash)
		}
	}
	for _, w := range v.Values {
		if got := fmt.Sprintf("%016x", moveop.ValueHash(w.Node, w.Key, w.TS)); got != w.Hash {
			t.Errorf("value %q of %s: %s, want %s", w.Key, w.Node, got, w.Hash)
		}
	}
}

func TestVectors_orderKeys(t *testing.T) {
	t.Parallel()
	var v struct{ Valid, Invalid []string }
	readVectors(t, "order_keys.json", &v)
	for _, key := range v.Valid {
		if err := moveop.ValidateOrderKey(key); err != nil {
			t.Errorf("%q: %v", key, err)
		}
	}
	for _, key := range v.Invalid {
		if err := moveop.ValidateOrderKey(key); !errors.Is(err, moveop.ErrInvalidOp) {
			t.Errorf("%q: got %v, want ErrInvalidOp", key, err)
		}
	}
}

func TestDigest_json(t *testing.T) {
	t.Parallel()
	d := moveop.Digest{Ops: 3, Log: 0xab, State: 1<<64 - 1}
	text := must(json.Marshal(d))
	if want := `{"ops":3,"log":"00000000000000ab","state":"ffffffffffffffff"}`; string(text) != want {
		t.Errorf("got %s", text)
	}
	var back moveop.Digest
	if err := json.Unmarshal(text, &back); err != nil || back != d {
		t.Errorf("got %+v, %v", back, err)
	}
	for _, text := range []string{
		`{}`, `{"ops":1,"log":"ab","state":"0000000000000000"}`,
		`{"ops":1,"log":"0000000000000000","state":"00000000000000AB"}`,
		`{"ops":"1","log":"0000000000000000","state":"0000000000000000"}`,
	} {
		if err := json.Unmarshal([]byte(text), &back); err == nil || back != d {
			t.Errorf("%s gave %+v, %v", text, back, err)
		}
	}
}
