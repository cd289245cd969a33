package format_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/bootstrap/format/formattest"
	"github.com/canopysync/canopy/moveop"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// contents is all that a snapshot holds, as plain ops.
type contents struct {
	header           format.Header
	nodes, sets, ops []moveop.Op
	effective        []bool
	trailer          format.Trailer
}

// load reads a snapshot as a client does: nothing counts before io.EOF.
func load(src io.Reader) (c contents, err error) {
	r, err := format.NewReader(src)
	if err != nil {
		return c, err
	}
	c.header = r.Header()
	for {
		rows, err := r.Next()
		if err == io.EOF {
			c.trailer = r.Trailer()
			return c, nil
		}
		if err != nil {
			return c, err
		}
		if err := c.section(rows); err != nil {
			return c, err
		}
	}
}

func (c *contents) section(rows *format.Rows) error {
	switch rows.Section().Tag {
	case format.TagNodes:
		for n := (format.NodeRow{}); rows.NextNode(&n); {
			c.nodes = append(c.nodes, n.Op())
		}
	case format.TagValues:
		for v := (format.ValueRow{}); rows.NextValue(&v); {
			c.sets = append(c.sets, v.Op())
		}
	case format.TagOps:
		for o := (format.OpRow{}); rows.NextOp(&o); {
			c.ops = append(c.ops, o.Op())
			c.effective = append(c.effective, o.Effective)
		}
	}
	return rows.Err()
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	want := formattest.Sample()
	got, err := load(iotest.OneByteReader(bytes.NewReader(formattest.Encode(want))))
	if err != nil {
		t.Fatal(err)
	}
	if h := want.Header(); !equalJSON(t, got.header, h) {
		t.Errorf("header = %+v, want %+v", got.header, h)
	}
	if n := len(got.nodes); n != len(want.Nodes) {
		t.Fatalf("%d nodes, want %d", n, len(want.Nodes))
	}
	for i, n := range want.Nodes {
		sameOp(t, got.nodes[i], n.Op())
	}
	if n := len(got.sets); n != len(want.Values) {
		t.Fatalf("%d values, want %d", n, len(want.Values))
	}
	for i, v := range want.Values {
		sameOp(t, got.sets[i], v.Op())
	}
	if n := len(got.ops); n != len(want.Ops) {
		t.Fatalf("%d ops, want %d", n, len(want.Ops))
	}
	for i, o := range want.Ops {
		sameOp(t, got.ops[i], o.Op())
		if got.effective[i] != o.Effective {
			t.Errorf("op %d: effective = %v", i, got.effective[i])
		}
	}
	if got.trailer.Rows["nodes"] != 3 || got.trailer.Rows["values"] != 2 || got.trailer.Rows["ops"] != 3 {
		t.Errorf("trailer rows = %v", got.trailer.Rows)
	}
}

func sameOp(t *testing.T, got, want moveop.Op) {
	t.Helper()
	if !got.SameBody(want) || got.Known != want.Known || got.Seq != want.Seq || got.Cause != want.Cause {
		t.Errorf("op = %+v, want %+v", got, want)
	}
}

func equalJSON(t *testing.T, a, b any) bool {
	t.Helper()
	x, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(x, y)
}

// TestGolden pins the bytes: a change of the format must not happen by accident.
func TestGolden(t *testing.T) {
	t.Parallel()
	const path = "testdata/sample.canopy"
	got := formattest.Encode(formattest.Sample())
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the sample's stream differs from %s", path)
	}
}

// TestLayout reads the stream by the table in the package comment, with nothing of the package.
func TestLayout(t *testing.T) {
	t.Parallel()
	b := formattest.Encode(formattest.Sample())
	if string(b[:8]) != "CANOPYS1" {
		t.Fatalf("magic %q", b[:8])
	}
	at, tags := walk(b)
	if !bytes.Equal(tags, []byte{1, 2, 3}) || b[at] != 0xff {
		t.Fatalf("sections %v, then tag %#x", tags, b[at])
	}
	var trailer struct{ SHA256 string }
	n := int(binary.BigEndian.Uint32(b[at+1:]))
	if err := json.Unmarshal(b[at+5:], &trailer); err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(b[:at]); trailer.SHA256 != hex.EncodeToString(sum[:]) {
		t.Errorf("sum %s, want %x", trailer.SHA256, sum)
	}
	if at+5+n != len(b) {
		t.Errorf("the trailer ends at %d of %d", at+5+n, len(b))
	}
}

// walk returns the offset of the trailer's tag and the tags before it.
func walk(b []byte) (at int, tags []byte) {
	for at = len(headOf(b)); b[at] != 0xff; {
		tags = append(tags, b[at])
		at++
		for n := -1; n != 0; at += 4 + n {
			n = int(binary.BigEndian.Uint32(b[at:]))
		}
	}
	return at, tags
}

