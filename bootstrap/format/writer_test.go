package format_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/bootstrap/format/formattest"
)

var errCopy = errors.New("connection lost")

// failing breaks off in the middle of a section.
type failing struct {
	*formattest.Snapshot
	tag int
}

func (s failing) Copy(ctx context.Context, tag int, w io.Writer) (int64, error) {
	n, err := s.Snapshot.Copy(ctx, tag, w)
	if tag == s.tag {
		err = errCopy
	}
	return n, err
}

func TestFailureLeavesNoTrailer(t *testing.T) {
	t.Parallel()
	for _, tag := range []int{format.TagNodes, format.TagValues, format.TagOps} {
		var buf bytes.Buffer
		_, err := format.WriteSnapshot(context.Background(), &buf, failing{formattest.Sample(), tag})
		if !errors.Is(err, errCopy) {
			t.Fatalf("section %d: %v", tag, err)
		}
		if _, err := load(&buf); !errors.Is(err, format.ErrTruncated) {
			t.Errorf("section %d: the part that was written reads as %v", tag, err)
		}
	}
}

func TestWriterKeepsOrder(t *testing.T) {
	t.Parallel()
	empty := func(w io.Writer) (int64, error) {
		_, err := w.Write(formattest.AppendCopyTrailer(formattest.AppendCopyHeader(nil)))
		return 0, err
	}
	w, err := format.NewWriter(io.Discard, formattest.Sample().Header())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Finish(); !errors.Is(err, format.ErrCorrupt) {
		t.Errorf("finished without sections: %v", err)
	}
	if err := w.Section(format.TagValues, empty); !errors.Is(err, format.ErrCorrupt) {
		t.Errorf("values before nodes: %v", err)
	}
	for _, tag := range []int{format.TagNodes, format.TagValues, format.TagOps} {
		if err := w.Section(tag, empty); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Section(format.TagOps, empty); !errors.Is(err, format.ErrCorrupt) {
		t.Errorf("ops twice: %v", err)
	}
}

func TestWriterRefusesHeaders(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*format.Header)
		want   error
	}{
		{"version", func(h *format.Header) { h.Format = 2 }, format.ErrVersion},
		{"no room", func(h *format.Header) { h.Room = "" }, format.ErrCorrupt},
		{"no sections", func(h *format.Header) { h.Sections = nil }, format.ErrCorrupt},
		{"too long", func(h *format.Header) { h.Room = strings.Repeat("x", format.MaxHeader) }, format.ErrCorrupt},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := formattest.Sample().Header()
			tt.change(&h)
			var buf bytes.Buffer
			if _, err := format.NewWriter(&buf, h); !errors.Is(err, tt.want) || buf.Len() > 0 {
				t.Errorf("error %v after %d bytes, want %v", err, buf.Len(), tt.want)
			}
		})
	}
}

// full fails every write after the first n bytes.
type full struct{ n int }

var errFull = errors.New("disk full")

func (f *full) Write(p []byte) (int, error) {
	if len(p) > f.n {
		return 0, errFull
	}
	f.n -= len(p)
	return len(p), nil
}

func TestWriteErrors(t *testing.T) {
	t.Parallel()
	whole := len(formattest.Encode(formattest.Sample()))
	for n := range whole {
		if _, err := format.WriteSnapshot(context.Background(), &full{n}, formattest.Sample()); !errors.Is(err, errFull) {
			t.Fatalf("room for %d of %d bytes: %v", n, whole, err)
		}
	}
	if _, err := format.WriteSnapshot(context.Background(), &full{whole}, formattest.Sample()); err != nil {
		t.Errorf("room enough: %v", err)
	}
}
