package format

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// signature begins binary COPY data.
const signature = "PGCOPY\n\xff\r\n\x00"

const (
	criticalFlags  = 0xffff0000 // flags that a reader must understand; none is understood here
	maxExtension   = 64 << 10   // bytes of the COPY header's extension area
	variable       = -1         // the width of a column whose values differ in length
	initialRowsBuf = 64 << 10
)

// Rows decodes the binary COPY data of one section. It checks the signature, the number of fields of each
// row, the length of each fixed-width field, and that nothing follows the COPY trailer. Decoding a row
// allocates nothing once the buffer has grown to the longest row. Byte slices are valid until the next call
// of Next.
type Rows struct {
	src     io.Reader
	section Section
	widths  []int // by column; variable if not fixed
	count   int64
	begun   bool
	done    bool
	err     error

	// buf[start:pos] is the part of the current row read so far, buf[pos:end] is still unread.
	// fields are relative to start, because reading more may move the row to the front of buf.
	buf             []byte
	start, pos, end int
	fields          []field
}

// field is the position of a value; length -1 is null.
type field struct{ offset, length int }

// reset starts reading src, which must hold the COPY data of the section and nothing else. It keeps the buffers.
func (r *Rows) reset(src io.Reader, s Section) {
	*r = Rows{src: src, section: s, buf: r.buf, widths: r.widths[:0], fields: r.fields[:0]}
	if r.buf == nil {
		r.buf = make([]byte, initialRowsBuf)
	}
	for _, c := range s.Columns {
		r.widths = append(r.widths, width(c.Type))
	}
	r.fields = slices.Grow(r.fields, len(s.Columns))[:len(s.Columns)]
}

func width(pgType string) int {
	switch pgType {
	case "uuid":
		return 16
	case "int8":
		return 8
	case "int2":
		return 2
	case "bool":
		return 1
	}
	return variable
}

// Section returns the section of the rows.
func (r *Rows) Section() Section { return r.section }

// Count returns the number of rows read so far, including the current one.
func (r *Rows) Count() int64 { return r.count }

// Err returns the error that ended the rows, nil at their regular end.
func (r *Rows) Err() error { return r.err }

// Next reads the next row. It returns false at the end and on an error; see Err.
func (r *Rows) Next() bool {
	if r.done || r.err != nil {
		return false
	}
	if err := r.next(); err != nil {
		r.err = err
		return false
	}
	return !r.done
}

func (r *Rows) next() error {
	if !r.begun {
		if err := r.readPreamble(); err != nil {
			return err
		}
		r.begun = true
	}
	r.start = r.pos
	if err := r.need(2); err != nil {
		return err
	}
	n := int16(r.uint16())
	if n == -1 {
		return r.finish()
	}
	r.count++
	if int(n) != len(r.widths) {
		return r.corrupt("%d fields in place of %d", n, len(r.widths))
	}
	for i := range r.fields {
		if err := r.readField(i); err != nil {
			return err
		}
	}
	return nil
}

func (r *Rows) readField(i int) error {
	if err := r.need(4); err != nil {
		return err
	}
	n := int(int32(r.uint32()))
	if n == -1 {
		r.fields[i] = field{length: -1}
		return nil
	}
	if n < 0 || r.widths[i] != variable && n != r.widths[i] {
		return r.corrupt("column %s (%s) has %d bytes", r.section.Columns[i].Name, r.section.Columns[i].Type, n)
	}
	if err := r.need(n); err != nil {
		return err
	}
	r.fields[i] = field{offset: r.pos - r.start, length: n}
	if r.section.Columns[i].Type == "bool" && r.buf[r.pos] > 1 {
		return r.corrupt("column %s (bool) is %d", r.section.Columns[i].Name, r.buf[r.pos])
	}
	r.pos += n
	return nil
}

func (r *Rows) readPreamble() error {
	if err := r.need(len(signature) + 8); err != nil {
		return err
	}
	if string(r.buf[:len(signature)]) != signature {
		return r.corrupt("no COPY signature")
	}
	r.pos += len(signature)
	if flags := r.uint32(); flags&criticalFlags != 0 {
		return r.corrupt("COPY flags %#x", flags)
	}
	n := r.uint32()
	if n > maxExtension {
		return r.corrupt("a COPY header extension of %d bytes", n)
	}
	if err := r.need(int(n)); err != nil {
		return err
	}
	r.pos += int(n)
	return nil
}

// finish checks that nothing follows the COPY trailer. It also makes a chunked section consume its end.
func (r *Rows) finish() error {
	if r.pos == r.end {
		n, err := io.ReadFull(r.src, r.buf[:1])
		if n == 0 && err == io.EOF {
			r.done = true
			return nil
		}
		if n == 0 {
			return r.cut(err)
		}
	}
	return r.corrupt("data follows the COPY trailer")
}

// need makes buf[pos:pos+n] available.
func (r *Rows) need(n int) error {
	if r.end-r.pos >= n {
		return nil
	}
	return r.fill(n)
}

func (r *Rows) fill(n int) error {
	if used := r.pos - r.start; used+n > MaxTuple {
		return r.corrupt("the row has more than %d bytes", MaxTuple)
	}
	copy(r.buf, r.buf[r.start:r.end])
	r.pos, r.end, r.start = r.pos-r.start, r.end-r.start, 0
	for r.end-r.pos < n {
		if r.end == len(r.buf) {
			// Doubled, not grown to the claimed length at once: a false length costs no more than the bytes actually sent.
			r.buf = append(r.buf, make([]byte, len(r.buf))...)
		}
		k, err := r.src.Read(r.buf[r.end:])
		r.end += k
		if err != nil && r.end-r.pos < n {
			return r.cut(err)
		}
	}
	return nil
}

// cut translates an unexpected end of input; it leaves other errors alone.
func (r *Rows) cut(err error) error {
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: the COPY data of %s ends at row %d", ErrTruncated, r.section.Table, r.count)
	}
	return err
}

func (r *Rows) corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s row %d: %s", ErrCorrupt, r.section.Table, r.count, fmt.Sprintf(format, args...))
}

func (r *Rows) uint16() uint16 {
	r.pos += 2
	return binary.BigEndian.Uint16(r.buf[r.pos-2:])
}

func (r *Rows) uint32() uint32 {
	r.pos += 4
	return binary.BigEndian.Uint32(r.buf[r.pos-4:])
}

// IsNull reports whether column i of the current row is null.
func (r *Rows) IsNull(i int) bool { return r.fields[i].length < 0 }

// Bytes returns the raw data of column i, nil for null. It is valid until the next row. The caller must not
// change it.
func (r *Rows) Bytes(i int) []byte {
	f := r.fields[i]
	if f.length < 0 {
		return nil
	}
	from := r.start + f.offset
	return r.buf[from : from+f.length : from+f.length]
}

// UUID returns column i, which must be a uuid; zero for null.
func (r *Rows) UUID(i int) (id [16]byte) {
	copy(id[:], r.Bytes(i))
	return id
}

// Int64 returns column i, which must be an int8; 0 for null.
func (r *Rows) Int64(i int) int64 {
	if r.IsNull(i) {
		return 0
	}
	return int64(binary.BigEndian.Uint64(r.Bytes(i)))
}

// Int16 returns column i, which must be an int2; 0 for null.
func (r *Rows) Int16(i int) int16 {
	if r.IsNull(i) {
		return 0
	}
	return int16(binary.BigEndian.Uint16(r.Bytes(i)))
}

// Bool returns column i, which must be a bool; false for null.
func (r *Rows) Bool(i int) bool {
	b := r.Bytes(i)
	return len(b) == 1 && b[0] == 1
}