// TestCutAnywhere: however short the stream, it is refused as cut, except that a stream may be so
// short that there is nothing to tell it by.
func TestCutAnywhere(t *testing.T) {
	t.Parallel()
	b := formattest.Encode(formattest.Sample())
	for n := range len(b) {
		if _, err := load(bytes.NewReader(b[:n])); !errors.Is(err, format.ErrTruncated) {
			t.Fatalf("cut to %d of %d bytes: %v", n, len(b), err)
		}
	}
}

// TestFlipAnywhere: no single wrong bit goes unnoticed, not even in what the sum does not cover, and
// not even by somebody who looks at no row.
func TestFlipAnywhere(t *testing.T) {
	t.Parallel()
	b := formattest.Encode(formattest.Sample())
	for i := range b {
		for bit := range 8 {
			flipped := bytes.Clone(b)
			flipped[i] ^= 1 << bit
			_, err := load(bytes.NewReader(flipped))
			refused(t, err, "byte %d, bit %d", i, bit)
			refused(t, skim(bytes.NewReader(flipped)), "byte %d, bit %d, skimmed", i, bit)
		}
	}
}

// skim reads a snapshot without looking at its rows.
func skim(src io.Reader) error {
	r, err := format.NewReader(src)
	for err == nil {
		_, err = r.Next()
	}
	if err == io.EOF {
		return nil
	}
	return err
}

