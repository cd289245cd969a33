package wire_test

import (
	"fmt"
	"testing"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// A push of 50 values whose members' names are of the message's kind, or not.
func BenchmarkDecodeJSON(b *testing.B) {
	for _, name := range []string{"due_date", "dueDate"} {
		b.Run("name="+name, func(b *testing.B) {
			push := wire.Push{ID: "7"}
			for i := range 50 {
				op := set
				op.TS = moveop.NewTimestamp(set.TS.Millis()+int64(i), 0, set.TS.Replica())
				op.Value = fmt.Appendf(nil, `{%q:"2026-01-%02dT10:00:00Z","colour":"Red","tags":["a","B"]}`, name, i%28+1)
				push.Ops = append(push.Ops, op)
			}
			frame, err := wire.JSON.Encode(push)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(frame)))
			b.ReportAllocs()
			for b.Loop() {
				if msg, err := wire.JSON.Decode(frame); err != nil || len(msg.(wire.Push).Ops) != 50 {
					b.Fatal(err)
				}
			}
		})
	}
}
