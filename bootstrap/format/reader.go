package format

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
)

// Reader reads one snapshot, section by section:
//
//	r, err := format.NewReader(src)
//	for {
//		rows, err := r.Next()
//		if err == io.EOF {
//			break // complete and verified: only now trust the rows
//		}
//		…
//		switch rows.Section().Tag {
//		case format.TagNodes:
//			var n format.NodeRow
//			for rows.NextNode(&n) { … }
//		…
//		}
//		if err := rows.Err(); err != nil { … }
//	}
//
// Next also reads, checks and drops the rows that the caller has left unread, even whole sections, and
// reports any error in them.
type Reader struct {
	src     *source
	header  Header
	rows    *Rows // of the current section
	body    *sectionReader
	done    int              // sections started
	counts  map[string]int64 // rows of the sections read so far
	trailer Trailer
	err     error // the error that Next ended with
}

// NewReader reads the magic and the header from src. It reads ahead, so data after the snapshot is lost;
// Next refuses such a stream.
func NewReader(src io.Reader) (*Reader, error) {
	r := &Reader{src: newSource(src), counts: map[string]int64{}}
	if err := r.src.magic(); err != nil {
		return nil, fmt.Errorf("read snapshot: %w", err)
	}
	text, err := r.src.block(MaxHeader)
	if err != nil {
		return nil, fmt.Errorf("read snapshot header: %w", err)
	}
	if r.header, err = decodeHeader(text); err != nil {
		return nil, fmt.Errorf("read snapshot header: %w", err)
	}
	return r, nil
}

// Header describes the snapshot. It is verified only when Next has returned io.EOF.
func (r *Reader) Header() Header { return r.header }

// Trailer returns the trailer once Next has returned io.EOF, and the zero value before.
func (r *Reader) Trailer() Trailer { return r.trailer }

// Offset returns the number of bytes of the snapshot consumed so far.
func (r *Reader) Offset() int64 { return r.src.offset }

// Next finishes the current section and begins the next one that this version knows. The Rows are valid
// until the next call of Next. After the last section it reads the trailer, checks the checksum, the row
// counts and that the stream ends there, and returns io.EOF. On any other error, discard the whole snapshot;
// later calls return the same error.
func (r *Reader) Next() (*Rows, error) {
	if r.err != nil {
		return nil, r.err
	}
	rows, err := r.next()
	if err != nil && err != io.EOF {
		err = fmt.Errorf("read snapshot: %w", err)
	}
	r.err = err
	return rows, err
}

func (r *Reader) next() (*Rows, error) {
	for {
		if err := r.finishSection(); err != nil {
			return nil, err
		}
		if r.done == len(r.header.Sections) {
			return nil, r.finish()
		}
		section := r.header.Sections[r.done]
		if err := r.begin(section); err != nil {
			return nil, err
		}
		if section.known() {
			return r.rows, nil
		}
	}
}

// known reports whether this version has a typed row for the section.
func (s Section) known() bool { return s.Tag <= TagOps }

func (r *Reader) begin(section Section) error {
	tag, err := r.src.peek()
	if err != nil {
		return err
	}
	if int(tag) != section.Tag {
		return r.src.corrupt("tag %d in place of section %d (%s)", tag, section.Tag, section.Table)
	}
	if err := r.src.skipByte(); err != nil {
		return err
	}
	r.body = &sectionReader{src: r.src}
	if r.rows == nil {
		r.rows = &Rows{}
	}
	r.rows.reset(r.body, section)
	r.done++
	return nil
}

// finishSection reads the rest of the current section, so that its rows are counted whether or not the caller read
// them.
func (r *Reader) finishSection() error {
	if r.body == nil {
		return nil
	}
	for r.rows.Next() {
	}
	if err := r.rows.Err(); err != nil {
		return fmt.Errorf("section %s: %w", r.rows.section.Table, err)
	}
	r.counts[r.rows.section.Table] = r.rows.count
	r.body = nil
	return nil
}

// finish takes the checksum before it reads the trailer's tag.
func (r *Reader) finish() error {
	tag, err := r.src.peek()
	if err != nil {
		return err
	}
	if tag != trailerTag {
		return r.src.corrupt("tag %d in place of the trailer", tag)
	}
	sum := hex.EncodeToString(r.src.sum.Sum(nil))
	if err := r.src.skipByte(); err != nil {
		return err
	}
	text, err := r.src.block(MaxTrailer)
	if err != nil {
		return fmt.Errorf("trailer: %w", err)
	}
	t, err := decodeTrailer(text)
	if err != nil {
		return err
	}
	if t.SHA256 != sum {
		return fmt.Errorf("%w: computed %s, the trailer has %q", ErrChecksum, sum, t.SHA256)
	}
	if err := r.checkCounts(t); err != nil {
		return err
	}
	if err := r.src.end(); err != nil {
		return err
	}
	r.trailer = t
	return io.EOF
}