func refused(t *testing.T, err error, what string, args ...any) {
	t.Helper()
	for _, want := range []error{format.ErrNotSnapshot, format.ErrVersion, format.ErrTruncated, format.ErrChecksum, format.ErrCorrupt} {
		if errors.Is(err, want) {
			return
		}
	}
	t.Fatalf(what+": error %v", append(args, err)...)
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	sample := formattest.Encode(formattest.Sample())
	tests := []struct {
		name string
		in   []byte
		want error
	}{
		{"empty", nil, format.ErrTruncated},
		{"something else", []byte("SQLite format 3\x00"), format.ErrNotSnapshot},
		{"something else, short", []byte("SQL"), format.ErrNotSnapshot},
		{"later magic", append([]byte("CANOPYS2"), sample[8:]...), format.ErrVersion},
		{"later header", stream(`{"format":2}`), format.ErrVersion},
		{"header not JSON", stream(`{`), format.ErrCorrupt},
		{"header without sections", stream(`{"format":1,"room":"r","epoch":"e"}`), format.ErrCorrupt},
		{"header too long", append([]byte("CANOPYS1"), 0xff, 0xff, 0xff, 0xff), format.ErrCorrupt},
		{"trailing byte", append(bytes.Clone(sample), 0), format.ErrCorrupt},
		{"twice", append(bytes.Clone(sample), sample...), format.ErrCorrupt},
		{"section twice", edit(func(h *format.Header) { h.Sections = append(h.Sections, h.Sections[2]) }), format.ErrCorrupt},
		{"sections in other order", edit(func(h *format.Header) { h.Sections[0], h.Sections[1] = h.Sections[1], h.Sections[0] }), format.ErrCorrupt},
		{"section missing", edit(func(h *format.Header) { h.Sections = h.Sections[:2] }), format.ErrCorrupt},
		{"reserved tag", edit(func(h *format.Header) { h.Sections = append(h.Sections, format.Section{Tag: 255}) }), format.ErrCorrupt},
		{"column missing", edit(func(h *format.Header) { h.Sections[0].Columns = h.Sections[0].Columns[1:] }), format.ErrCorrupt},
		{"column of another type", edit(func(h *format.Header) { h.Sections[1].Columns[2].Type = "jsonb" }), format.ErrCorrupt},
		{"same table twice", edit(func(h *format.Header) {
			h.Sections = append(h.Sections, format.Section{Tag: 4, Table: "ops"})
		}), format.ErrCorrupt},
		{"chunk too long", append(bytes.Clone(headOf(sample)), 1, 0xff, 0xff, 0xff, 0xff), format.ErrCorrupt},
		{"trailer too long", append(bytes.Clone(upToTrailer(sample)), 0xff, 0xff, 0xff, 0xff, 0xff), format.ErrCorrupt},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if _, err := load(bytes.NewReader(tt.in)); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

// stream is a magic and a header, with nothing behind.
func stream(header string) []byte {
	b := binary.BigEndian.AppendUint32([]byte("CANOPYS1"), uint32(len(header)))
	return append(b, header...)
}

// edit is the sample with another header, which no Writer would write.
func edit(change func(*format.Header)) []byte {
	h := formattest.Sample().Header()
	change(&h)
	text, err := json.Marshal(h)
	if err != nil {
		panic(err)
	}
	sample := formattest.Encode(formattest.Sample())
	return append(stream(string(text)), sample[len(headOf(sample)):]...)
}

func headOf(b []byte) []byte { return b[:12+binary.BigEndian.Uint32(b[8:])] }

func upToTrailer(b []byte) []byte {
	at, _ := walk(b)
	return b[:at]
}

// TestReadErrors: what is wrong below the format stays recognisable, an HTTP body that was cut off is
// a cut snapshot.
func TestReadErrors(t *testing.T) {
	t.Parallel()
	sample := formattest.Encode(formattest.Sample())
	for n := range len(sample) {
		part := bytes.NewReader(sample[:n])
		if _, err := load(io.MultiReader(part, iotest.ErrReader(iotest.ErrTimeout))); !errors.Is(err, iotest.ErrTimeout) {
			t.Fatalf("time-out after %d bytes: %v", n, err)
		}
		part.Reset(sample[:n])
		if _, err := load(io.MultiReader(part, iotest.ErrReader(io.ErrUnexpectedEOF))); !errors.Is(err, format.ErrTruncated) {
			t.Fatalf("unexpected EOF after %d bytes: %v", n, err)
		}
	}
}

// TestChunksMeanNothing: the same bytes in other chunks are the same rows.
func TestChunksMeanNothing(t *testing.T) {
	t.Parallel()
	sample := formattest.Sample()
	want, err := load(bytes.NewReader(formattest.Encode(sample)))
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1, 2, 3, 7, 64} {
		b := headOf(formattest.Encode(sample))
		for _, tag := range []int{format.TagNodes, format.TagValues, format.TagOps} {
			b = append(b, byte(tag))
			for chunk := range slices.Chunk(sectionData(t, sample, tag), size) {
				b = append(binary.BigEndian.AppendUint32(b, uint32(len(chunk))), chunk...)
			}
			b = append(b, 0, 0, 0, 0)
		}
		got, err := load(bytes.NewReader(seal(t, b, want.trailer.Rows)))
		if err != nil {
			t.Fatalf("chunks of %d: %v", size, err)
		}
		if !equalJSON(t, got.nodes, want.nodes) || !equalJSON(t, got.sets, want.sets) || !equalJSON(t, got.ops, want.ops) {
			t.Errorf("chunks of %d: other rows", size)
		}
	}
}

func sectionData(t *testing.T, s format.Snapshot, tag int) []byte {
	t.Helper()
	var buf bytes.Buffer
	if _, err := s.Copy(t.Context(), tag, &buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// seal appends the trailer to b.
func seal(t *testing.T, b []byte, rows map[string]int64) []byte {
	t.Helper()
	sum := sha256.Sum256(b)
	text, err := json.Marshal(format.Trailer{Rows: rows, SHA256: hex.EncodeToString(sum[:])})
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint32(append(b, 0xff), uint32(len(text))), text...)
}

// withExtra is the sample with one more section, of a tag that this version does not know.
type withExtra struct{ *formattest.Snapshot }

func (s withExtra) Header() format.Header {
	h := s.Snapshot.Header()
	h.Sections = append(h.Sections, format.Section{Tag: 9, Table: "comments", Columns: []format.Column{{Name: "id", Type: "int4"}}})
	return h
}

func (s withExtra) Copy(ctx context.Context, tag int, w io.Writer) (int64, error) {
	if tag != 9 {
		return s.Snapshot.Copy(ctx, tag, w)
	}
	b := formattest.AppendCopyRow(formattest.AppendCopyHeader(nil), "1234")
	_, err := w.Write(formattest.AppendCopyTrailer(b))
	return 1, err
}

func TestUnknownSectionIsCheckedAndSkipped(t *testing.T) {
	t.Parallel()
	b := formattest.Encode(withExtra{formattest.Sample()})
	got, err := load(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.nodes) != 3 || got.trailer.Rows["comments"] != 1 {
		t.Errorf("%d nodes, trailer %v", len(got.nodes), got.trailer)
	}
	i := bytes.LastIndex(b, []byte("1234"))
	b[i] ^= 1
	if _, err := load(bytes.NewReader(b)); !errors.Is(err, format.ErrChecksum) {
		t.Errorf("flipped byte in the unknown section: %v", err)
	}
}

// miscount claims one row more than it writes.
type miscount struct{ *formattest.Snapshot }

func (s miscount) Copy(ctx context.Context, tag int, w io.Writer) (int64, error) {
	n, err := s.Snapshot.Copy(ctx, tag, w)
	return n + 1, err
}

func TestRowCountIsChecked(t *testing.T) {
	t.Parallel()
	b := formattest.Encode(miscount{formattest.Sample()})
	if err := skim(bytes.NewReader(b)); !errors.Is(err, format.ErrCorrupt) {
		t.Errorf("error %v", err)
	}
}

// TestErrorSticks: after a failure no later call can look like success.
func TestErrorSticks(t *testing.T) {
	t.Parallel()
	b := formattest.Encode(formattest.Sample())
	r, err := format.NewReader(bytes.NewReader(b[:len(b)-1]))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = r.Next()
	}
	if _, again := r.Next(); again == nil || again == io.EOF || again.Error() != err.Error() {
		t.Errorf("first %v, then %v", err, again)
	}
	if got := r.Trailer(); got.SHA256 != "" {
		t.Errorf("trailer %v of a refused snapshot", got)
	}
}
