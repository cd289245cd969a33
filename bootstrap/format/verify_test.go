package format_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/bootstrap/format/formattest"
	"github.com/canopysync/canopy/moveop"
)

func TestVerify(t *testing.T) {
	t.Parallel()
	b := formattest.Encode(withExtra{formattest.Sample()})
	sum, err := format.Verify(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if sum.Bytes != int64(len(b)) || sum.Header.Room != "garden" || len(sum.Trailer.SHA256) != 64 {
		t.Errorf("summary %+v", sum)
	}
	sections := int64(0)
	for i, want := range []format.SectionSummary{
		{Tag: 1, Table: "nodes", Rows: 3}, {Tag: 2, Table: "values", Rows: 2}, {Tag: 3, Table: "ops", Rows: 3}, {Tag: 9, Table: "comments", Rows: 1},
	} {
		got := sum.Sections[i]
		sections += got.Bytes
		got.Bytes = 0
		if got != want {
			t.Errorf("section %d = %+v, want %+v", i, got, want)
		}
	}
	if head := len(headOf(b)); sections <= 0 || sections >= int64(len(b)-head) {
		t.Errorf("sections have %d of %d bytes", sections, len(b))
	}
}

// restated hides changed rows behind the header of the unchanged ones.
type restated struct {
	*formattest.Snapshot
	header format.Header
}

func (s restated) Header() format.Header { return s.header }

func TestVerifyContents(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*formattest.Snapshot, *format.Header)
	}{
		{"placement", func(s *formattest.Snapshot, _ *format.Header) { s.Nodes[0].Parent = moveop.Trash }},
		{"superseded op", func(s *formattest.Snapshot, _ *format.Header) { s.Ops[1].Value = []byte(`"rosé"`) }},
		{"missing op", func(s *formattest.Snapshot, _ *format.Header) { s.Ops = s.Ops[:2] }},
		{"order of nodes", func(s *formattest.Snapshot, _ *format.Header) { s.Nodes[0], s.Nodes[1] = s.Nodes[1], s.Nodes[0] }},
		{"node twice", func(s *formattest.Snapshot, h *format.Header) {
			s.Nodes = append(s.Nodes, s.Nodes[2])
			h.Digest = s.Header().Digest
		}},
		{"order of values", func(s *formattest.Snapshot, _ *format.Header) { s.Values[0], s.Values[1] = s.Values[1], s.Values[0] }},
		{"order of ops", func(s *formattest.Snapshot, _ *format.Header) { s.Ops[0], s.Ops[1] = s.Ops[1], s.Ops[0] }},
		{"seq past the header's", func(_ *formattest.Snapshot, h *format.Header) { h.Seq-- }},
		{"seq zero", func(s *formattest.Snapshot, _ *format.Header) { s.Nodes[0].Seq = 0 }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := formattest.Sample()
			h := s.Header()
			tt.change(s, &h)
			b := formattest.Encode(restated{s, h})
			if err := skim(bytes.NewReader(b)); err != nil {
				t.Fatalf("the stream itself: %v", err)
			}
			if _, err := format.Verify(bytes.NewReader(b)); !errors.Is(err, format.ErrCorrupt) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// TestVerifyCompacted: what was folded counts, as the header says how much it was.
func TestVerifyCompacted(t *testing.T) {
	t.Parallel()
	s := formattest.Sample()
	h := s.Header()
	h.Horizon, h.Folded.Ops = moveop.NewTimestamp(1_700_000_000_000, 6, 1), int64(len(s.Ops))
	for _, row := range s.Ops {
		h.Folded.Log ^= row.Op().LogHash()
	}
	s.Ops = nil
	if _, err := format.Verify(bytes.NewReader(formattest.Encode(restated{s, h}))); err != nil {
		t.Error(err)
	}
	h.Folded.Ops--
	if _, err := format.Verify(bytes.NewReader(formattest.Encode(restated{s, h}))); !errors.Is(err, format.ErrCorrupt) {
		t.Errorf("with one operation missing: %v", err)
	}
}

func TestVerifyCutAndFlipped(t *testing.T) {
	t.Parallel()
	b := formattest.Encode(formattest.Sample())
	for i := range b {
		if _, err := format.Verify(bytes.NewReader(b[:i])); !errors.Is(err, format.ErrTruncated) {
			t.Fatalf("cut to %d bytes: %v", i, err)
		}
		flipped := bytes.Clone(b)
		flipped[i] ^= 0x20
		_, err := format.Verify(bytes.NewReader(flipped))
		refused(t, err, "byte %d", i)
	}
}
