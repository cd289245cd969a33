package moveop_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/canopysync/canopy/moveop"
)

func TestNodeID_reserved(t *testing.T) {
	t.Parallel()
	for id, want := range map[moveop.NodeID]string{
		moveop.Root:  "00000000-0000-0000-0000-000000000001",
		moveop.Trash: "00000000-0000-0000-0000-000000000002",
	} {
		if id.String() != want || !id.IsReserved() {
			t.Errorf("%s: want %s, reserved", id, want)
		}
	}
	if (moveop.NodeID{}).IsReserved() {
		t.Error("the zero id is reserved; it may be any node's")
	}
}

func TestNewNodeID_isUUIDv7(t *testing.T) {
	t.Parallel()
	id, err := moveop.NewNodeID(0x0192d3a45b6c, bytes.NewReader(bytes.Repeat([]byte{0xff}, 10)))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := id.String(), "0192d3a4-5b6c-7fff-bfff-ffffffffffff"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if _, err := moveop.NewNodeID(0, strings.NewReader("short")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a short random source gave %v", err)
	}
}

func TestParse_acceptsOneSpellingOnly(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"", "00000000-0000-0000-0000-00000000000", "00000000-0000-0000-0000-0000000000011",
		"00000000-0000-0000-0000-00000000000A", "00000000-0000-0000-0000-00000000000g",
		"00000000000000000000000000000001", "{0000000-0000-0000-0000-000000000001}",
		"00000000_0000-0000-0000-000000000001", " 0000000-0000-0000-0000-000000000001",
		"00000000-0000-0000-0000--00000000001",
	} {
		if _, err := moveop.ParseNodeID(s); !errors.Is(err, moveop.ErrInvalidID) {
			t.Errorf("node %q: %v", s, err)
		}
		if _, err := moveop.ParseTimestamp(s); !errors.Is(err, moveop.ErrInvalidID) {
			t.Errorf("timestamp %q: %v", s, err)
		}
	}
	for _, s := range []string{
		"", "0000000000000000", "8000000000000000", "ffffffffffffffff", "000000000000000A",
		"1", "00000000000000001", "+000000000000001", "0x00000000000001", "0000_00000000001",
	} {
		if _, err := moveop.ParseReplicaID(s); !errors.Is(err, moveop.ErrInvalidID) {
			t.Errorf("replica %q: %v", s, err)
		}
	}
}

func TestIDs_textRoundTripKeepsTheOrder(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	for range 1000 {
		a, b := moveop.NodeID(randomID(r)), moveop.NodeID(randomID(r))
		if r.IntN(2) == 0 {
			copy(b[:], a[:1+r.IntN(15)])
		}
		if want := bytes.Compare(a[:], b[:]); a.Compare(b) != want || cmp.Compare(a.String(), b.String()) != want {
			t.Fatalf("%s and %s: order differs between bytes, Compare and text", a, b)
		}
		ta := moveop.Timestamp(a)
		if got := must(moveop.ParseNodeID(a.String())); got != a {
			t.Fatalf("node %s parsed as %s", a, got)
		}
		if got := must(moveop.ParseTimestamp(ta.String())); got != ta {
			t.Fatalf("timestamp %s parsed as %s", ta, got)
		}
	}
}

func TestReplicaID(t *testing.T) {
	t.Parallel()
	if got := must(moveop.ParseReplicaID("00a1b2c3d4e5f607")); got != alice || got.String() != "00a1b2c3d4e5f607" {
		t.Errorf("got %s", got)
	}
	// Zero with and without the top bit are drawn again; the top bit is cleared.
	source := bytes.NewReader([]byte{
		0, 0, 0, 0, 0, 0, 0, 0,
		0x80, 0, 0, 0, 0, 0, 0, 0,
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
	})
	if got := must(moveop.NewReplicaID(source)); got != bob {
		t.Errorf("got %s, want %s", got, bob)
	}
	broken := errors.New("broken")
	if _, err := moveop.NewReplicaID(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("a broken random source gave %v", err)
	}
}

func TestIDs_areMapKeysInJSON(t *testing.T) {
	t.Parallel()
	in := map[moveop.ReplicaID]moveop.NodeID{alice: moveop.Root}
	text := must(json.Marshal(in))
	if want := `{"00a1b2c3d4e5f607":"00000000-0000-0000-0000-000000000001"}`; string(text) != want {
		t.Fatalf("got %s", text)
	}
	var out map[moveop.ReplicaID]moveop.NodeID
	if err := json.Unmarshal(text, &out); err != nil || out[alice] != moveop.Root {
		t.Fatalf("got %v, %v", out, err)
	}
	if err := json.Unmarshal([]byte(`{"8000000000000000":null}`), &out); !errors.Is(err, moveop.ErrInvalidID) {
		t.Errorf("a correction's replica as a key gave %v", err)
	}
}
