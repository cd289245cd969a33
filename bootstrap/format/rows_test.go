package format_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/bootstrap/format/formattest"
	"github.com/canopysync/canopy/moveop"
)

// mixed has a column of each type.
var mixed = format.Section{Tag: 7, Table: "mixed", Columns: []format.Column{
	{Name: "id", Type: "uuid"}, {Name: "n", Type: "int8"}, {Name: "small", Type: "int2"},
	{Name: "flag", Type: "bool"}, {Name: "name", Type: "text"},
}}

func copyData(rows ...[]any) []byte {
	b := formattest.AppendCopyHeader(nil)
	for _, row := range rows {
		b = formattest.AppendCopyRow(b, row...)
	}
	return formattest.AppendCopyTrailer(b)
}

func TestRowsGetters(t *testing.T) {
	t.Parallel()
	data := copyData(
		[]any{moveop.Root, int64(-5), int16(-2), true, "häuser"},
		[]any{nil, nil, nil, nil, nil},
		[]any{moveop.Trash, int64(1) << 62, int16(7), false, ""},
	)
	r := format.NewRows(iotest.OneByteReader(bytes.NewReader(data)), mixed)
	if !r.Next() {
		t.Fatal(r.Err())
	}
	if r.UUID(0) != moveop.Root || r.Int64(1) != -5 || r.Int16(2) != -2 || !r.Bool(3) || string(r.Bytes(4)) != "häuser" {
		t.Errorf("row 1: %v %d %d %v %q", r.UUID(0), r.Int64(1), r.Int16(2), r.Bool(3), r.Bytes(4))
	}
	if !r.Next() {
		t.Fatal(r.Err())
	}
	for i := range mixed.Columns {
		if !r.IsNull(i) || r.Bytes(i) != nil {
			t.Errorf("row 2, column %d is not null", i)
		}
	}
	if r.UUID(0) != [16]byte{} || r.Int64(1) != 0 || r.Int16(2) != 0 || r.Bool(3) {
		t.Error("row 2: null is not the zero value")
	}
	if !r.Next() {
		t.Fatal(r.Err())
	}
	if r.IsNull(4) || len(r.Bytes(4)) != 0 || r.Int64(1) != 1<<62 || r.Bool(3) {
		t.Error("row 3: an empty text is not null")
	}
	if r.Next() || r.Err() != nil || r.Count() != 3 {
		t.Errorf("after the last row: %v, count %d", r.Err(), r.Count())
	}
}

func TestRowsRefuse(t *testing.T) {
	t.Parallel()
	good := []any{moveop.Root, int64(1), int16(1), true, "x"}
	with := func(i int, v any) []byte {
		row := append([]any(nil), good...)
		row[i] = v
		return copyData(row)
	}
	word := func(b []byte, at int, v uint32) []byte {
		b = bytes.Clone(b)
		binary.BigEndian.PutUint32(b[at:], v)
		return b
	}
	whole := copyData(good)
	tests := []struct {
		name string
		in   []byte
		want error
	}{
		{"empty", nil, format.ErrTruncated},
		{"signature", append([]byte("PGCOPX"), whole[6:]...), format.ErrCorrupt},
		{"flag for oids", word(whole, 11, 1<<16), format.ErrCorrupt},
		{"extension too long", word(whole, 15, 1<<30), format.ErrCorrupt},
		{"field too few", copyData(good[:4]), format.ErrCorrupt},
		{"field too many", copyData(append(append([]any(nil), good...), "y")), format.ErrCorrupt},
		{"negative length", word(whole, 21, 0xfffffffe), format.ErrCorrupt},
		{"short uuid", with(0, "123456789012345"), format.ErrCorrupt},
		{"long int8", with(1, "123456789"), format.ErrCorrupt},
		{"long int2", with(2, int64(1)), format.ErrCorrupt},
		{"bool of two", with(3, "\x02"), format.ErrCorrupt},
		{"empty bool", with(3, ""), format.ErrCorrupt},
		{"endless text", with(4, make([]byte, format.MaxTuple)), format.ErrCorrupt},
		{"claimed text", word(whole, len(whole)-7, 1<<30), format.ErrCorrupt},
		{"text longer than the data", word(whole, len(whole)-7, 1000), format.ErrTruncated},
		{"no COPY trailer", whole[:len(whole)-2], format.ErrTruncated},
		{"data behind the COPY trailer", append(bytes.Clone(whole), 0), format.ErrCorrupt},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, src := range []io.Reader{bytes.NewReader(tt.in), iotest.OneByteReader(bytes.NewReader(tt.in))} {
				r := format.NewRows(src, mixed)
				for r.Next() {
				}
				if !errors.Is(r.Err(), tt.want) {
					t.Errorf("error %v, want %v", r.Err(), tt.want)
				}
			}
		})
	}
}

