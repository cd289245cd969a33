// Package format reads and writes Canopy snapshots. A snapshot is a consistent copy of a room in a single
// stream; the bootstrap service makes it, and a client loads it or keeps it as a file.
//
// All integers are big-endian. Lengths are in bytes.
//
//	offset   size  field
//	0        8     magic "CANOPYS1"; the last byte is the version
//	8        4     u32 h, the length of the header, at most MaxHeader
//	12       h     header: JSON, see Header
//	12+h           all sections that the header lists, in its order (ascending by tag):
//	+0       1       u8 tag, 1..254
//	+1               chunks:
//	+0       4         u32 c, 1..MaxChunk
//	+4       c         c bytes of COPY data
//	         4       u32 0 ends the section
//	e        1     u8 0xFF, the trailer's tag
//	e+1      4     u32 t, the length of the trailer, at most MaxTrailer
//	e+5      t     trailer: JSON, see Trailer
//	e+5+t          end of the stream; nothing may follow
//
// The chunks of a section, joined, are exactly the output of Postgres' COPY … TO STDOUT (FORMAT binary)
// for the columns that the header names. Chunk boundaries have no meaning. The trailer's checksum is the
// SHA-256 of the bytes [0, e): everything before the 0xFF tag, which itself is not hashed.
//
// # Trust
//
// Writing and reading are streaming and use memory that does not depend on the room's size. The price is
// that a reader returns rows before it can verify them. So keep a loaded snapshot apart until Reader.Next
// has returned io.EOF, and discard it on any other error. A stream that was cut, extended or altered never
// reaches io.EOF: the checksum guards everything before the trailer, and the row counts and the exact form
// guard the trailer.
//
// A reader checks and skips sections with unknown tags. It refuses a higher version in the magic or in
// Header.Format with ErrVersion.
//
// Nothing in this package is safe for concurrent use, and nothing starts a goroutine.
package format

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/canopysync/canopy/moveop"
)

// Version is the only version of the format so far. It is the digit in the magic, and Header.Format.
const Version = 1

// ContentType is the media type of a snapshot.
const ContentType = "application/vnd.canopy.snapshot"

const (
	magic      = "CANOPYS1"
	trailerTag = 0xff
)

// Maximum sizes, which a writer respects and a reader enforces. Their sum bounds a reader's memory.
const (
	MaxHeader  = 64 << 10 // bytes of JSON in the header
	MaxTrailer = 16 << 10 // bytes of JSON in the trailer
	MaxChunk   = 1 << 20  // bytes in one chunk
	MaxTuple   = 8 << 20  // bytes in one row of COPY data
)

var (
	// ErrNotSnapshot is reported for a stream that does not begin with the magic.
	ErrNotSnapshot = errors.New("not a Canopy snapshot")
	// ErrVersion is reported for a snapshot of a version that this package cannot read.
	ErrVersion = errors.New("unsupported snapshot version")
	// ErrTruncated is reported if a stream ends before the end of its trailer, or a section before the
	// end of its COPY data.
	ErrTruncated = errors.New("snapshot is cut short")
	// ErrChecksum is reported if the checksum in the trailer is not that of the bytes read.
	ErrChecksum = errors.New("snapshot checksum mismatch")
	// ErrCorrupt is reported for anything else that no Writer produces.
	ErrCorrupt = errors.New("snapshot is corrupt")
)

// Tags of the sections of version 1. All three are in every snapshot.
const (
	TagNodes  = 1 // each node's last effective move
	TagValues = 2 // each property's current write
	TagOps    = 3 // every other op in the log, ordered by timestamp
)

// Header comes first in a snapshot. It identifies the room and its state, and lists the sections.
type Header struct {
	// Format is the version, now always Version.
	Format int `json:"format"`
	// Room is the room's name.
	Room string `json:"room"`
	// Epoch names the room's history; with Seq it is the cursor to continue from.
	Epoch string `json:"epoch"`
	// Seq is the sequence number of the last op that the snapshot contains.
	Seq int64 `json:"seq"`
	// Horizon is the time up to which the log is compacted: operations at or before it that are no longer
	// needed were folded into the state. The zero timestamp means that the log is complete.
	Horizon moveop.Timestamp `json:"horizon"`
	// Created is when the snapshot was taken, by the database's clock.
	Created time.Time `json:"created"`
	// Digest is the room's digest at Seq, over all operations ever committed.
	Digest moveop.Digest `json:"digest"`
	// Folded is the part of Digest that is not in the sections: that of the folded operations.
	Folded moveop.Digest `json:"folded,omitzero"`
	// Sections lists the sections in the order of the stream, ascending by tag.
	Sections []Section `json:"sections"`
}

// Section describes one section of a snapshot.
type Section struct {
	Tag     int      `json:"tag"`
	Table   string   `json:"table"`
	Columns []Column `json:"columns"`
	// Rows is an estimate, good for a progress bar; the trailer has the exact count.
	Rows int64 `json:"rows"`
}

// Column is one column of a section. Type is the Postgres type: uuid, int8, int2, bool, text or json.
type Column struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// Trailer comes last in a snapshot.
type Trailer struct {
	// Rows is the exact number of rows of every section, by table.
	Rows map[string]int64 `json:"rows"`
	// SHA256 is the checksum of everything before the trailer's tag, in lower-case hexadecimal.
	SHA256 string `json:"sha256"`
}

// Snapshot is a consistent view of a room in a database. It is valid only inside the callback it was passed
// to.
type Snapshot interface {
	// Header describes the room; its Sections list the tags that Copy accepts.
	Header() Header
	// Copy writes to w the binary COPY data of the section with the given tag (TagNodes, TagValues or
	// TagOps; not an index), rows in primary key order, and returns the number of rows.
	Copy(ctx context.Context, tag int, w io.Writer) (rows int64, err error)
}
