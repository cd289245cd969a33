package wire

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/canopysync/canopy/moveop"
)

// Span is a prefix of timestamps, an even number of lower-case hexadecimal digits, and stands for all
// timestamps with that prefix: the whole log, 2^40 ms, … 2^8 ms, 1 ms, one clock reading of any replica.
// Spans of increasing length are the log's Merkle tree, in which two replicas find the operations that one
// of them lacks in O(log n) requests.
type Span string

// MaxSpan is the maximum number of digits of a Span: those of milliseconds and counter.
const MaxSpan = 16

// ParseSpan checks a span's digits. The error is an *Error with CodeBadRequest.
func ParseSpan(text string) (Span, error) {
	if len(text) > MaxSpan || len(text)%2 != 0 || strings.Trim(text, "0123456789abcdef") != "" {
		return "", NewError(CodeBadRequest,
			"%.40q is not an even number of lower-case hexadecimal digits, at most %d", text, MaxSpan)
	}
	return Span(text), nil
}

// First and Last return the smallest and the greatest timestamp of the span. No operation has the first:
// its replica is 0.
func (s Span) First() moveop.Timestamp { return s.fill("0") }
func (s Span) Last() moveop.Timestamp  { return s.fill("f") }

func (s Span) fill(digit string) moveop.Timestamp {
	d := string(s) + strings.Repeat(digit, 32-len(s))
	ts, err := moveop.ParseTimestamp(d[:8] + "-" + d[8:12] + "-" + d[12:16] + "-" + d[16:20] + "-" + d[20:])
	if err != nil {
		panic(err) // not a span
	}
	return ts
}

// SpanOf returns the span that contains a timestamp and has the given number of digits, which must be even.
func SpanOf(ts moveop.Timestamp, digits int) Span { return Span(hex.EncodeToString(ts[:digits/2])) }

// Contains reports whether a timestamp is in the span.
func (s Span) Contains(ts moveop.Timestamp) bool { return SpanOf(ts, len(s)) == s }

// Tally sums up operations by span. All spans of a Tally have the same length.
type Tally map[Span]*Count

// Count is the number of operations in a span and the XOR of their hashes.
type Count struct {
	Ops int64
	Log uint64
}

// Add adds the operations of c to the span.
func (t Tally) Add(s Span, c Count) {
	sum := t[s]
	if sum == nil {
		sum = new(Count)
		t[s] = sum
	}
	sum.Ops, sum.Log = sum.Ops+c.Ops, sum.Log^c.Log
}

// Buckets returns the spans that have operations, in order of time.
func (t Tally) Buckets() []Bucket {
	buckets := make([]Bucket, 0, len(t))
	for _, s := range slices.Sorted(maps.Keys(t)) {
		if t[s].Ops > 0 {
			buckets = append(buckets, Bucket{s, t[s].Ops, fmt.Sprintf("%016x", t[s].Log)})
		}
	}
	return buckets
}

// Bucket summarises the operations that the log has in a span.
type Bucket struct {
	Span Span   `json:"prefix"`
	Ops  int64  `json:"ops"`
	Log  string `json:"log"` // the XOR of their hashes, as in a digest
}

// Buckets is the response to GET …/buckets: the non-empty parts of a span, each two digits longer, in order
// of time. Operations after Seq may be missing. If history was compacted, only spans that begin after
// Horizon are complete.
type Buckets struct {
	Epoch   string           `json:"epoch"`
	Seq     int64            `json:"seq"`
	Horizon moveop.Timestamp `json:"horizon"`
	Buckets []Bucket         `json:"buckets"`
}
