package format

import (
	"bytes"
	"fmt"
	"io"

	"github.com/canopysync/canopy/moveop"
)

// Summary describes a snapshot that Verify has read.
type Summary struct {
	Header   Header           `json:"header"`
	Trailer  Trailer          `json:"trailer"`
	Sections []SectionSummary `json:"sections"`
	Bytes    int64            `json:"bytes"` // of the whole stream
}

// SectionSummary is the size of one section. Bytes counts its part of the stream, including tag and chunk
// lengths; it is 0 for a section that this version does not know.
type SectionSummary struct {
	Tag   int    `json:"tag"`
	Table string `json:"table"`
	Rows  int64  `json:"rows"`
	Bytes int64  `json:"bytes"`
}

// Verify reads a whole snapshot and checks more than Reader does: rows ascend strictly by primary key,
// every seq is in 1..Header.Seq, and the rows, with Header.Folded, add up to the digest in the header. On an
// error, the summary covers the part read until then.
func Verify(src io.Reader) (Summary, error) {
	r, err := NewReader(src)
	if err != nil {
		return Summary{}, err
	}
	v := verifier{header: r.Header()}
	sum := Summary{Header: r.Header()}
	for {
		from := r.Offset()
		rows, err := r.Next()
		if err == io.EOF {
			sum.Trailer = r.Trailer()
			sum.countRest()
			sum.Bytes = r.Offset()
			return sum, v.digest()
		}
		if err != nil {
			sum.Bytes = r.Offset()
			return sum, err
		}
		if err := v.section(rows); err != nil {
			sum.Bytes = r.Offset()
			return sum, fmt.Errorf("verify section %s: %w", rows.Section().Table, err)
		}
		s := rows.Section()
		sum.Sections = append(sum.Sections, SectionSummary{s.Tag, s.Table, rows.Count(), r.Offset() - from})
	}
}

// countRest adds the skipped sections.
func (s *Summary) countRest() {
	for _, h := range s.Header.Sections[len(s.Sections):] {
		s.Sections = append(s.Sections, SectionSummary{Tag: h.Tag, Table: h.Table, Rows: s.Trailer.Rows[h.Table]})
	}
}

// verifier accumulates the digest as rows are read.
type verifier struct {
	header Header
	got    moveop.Digest
}

func (v *verifier) section(rows *Rows) error {
	var err error
	switch rows.Section().Tag {
	case TagNodes:
		err = v.nodes(rows)
	case TagValues:
		err = v.values(rows)
	case TagOps:
		err = v.ops(rows)
	}
	if err == nil {
		err = rows.Err()
	}
	return err
}

func (v *verifier) nodes(rows *Rows) error {
	var row NodeRow
	var last moveop.NodeID
	for first := true; rows.NextNode(&row); first = false {
		if !first && last.Compare(row.Node) >= 0 {
			return rows.corrupt("node %s does not ascend", row.Node)
		}
		last = row.Node
		op := row.Op()
		if err := v.add(rows, op); err != nil {
			return err
		}
		v.got.State ^= moveop.PlacementHash(op.Node, op.Parent, op.OrderKey)
	}
	return nil
}

func (v *verifier) values(rows *Rows) error {
	var row ValueRow
	var last []byte
	for rows.NextValue(&row) {
		key := append(row.Node[:], row.Key...)
		if last != nil && bytes.Compare(last, key) >= 0 {
			return rows.corrupt("(%s, %q) does not ascend", row.Node, row.Key)
		}
		last = append(last[:0], key...)
		op := row.Op()
		if err := v.add(rows, op); err != nil {
			return err
		}
		v.got.State ^= moveop.ValueHash(op.Node, op.Key, op.TS)
	}
	return nil
}

func (v *verifier) ops(rows *Rows) error {
	var row OpRow
	var last moveop.Timestamp
	for rows.NextOp(&row) {
		if !last.Before(row.TS) {
			return rows.corrupt("timestamp %s does not ascend", row.TS)
		}
		last = row.TS
		if err := v.add(rows, row.Op()); err != nil {
			return err
		}
	}
	return nil
}

func (v *verifier) add(rows *Rows, op moveop.Op) error {
	if op.Seq < 1 || op.Seq > v.header.Seq {
		return rows.corrupt("seq %d is outside 1..%d", op.Seq, v.header.Seq)
	}
	v.got.Ops++
	v.got.Log ^= op.LogHash()
	return nil
}

func (v *verifier) digest() error {
	got, want := v.header.Whole(v.got), v.header.Digest
	if got.State != want.State {
		return fmt.Errorf("verify digest: %w: the state adds up to %016x, the header has %016x", ErrCorrupt, got.State, want.State)
	}
	if got != want {
		return fmt.Errorf("verify digest: %w: %d ops add up to %016x, the header has %d and %016x",
			ErrCorrupt, got.Ops, got.Log, want.Ops, want.Log)
	}
	return nil
}