func TestRowsSkipExtensionAndIgnorableFlags(t *testing.T) {
	t.Parallel()
	b := copyData([]any{moveop.Root, int64(1), int16(1), true, "x"})
	b[14] |= 1 // the low 16 flags are for readers to ignore
	b = append(append(append([]byte(nil), b[:15]...), 0, 0, 0, 3, 'e', 'x', 't'), b[19:]...)
	r := format.NewRows(bytes.NewReader(b), mixed)
	if !r.Next() || r.Int64(1) != 1 || r.Next() || r.Err() != nil {
		t.Errorf("error %v", r.Err())
	}
}

// TestRowsLongRow: a row longer than the buffer is moved and grown while it is read.
func TestRowsLongRow(t *testing.T) {
	t.Parallel()
	long := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
	short := []any{moveop.Root, int64(1), int16(1), true, "x"}
	data := copyData(short, []any{moveop.Trash, int64(2), int16(2), false, long}, short)
	r := format.NewRows(iotest.HalfReader(bytes.NewReader(data)), mixed)
	for i := range 3 {
		if !r.Next() {
			t.Fatal(r.Err())
		}
		if i == 1 && (r.UUID(0) != moveop.Trash || !bytes.Equal(r.Bytes(4), long)) {
			t.Error("the long row was not read right")
		}
		if i != 1 && (r.UUID(0) != moveop.Root || string(r.Bytes(4)) != "x") {
			t.Errorf("row %d was not read right", i)
		}
	}
	if r.Next() || r.Err() != nil {
		t.Error(r.Err())
	}
}

func TestTypedRowsRefuse(t *testing.T) {
	t.Parallel()
	sections := format.Sections(0, 0, 0)
	ts := moveop.NewTimestamp(1, 0, 1)
	op := func(kind int16) []any {
		return []any{int64(1), ts, kind, moveop.Root, moveop.Root, "a0", "k", "1", int64(0), nil, true}
	}
	null := func(row []any, i int) []any {
		row[i] = nil
		return row
	}
	tests := []struct {
		name    string
		section format.Section
		row     []any
	}{
		{"node without parent", sections[0], []any{moveop.Root, nil, "a0", ts, int64(1), int64(0), nil}},
		{"node without order key", sections[0], []any{moveop.Root, moveop.Root, nil, ts, int64(1), int64(0), nil}},
		{"value without value", sections[1], []any{moveop.Root, "k", nil, ts, int64(1), int64(0)}},
		{"op of unknown kind", sections[2], op(3)},
		{"op of a kind that would wrap", sections[2], op(257)},
		{"move without parent", sections[2], null(op(1), 4)},
		{"move without effective", sections[2], null(op(1), 10)},
		{"set without key", sections[2], null(op(2), 6)},
		{"set without value", sections[2], null(op(2), 7)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			rows := format.NewRows(bytes.NewReader(copyData(tt.row)), tt.section)
			if err := new(contents).section(rows); !errors.Is(err, format.ErrCorrupt) {
				t.Errorf("error %v", err)
			}
		})
	}
	rows := format.NewRows(bytes.NewReader(copyData()), sections[0])
	if rows.NextValue(new(format.ValueRow)) || !errors.Is(rows.Err(), format.ErrOtherSection) {
		t.Errorf("nodes read as values: %v", rows.Err())
	}
}

func TestRowsDoNotAllocate(t *testing.T) {
	const n = 10_000
	data := nodeRows(n)
	var node format.NodeRow
	allocs := testing.AllocsPerRun(5, func() {
		rows := format.NewRows(bytes.NewReader(data), format.Sections(0, 0, 0)[0])
		for rows.NextNode(&node) {
		}
		if rows.Count() != n {
			t.Fatalf("%d rows: %v", rows.Count(), rows.Err())
		}
	})
	if allocs > 50 {
		t.Errorf("%v allocations for %d rows", allocs, n)
	}
}

// nodeRows is the COPY data of n nodes.
func nodeRows(n int) []byte {
	b := formattest.AppendCopyHeader(nil)
	for i := range n {
		var id moveop.NodeID
		binary.BigEndian.PutUint64(id[8:], uint64(i)+10)
		ts := moveop.NewTimestamp(1_700_000_000_000+int64(i), 0, 0x1234)
		b = formattest.AppendCopyRow(b, id, moveop.Root, "a0V3", ts, int64(i), int64(0), nil)
	}
	return formattest.AppendCopyTrailer(b)
}
