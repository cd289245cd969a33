package moveop_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/canopysync/canopy/moveop"
)

func benchOps() []moveop.Op {
	r := rand.New(rand.NewPCG(1, 2))
	ops := siblings(r, 500)
	for _, op := range ops {
		title := set("title", `"A line of an outline, as long as they are"`)
		title.TS, title.Node, title.Known, title.Seq = op.TS, op.Node, op.Known, op.Seq+500
		ops = append(ops, title)
	}
	return ops
}

func reportPerOp(b *testing.B, ops, bytes int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(ops), "ns/op-item")
	b.ReportMetric(float64(bytes)/float64(ops), "bytes/op-item")
}

func BenchmarkEncode(b *testing.B) {
	ops := benchOps()
	b.Run("form=binary", func(b *testing.B) {
		b.ReportAllocs()
		var out []byte
		for b.Loop() {
			out = moveop.AppendOps(out[:0], ops)
		}
		reportPerOp(b, len(ops), len(out))
	})
	b.Run("form=json", func(b *testing.B) {
		b.ReportAllocs()
		var out []byte
		for b.Loop() {
			out = must(json.Marshal(ops))
		}
		reportPerOp(b, len(ops), len(out))
	})
}

func BenchmarkDecode(b *testing.B) {
	ops := benchOps()
	binary, text := moveop.AppendOps(nil, ops), must(json.Marshal(ops))
	b.Run("form=binary", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if got := must(moveop.DecodeOps(binary)); len(got) != len(ops) {
				b.Fatal("ops are missing")
			}
		}
		reportPerOp(b, len(ops), len(binary))
	})
	b.Run("form=json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var got []moveop.Op
			if err := json.Unmarshal(text, &got); err != nil || len(got) != len(ops) {
				b.Fatal("ops are missing", err)
			}
		}
		reportPerOp(b, len(ops), len(text))
	})
}

func BenchmarkValidate(b *testing.B) {
	for _, op := range []moveop.Op{move(), set("title", `"A line of an outline, as long as they are"`)} {
		b.Run("kind="+op.Kind.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := op.Validate(moveop.DefaultLimits); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkLogHash(b *testing.B) {
	for _, op := range []moveop.Op{move(), set("title", `"A line of an outline, as long as they are"`)} {
		b.Run("kind="+op.Kind.String(), func(b *testing.B) {
			b.ReportAllocs()
			sum := uint64(0)
			for b.Loop() {
				sum |= op.LogHash()
			}
			if sum == 0 {
				b.Fatal("no hash")
			}
		})
	}
}

func BenchmarkKeysBetween(b *testing.B) {
	r := reader{rand.New(rand.NewPCG(1, 2))}
	for _, ends := range [][2]string{{"cgrs", ""}, {"bK3dfgd", "bK3dfgdcaas"}} {
		for _, n := range []int{1, 1000} {
			b.Run(fmt.Sprintf("between=%s-%s/n=%d", ends[0], ends[1], n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if keys := must(moveop.KeysBetween(ends[0], ends[1], n, r)); len(keys) != n {
						b.Fatal("keys are missing")
					}
				}
			})
		}
	}
}

func BenchmarkClockNext(b *testing.B) {
	c := moveop.NewClock(alice, moveop.Timestamp{}, time.Now)
	before := c.Last()
	for b.Loop() {
		ts, err := c.Next()
		if err != nil || !before.Before(ts) {
			b.Fatal(ts, err)
		}
		before = ts
	}
}
