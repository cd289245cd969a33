package moveop_test

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/canopysync/canopy/moveop"
)

const (
	alice moveop.ReplicaID = 0x00a1b2c3d4e5f607
	bob   moveop.ReplicaID = 0x7fffffffffffffff
)

// newRand returns a random source whose seed is printed where the test fails, and can be given in
// CANOPY_SEED to repeat it.
func newRand(t testing.TB) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("CANOPY_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("CANOPY_SEED: %v", err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("CANOPY_SEED=%d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 0))
}

// reader makes a random source an io.Reader.
type reader struct{ *rand.Rand }

func (r reader) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return len(p), nil
}

func randomID(r *rand.Rand) (id [16]byte) {
	_, _ = reader{r}.Read(id[:])
	return id
}

// randomOp returns any op that a log can hold, with the occasional extreme.
func randomOp(r *rand.Rand) moveop.Op {
	op := moveop.Op{TS: randomID(r), Node: randomID(r)}
	if r.IntN(2) == 0 { // neighbours that are alike
		op.TS = moveop.NewTimestamp(r.Int64N(3), uint16(r.IntN(3)), alice)
		op.Node = moveop.NodeID{15: byte(r.IntN(4))}
	}
	op.Known, op.Seq = r.Int64N(5), r.Int64N(5)
	if r.IntN(4) == 0 {
		op.Known, op.Seq = r.Int64(), r.Int64()
	}
	if r.IntN(8) == 0 {
		op.Cause = randomID(r)
	}
	if r.IntN(2) == 0 {
		op.Kind, op.Parent = moveop.Move, moveop.NodeID{15: byte(r.IntN(4))}
		op.OrderKey = randomOrderKey(r)
		return op
	}
	op.Kind = moveop.Set
	op.Key = []string{"title", "done", "", "\"\\<&\u2028", "ключ"}[r.IntN(5)]
	op.Value = []json.RawMessage{
		json.RawMessage(`null`), json.RawMessage(`"x"`), json.RawMessage(`-1.50e3`),
		json.RawMessage(`{"b":[1,2,{}],"a":"\u003c\\"}`), json.RawMessage(`[]`),
	}[r.IntN(5)]
	return op
}

// readVectors decodes a file of testdata.
func readVectors(t testing.TB, name string, into any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
