package format

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
)

// chunkBytes is how much a Writer buffers before writing a chunk: Postgres delivers COPY data a row at a time.
const chunkBytes = 64 << 10

// Writer writes one snapshot. After an error it cannot be used further, and the output lacks the trailer, so
// that no reader accepts it as complete.
type Writer struct {
	dst    io.Writer
	sum    hash.Hash
	header Header
	done   int // sections written
	rows   map[string]int64
	chunk  []byte // 4 bytes for the length, then the buffered bytes
}

// NewWriter writes the magic and the header. The header must list all sections of this version (see
// Sections) and may list more, ascending by tag.
func NewWriter(dst io.Writer, h Header) (*Writer, error) {
	if err := h.validate(); err != nil {
		return nil, fmt.Errorf("write header: %w", err)
	}
	text, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("write header: %w", err)
	}
	if len(text) > MaxHeader {
		return nil, fmt.Errorf("write header: %w: it has %d bytes, the limit is %d", ErrCorrupt, len(text), MaxHeader)
	}
	w := &Writer{
		dst:    dst,
		sum:    sha256.New(),
		header: h,
		rows:   make(map[string]int64, len(h.Sections)),
		chunk:  make([]byte, 4, 4+chunkBytes),
	}
	buf := binary.BigEndian.AppendUint32([]byte(magic), uint32(len(text)))
	return w, w.emit(append(buf, text...))
}

// Section writes the next section of the header, which must have the given tag: copy writes its COPY
// data to dst and returns the number of rows in it. An error of copy is returned as it is.
func (w *Writer) Section(tag int, copy func(dst io.Writer) (rows int64, err error)) error {
	if w.done == len(w.header.Sections) || w.header.Sections[w.done].Tag != tag {
		return fmt.Errorf("%w: section %d is not the next section in the header", ErrCorrupt, tag)
	}
	if err := w.emit([]byte{byte(tag)}); err != nil {
		return err
	}
	rows, err := copy((*sectionWriter)(w))
	if err != nil {
		return err
	}
	if err := w.flushChunk(); err != nil {
		return err
	}
	w.rows[w.header.Sections[w.done].Table] = rows
	w.done++
	return w.emit([]byte{0, 0, 0, 0})
}

// Finish writes the trailer. Every section must have been written.
func (w *Writer) Finish() (Trailer, error) {
	if w.done != len(w.header.Sections) {
		return Trailer{}, fmt.Errorf("%w: %d of %d sections were written", ErrCorrupt, w.done, len(w.header.Sections))
	}
	t := Trailer{Rows: w.rows, SHA256: hex.EncodeToString(w.sum.Sum(nil))}
	text, err := json.Marshal(t)
	if err != nil {
		return Trailer{}, fmt.Errorf("write trailer: %w", err)
	}
	if len(text) > MaxTrailer {
		return Trailer{}, fmt.Errorf("write trailer: %w: it has %d bytes, the limit is %d", ErrCorrupt, len(text), MaxTrailer)
	}
	buf := binary.BigEndian.AppendUint32([]byte{trailerTag}, uint32(len(text)))
	return t, w.emit(append(buf, text...))
}

// WriteSnapshot writes all of s to dst. On an error, the output lacks the trailer.
func WriteSnapshot(ctx context.Context, dst io.Writer, s Snapshot) (Trailer, error) {
	h := s.Header()
	w, err := NewWriter(dst, h)
	if err != nil {
		return Trailer{}, err
	}
	for _, section := range h.Sections {
		err := w.Section(section.Tag, func(dst io.Writer) (int64, error) { return s.Copy(ctx, section.Tag, dst) })
		if err != nil {
			return Trailer{}, fmt.Errorf("write section %s: %w", section.Table, err)
		}
	}
	return w.Finish()
}

// sectionWriter is the Writer as seen by a section's copy function.
type sectionWriter Writer

// Write gathers p into chunks.
func (s *sectionWriter) Write(p []byte) (int, error) {
	w, n := (*Writer)(s), len(p)
	for len(p) > 0 {
		if len(w.chunk) == cap(w.chunk) {
			if err := w.flushChunk(); err != nil {
				return n - len(p), err
			}
		}
		k := min(len(p), cap(w.chunk)-len(w.chunk))
		w.chunk, p = append(w.chunk, p[:k]...), p[k:]
	}
	return n, nil
}

func (w *Writer) flushChunk() error {
	if len(w.chunk) == 4 {
		return nil
	}
	binary.BigEndian.PutUint32(w.chunk, uint32(len(w.chunk)-4))
	err := w.emit(w.chunk)
	w.chunk = w.chunk[:4]
	return err
}

func (w *Writer) emit(p []byte) error {
	w.sum.Write(p)
	if _, err := w.dst.Write(p); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return nil
}
