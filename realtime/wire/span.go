package wire

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/canopysync/canopy/moveop"
)

// Span is all timestamps that begin with some lower-case hexadecimal digits, an even number of them: the
// whole log, 2^40 ms, … 2^8 ms, 1 ms, one reading of the clock by any replica. Spans of ever more digits are
// the log's Merkle tree, in which two replicas find what one of them lacks in O(log n) questions.
type Span string

// MaxSpan is the most digits of a Span: those of milliseconds and counter.
const MaxSpan = 16

// ParseSpan checks a span's digits. The error is an *Error with CodeBadRequest.
func ParseSpan(text string) (Span, error) {
	if len(text) > MaxSpan || len(text)%2 != 0 || strings.Trim(text, "0123456789abcdef") != "" {
		return "", NewError(CodeBadRequest,
			"%.40q is not an even number of lower-case hexadecimal digits, at most %d", text, MaxSpan)
	}
	return Span(text), nil
}

// First and Last are the smallest and the greatest timestamp of the span. No operation has the first: its
// replica is 0.
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

// SpanOf returns the span of so many digits, an even number, that a timestamp is in.
func SpanOf(ts moveop.Timestamp, digits int) Span { return Span(hex.EncodeToString(ts[:digits/2])) }

// Contains reports whether a timestamp is in the span.
func (s Span) Contains(ts moveop.Timestamp) bool { return SpanOf(ts, len(s)) == s }

// Tally is operations added up by span, all of one length.
type Tally map[Span]*Count

// Count is how many operations a span has, and the XOR of their hashes.
type Count struct {
	Ops int64
	Log uint64
}

// Add counts more operations in.
func (t Tally) Add(s Span, c Count) {
	sum := t[s]
	if sum == nil {
		sum = new(Count)
		t[s] = sum
	}
	sum.Ops, sum.Log = sum.Ops+c.Ops, sum.Log^c.Log
}

// Buckets returns the spans that have operations, by time.
func (t Tally) Buckets() []Bucket {
	buckets := make([]Bucket, 0, len(t))
	for _, s := range slices.Sorted(maps.Keys(t)) {
		if t[s].Ops > 0 {
			buckets = append(buckets, Bucket{s, t[s].Ops, fmt.Sprintf("%016x", t[s].Log)})
		}
	}
	return buckets
}

// Bucket is what the log has in a span.
type Bucket struct {
	Span Span   `json:"prefix"`
	Ops  int64  `json:"ops"`
	Log  string `json:"log"` // the XOR of their hashes, as in a digest
}

// Buckets is the answer to GET …/buckets: the parts of a span, each two digits longer, that are not empty,
// by time. Operations after Seq may be missing from it. Where history was compacted, only spans that begin
// behind Horizon have all of theirs.
type Buckets struct {
	Epoch   string           `json:"epoch"`
	Seq     int64            `json:"seq"`
	Horizon moveop.Timestamp `json:"horizon"`
	Buckets []Bucket         `json:"buckets"`
}
