package format

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/canopysync/canopy/moveop"
)

// Sections returns the sections of version 1, with the given estimates of their rows, for a Header. COPY
// their columns in the order given.
func Sections(nodes, values, ops int64) []Section {
	return []Section{
		{Tag: TagNodes, Table: "nodes", Rows: nodes, Columns: []Column{
			{"node", "uuid"}, {"parent", "uuid"}, {"order_key", "text"},
			{"ts", "uuid"}, {"seq", "int8"}, {"known", "int8"}, {"cause", "uuid"},
		}},
		{Tag: TagValues, Table: "values", Rows: values, Columns: []Column{
			{"node", "uuid"}, {"key", "text"}, {"value", "json"},
			{"ts", "uuid"}, {"seq", "int8"}, {"known", "int8"},
		}},
		{Tag: TagOps, Table: "ops", Rows: ops, Columns: []Column{
			{"seq", "int8"}, {"ts", "uuid"}, {"kind", "int2"}, {"node", "uuid"}, {"parent", "uuid"},
			{"order_key", "text"}, {"key", "text"}, {"value", "json"},
			{"known", "int8"}, {"cause", "uuid"}, {"effective", "bool"},
		}},
	}
}

// Whole returns the digest of a snapshot whose sections add up to rows: rows and Folded together.
func (h Header) Whole(rows moveop.Digest) moveop.Digest {
	rows.Ops += h.Folded.Ops
	rows.Log ^= h.Folded.Log
	rows.State ^= h.Folded.State
	return rows
}

// decodeHeader checks the version before anything else, because nothing is known about later ones.
func decodeHeader(text []byte) (Header, error) {
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(text, &version); err != nil {
		return Header{}, fmt.Errorf("%w: header: %w", ErrCorrupt, err)
	}
	if version.Format != Version {
		return Header{}, fmt.Errorf("%w: %d", ErrVersion, version.Format)
	}
	var h Header
	if err := json.Unmarshal(text, &h); err != nil {
		return Header{}, fmt.Errorf("%w: header: %w", ErrCorrupt, err)
	}
	return h, h.validate()
}

// validate checks what both sides rely on: every known section is present with exactly the columns that the typed rows
// expect, and tags and table names are unambiguous.
func (h Header) validate() error {
	if h.Format != Version {
		return fmt.Errorf("%w: %d", ErrVersion, h.Format)
	}
	if h.Room == "" || h.Epoch == "" || h.Seq < 0 {
		return fmt.Errorf("%w: the header needs room, epoch and a seq of at least 0", ErrCorrupt)
	}
	last, tables := 0, map[string]bool{}
	for _, s := range h.Sections {
		if s.Tag <= last || s.Tag >= trailerTag {
			return fmt.Errorf("%w: section tags must ascend within 1..254, got %d after %d", ErrCorrupt, s.Tag, last)
		}
		if tables[s.Table] {
			return fmt.Errorf("%w: two sections hold table %q", ErrCorrupt, s.Table)
		}
		last, tables[s.Table] = s.Tag, true
	}
	return h.validateKnown()
}

func (h Header) validateKnown() error {
	for _, want := range Sections(0, 0, 0) {
		got, ok := h.section(want.Tag)
		if !ok {
			return fmt.Errorf("%w: the header has no section %d (%s)", ErrCorrupt, want.Tag, want.Table)
		}
		if got.Table != want.Table || !slices.Equal(got.Columns, want.Columns) {
			return fmt.Errorf("%w: section %d (%s) does not have the columns of version %d", ErrCorrupt, got.Tag, got.Table, Version)
		}
	}
	return nil
}

func (h Header) section(tag int) (Section, bool) {
	i := slices.IndexFunc(h.Sections, func(s Section) bool { return s.Tag == tag })
	if i < 0 {
		return Section{}, false
	}
	return h.Sections[i], true
}

// decodeTrailer is strict, unlike decodeHeader: the checksum does not cover the trailer, so nothing in it may be
// ambiguous. Decoding into maps makes names case-sensitive.
func decodeTrailer(text []byte) (Trailer, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return Trailer{}, fmt.Errorf("%w: trailer: %w", ErrCorrupt, err)
	}
	var t Trailer
	if err := json.Unmarshal(fields["rows"], &t.Rows); err != nil {
		return Trailer{}, fmt.Errorf("%w: trailer: rows: %w", ErrCorrupt, err)
	}
	if err := json.Unmarshal(fields["sha256"], &t.SHA256); err != nil {
		return Trailer{}, fmt.Errorf("%w: trailer: sha256: %w", ErrCorrupt, err)
	}
	return t, nil
}