func (r *Reader) checkCounts(t Trailer) error {
	if len(t.Rows) != len(r.counts) {
		return fmt.Errorf("%w: the trailer counts %d sections, the stream has %d", ErrCorrupt, len(t.Rows), len(r.counts))
	}
	for table, n := range r.counts {
		if want, ok := t.Rows[table]; !ok || want != n {
			return fmt.Errorf("%w: %d rows of %s, the trailer counts %d", ErrCorrupt, n, table, want)
		}
	}
	return nil
}

// source is the underlying stream. It checksums and counts every byte read, and turns an end of file into ErrTruncated,
// because a snapshot has an explicit end.
type source struct {
	r      *bufio.Reader
	sum    hash.Hash
	offset int64
	word   [8]byte
}

func newSource(r io.Reader) *source {
	return &source{r: bufio.NewReaderSize(r, chunkBytes), sum: sha256.New()}
}

// Read implements io.Reader, except that it never returns io.EOF.
func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.sum.Write(p[:n])
	s.offset += int64(n)
	return n, s.cut(err)
}

func (s *source) cut(err error) error {
	switch {
	case err == nil:
		return nil
	case err == io.EOF:
		return fmt.Errorf("%w at byte %d", ErrTruncated, s.offset)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w at byte %d: %w", ErrTruncated, s.offset, err)
	}
	return err
}

func (s *source) full(p []byte) error {
	for len(p) > 0 {
		n, err := s.Read(p)
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

func (s *source) peek() (byte, error) {
	b, err := s.r.Peek(1)
	if err != nil {
		return 0, s.cut(err)
	}
	return b[0], nil
}

func (s *source) skipByte() error { return s.full(s.word[:1]) }

func (s *source) uint32() (uint32, error) {
	if err := s.full(s.word[:4]); err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint32(s.word[:4]), nil
}

// magic tells apart something else altogether, another version, and a stream cut off too early to tell.
func (s *source) magic() error {
	got, err := s.r.Peek(len(magic))
	if err != nil && err != io.EOF {
		return s.cut(err)
	}
	name := magic[:len(magic)-1]
	switch {
	case string(got) == magic:
		return s.full(s.word[:len(magic)])
	case strings.HasPrefix(magic, string(got)):
		return s.cut(io.EOF)
	case strings.HasPrefix(string(got), name):
		return fmt.Errorf("%w: %q", ErrVersion, got[len(name):])
	}
	return ErrNotSnapshot
}

// block reads a length and that many bytes.
func (s *source) block(limit uint32) ([]byte, error) {
	n, err := s.uint32()
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, s.corrupt("a length of %d, the limit is %d", n, limit)
	}
	b := make([]byte, n)
	return b, s.full(b)
}

// end checks that nothing follows.
func (s *source) end() error {
	switch _, err := s.r.Peek(1); {
	case err == io.EOF:
		return nil
	case err != nil:
		return s.cut(err)
	}
	return s.corrupt("something follows the trailer")
}

func (s *source) corrupt(format string, args ...any) error {
	return fmt.Errorf("%w at byte %d: %s", ErrCorrupt, s.offset, fmt.Sprintf(format, args...))
}

// sectionReader joins the chunks of one section. It returns io.EOF only after the empty chunk.
type sectionReader struct {
	src  *source
	left uint32 // of the current chunk
	done bool
}

func (s *sectionReader) Read(p []byte) (int, error) {
	if s.left == 0 && !s.done {
		if err := s.nextChunk(); err != nil {
			return 0, err
		}
	}
	if s.done {
		return 0, io.EOF
	}
	n, err := s.src.Read(p[:min(len(p), int(s.left))])
	s.left -= uint32(n)
	return n, err
}

func (s *sectionReader) nextChunk() error {
	n, err := s.src.uint32()
	if err != nil {
		return err
	}
	if n > MaxChunk {
		return s.src.corrupt("a chunk of %d bytes, the limit is %d", n, MaxChunk)
	}
	s.left, s.done = n, n == 0
	return nil
}
