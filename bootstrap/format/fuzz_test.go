package format_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/bootstrap/format/formattest"
	"github.com/canopysync/canopy/moveop"
)

// FuzzRows: data is either refused with a typed error or, encoded again from the values that the
// getters gave, the same bytes behind the COPY header.
func FuzzRows(f *testing.F) {
	f.Add(copyData())
	f.Add(copyData([]any{moveop.Root, int64(-1), int16(2), true, "x"}, []any{nil, nil, nil, nil, nil}))
	f.Fuzz(func(t *testing.T, data []byte) {
		rows := format.NewRows(bytes.NewReader(data), mixed)
		var again []byte
		for rows.Next() {
			again = formattest.AppendCopyRow(again, value(rows, 0, rows.UUID(0)), value(rows, 1, rows.Int64(1)),
				value(rows, 2, rows.Int16(2)), value(rows, 3, rows.Bool(3)), value(rows, 4, string(rows.Bytes(4))))
		}
		if err := rows.Err(); err != nil {
			refused(t, err, "%d bytes", len(data))
			return
		}
		again = formattest.AppendCopyTrailer(again)
		extension := len(data) - len(again) - len(formattest.AppendCopyHeader(nil))
		if extension < 0 || !bytes.HasSuffix(data, again) {
			t.Errorf("rows encode to %x, from %x", again, data)
		}
	})
}

func value(rows *format.Rows, i int, v any) any {
	if rows.IsNull(i) {
		return nil
	}
	return v
}

// FuzzReader, best run with -fuzzminimizetime 20x, as its seeds are long: a stream is either refused with a typed error, or its trailer holds the true sum of what
// is before it, and it is refused once a byte is taken from it or added.
func FuzzReader(f *testing.F) {
	f.Add(formattest.Encode(formattest.Sample()))
	f.Add(formattest.Encode(withExtra{formattest.Sample()}))
	f.Add(formattest.Encode(&formattest.Snapshot{Room: "r", Epoch: "e"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := load(bytes.NewReader(data))
		if err != nil {
			refused(t, err, "%d bytes", len(data))
			return
		}
		sum := sha256.Sum256(upToTrailer(data))
		if got.trailer.SHA256 != hex.EncodeToString(sum[:]) {
			t.Errorf("accepted with the sum %s, it is %x", got.trailer.SHA256, sum)
		}
		if _, err := load(bytes.NewReader(data[:len(data)-1])); !errors.Is(err, format.ErrTruncated) {
			t.Errorf("accepted without its last byte: %v", err)
		}
		if _, err := load(bytes.NewReader(append(data, 0))); !errors.Is(err, format.ErrCorrupt) {
			t.Errorf("accepted with a byte more: %v", err)
		}
	})
}
