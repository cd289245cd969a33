package format_test

import (
	"bytes"
	"crypto/sha256"
	"io"
	"testing"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/bootstrap/format/formattest"
)

const benchRows = 100_000

// benchStream is a snapshot of benchRows nodes and nothing else.
func benchStream(b *testing.B) []byte {
	b.Helper()
	data := nodeRows(benchRows)
	empty := copyData()
	var buf bytes.Buffer
	w, err := format.NewWriter(&buf, formattest.Sample().Header())
	if err != nil {
		b.Fatal(err)
	}
	for _, s := range []struct {
		tag  int
		data []byte
		rows int64
	}{{format.TagNodes, data, benchRows}, {format.TagValues, empty, 0}, {format.TagOps, empty, 0}} {
		err := w.Section(s.tag, func(dst io.Writer) (int64, error) {
			_, err := dst.Write(s.data)
			return s.rows, err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	if _, err := w.Finish(); err != nil {
		b.Fatal(err)
	}
	return buf.Bytes()
}

// BenchmarkReader reads a snapshot; limit=sha256 is the sum alone over the same bytes.
func BenchmarkReader(b *testing.B) {
	stream := benchStream(b)
	b.Run("limit=sha256", func(b *testing.B) {
		b.SetBytes(int64(len(stream)))
		for b.Loop() {
			sha256.Sum256(stream)
		}
	})
	b.Run("rows=nodes", func(b *testing.B) {
		b.SetBytes(int64(len(stream)))
		b.ReportAllocs()
		for b.Loop() {
			readNodes(b, stream)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchRows, "ns/row")
	})
}

func readNodes(b *testing.B, stream []byte) {
	b.Helper()
	r, err := format.NewReader(bytes.NewReader(stream))
	if err != nil {
		b.Fatal(err)
	}
	var n format.NodeRow
	rows, err := r.Next()
	if err != nil {
		b.Fatal(err)
	}
	for rows.NextNode(&n) {
	}
	for err == nil {
		_, err = r.Next()
	}
	if err != io.EOF || r.Trailer().Rows["nodes"] != benchRows {
		b.Fatal(err)
	}
}

// BenchmarkWriter writes a snapshot a row at a time, as Postgres hands it over.
func BenchmarkWriter(b *testing.B) {
	row := formattest.AppendCopyRow(nil, make([]byte, 16), make([]byte, 16), "a0", make([]byte, 16), int64(1), int64(0), nil)
	b.SetBytes(int64(len(row)) * benchRows)
	b.ReportAllocs()
	for b.Loop() {
		w, err := format.NewWriter(io.Discard, formattest.Sample().Header())
		if err != nil {
			b.Fatal(err)
		}
		err = w.Section(format.TagNodes, func(dst io.Writer) (int64, error) {
			for range benchRows {
				if _, err := dst.Write(row); err != nil {
					return 0, err
				}
			}
			return benchRows, nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}
