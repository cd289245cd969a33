package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"text/tabwriter"

	"github.com/klauspost/compress/zstd"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/moveop"
)

type snapshotCmd struct {
	Export  snapshotExportCmd  `cmd:"" help:"Fetch a snapshot of a room into a file."`
	Verify  snapshotVerifyCmd  `cmd:"" help:"Check every byte of a snapshot."`
	Inspect snapshotInspectCmd `cmd:"" help:"Show a snapshot's room, position and content."`
}

type snapshotExportCmd struct {
	Room   string `arg:"" help:"Name of the room."`
	Output string `short:"o" required:"" placeholder:"FILE" help:"File to write, - for standard output."`
	bootstrapFlag
	tokenFlag
	jsonFlag
}

// Help is the command's long help.
func (*snapshotExportCmd) Help() string {
	return `Verifies the snapshot as it arrives; the file appears under its name only when it is complete. The snapshot has all of the room: the tree, deleted nodes, all properties and the log.

Examples:

    canopy snapshot export notes -o notes.canopy
    canopy snapshot export notes -o - | ssh backup 'cat > notes.canopy'`
}

func (c *snapshotExportCmd) Run(ctx context.Context, env *Env) error {
	var sum format.Summary
	err := writeOutput(env, c.Output, func(w io.Writer) (err error) {
		sum, err = c.fetch(ctx, env, w)
		return err
	})
	if err != nil {
		return err
	}
	if c.Output == "-" {
		return nil // the snapshot has the place of a report
	}
	return c.print(env, sum, func() {
		fmt.Fprintf(env.Stdout, "%s: room %s at seq %d, %d bytes\n", c.Output, sum.Header.Room, sum.Header.Seq, sum.Bytes)
	})
}

func (c *snapshotExportCmd) fetch(ctx context.Context, env *Env, w io.Writer) (format.Summary, error) {
	s, err := c.service(c.tokenFlag)
	if err != nil {
		return format.Summary{}, err
	}
	resp, err := s.inRoom(ctx, c.Room, "/snapshot", http.Header{"Accept-Encoding": {"zstd"}})
	if err != nil {
		return format.Summary{}, err
	}
	defer resp.Body.Close()
	body := io.Reader(resp.Body)
	if resp.Header.Get("Content-Encoding") == "zstd" {
		decoder, err := zstd.NewReader(body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(64<<20))
		if err != nil {
			return format.Summary{}, err
		}
		defer decoder.Close()
		body = decoder
	}
	bar := newProgress(env, -1, "snapshot of "+c.Room, true)
	defer bar.end()
	sum, err := format.Verify(io.TeeReader(body, io.MultiWriter(w, bar)))
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return sum, err
}

type snapshotVerifyCmd struct {
	File string `arg:"" help:"Snapshot file, - for standard input."`
	jsonFlag
}

// Help is the command's long help.
func (*snapshotVerifyCmd) Help() string {
	return `Checks that the file is complete and unchanged, that its rows are well-formed and in order, and that they add up to the room's digest. The exit code is 0 for a good snapshot and 5 for any other.

Example:

    canopy snapshot verify notes.canopy`
}

// verified is what verify prints with --json, for good snapshots and bad ones.
type verified struct {
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
	format.Summary
}

func (c *snapshotVerifyCmd) Run(ctx context.Context, env *Env) error {
	sum, err := scan(ctx, env, c.File, format.Verify)
	if err != nil {
		if c.JSON {
			err = errors.Join(err, printJSON(env, verified{Error: err.Error(), Summary: sum}))
		}
		return err
	}
	return c.print(env, verified{OK: true, Summary: sum}, func() {
		fmt.Fprintf(env.Stdout, "%s: good snapshot of room %s at seq %d, %d bytes\n", c.File, sum.Header.Room, sum.Header.Seq, sum.Bytes)
	})
}

// scan runs read over a file, with a progress bar, until ctx is done.
func scan[T any](ctx context.Context, env *Env, path string, read func(io.Reader) (T, error)) (T, error) {
	var zero T
	f, err := openInput(ctx, env, path)
	if err != nil {
		return zero, err
	}
	defer f.Close()
	bar := newProgress(env, -1, path, true)
	defer bar.end()
	result, err := read(io.TeeReader(&contextReader{ctx, f}, bar))
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return result, err
}

// contextReader makes reading a long file end with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

type snapshotInspectCmd struct {
	File string `arg:"" help:"Snapshot file, - for standard input."`
	Ops  bool   `help:"Print every row as its operation instead, one JSON object per line."`
	jsonFlag
}

// Help is the command's long help.
func (*snapshotInspectCmd) Help() string {
	return `Shows the header and counts the rows. A damaged file is shown as far as it can be read, with exit code 5. To check the rows too, use verify.

Examples:

    canopy snapshot inspect notes.canopy
    canopy snapshot inspect --ops notes.canopy | jq 'select(.kind=="set")'`
}

func (c *snapshotInspectCmd) Run(ctx context.Context, env *Env) error {
	if c.Ops {
		_, err := scan(ctx, env, c.File, func(r io.Reader) (struct{}, error) {
			return struct{}{}, dumpOps(r, json.NewEncoder(env.Stdout))
		})
		return err
	}
	sum, err := scan(ctx, env, c.File, inspect)
	if sum.Header.Format == 0 {
		return err // nothing to show
	}
	return errors.Join(err, c.print(env, sum, func() { showSummary(env, sum) }))
}

// inspect reads a snapshot and counts. On an error the summary has what was read until then.
func inspect(src io.Reader) (format.Summary, error) {
	r, err := format.NewReader(src)
	if err != nil {
		return format.Summary{}, err
	}
	sum := format.Summary{Header: r.Header()}
	for {
		from := r.Offset()
		rows, err := r.Next()
		if err == io.EOF {
			sum.Trailer, sum.Bytes = r.Trailer(), r.Offset()
			return sum, nil
		}
		if err != nil {
			sum.Bytes = r.Offset()
			return sum, err
		}
		for rows.Next() {
		}
		s := rows.Section()
		sum.Sections = append(sum.Sections, format.SectionSummary{Tag: s.Tag, Table: s.Table, Rows: rows.Count(), Bytes: r.Offset() - from})
	}
}

func showSummary(env *Env, sum format.Summary) {
	h := sum.Header
	w := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "room\t%s\nepoch\t%s\nseq\t%d\ncreated\t%s\n", h.Room, h.Epoch, h.Seq, h.Created.UTC().Format("2006-01-02 15:04:05 UTC"))
	if h.Horizon.IsZero() {
		fmt.Fprintln(w, "log\twhole")
	} else {
		fmt.Fprintf(w, "log\tsince %s (%s)\n", h.Horizon.Time().UTC().Format("2006-01-02 15:04:05 UTC"), h.Horizon)
	}
	fmt.Fprintf(w, "operations\t%d\nlog digest\t%016x\nstate digest\t%016x\n", h.Digest.Ops, h.Digest.Log, h.Digest.State)
	for _, s := range sum.Sections {
		fmt.Fprintf(w, "%s\t%d rows, %d bytes\n", s.Table, s.Rows, s.Bytes)
	}
	if sum.Trailer.SHA256 != "" {
		fmt.Fprintf(w, "sha256\t%s\n", sum.Trailer.SHA256)
	}
	fmt.Fprintf(w, "size\t%d bytes\n", sum.Bytes)
	_ = w.Flush()
}

// dumpOps prints the rows of all sections. As always with a snapshot, trust the output only if there was no error.
func dumpOps(src io.Reader, out *json.Encoder) error {
	r, err := format.NewReader(src)
	if err != nil {
		return err
	}
	for {
		rows, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		for op := range opsOf(rows) {
			if err := out.Encode(op); err != nil {
				return fmt.Errorf("write output: %w", err)
			}
		}
		if err := rows.Err(); err != nil {
			return err
		}
	}
}

// opsOf is the operations of a section's rows.
func opsOf(rows *format.Rows) iter.Seq[moveop.Op] {
	return func(yield func(moveop.Op) bool) {
		switch rows.Section().Tag {
		case format.TagNodes:
			for row := (format.NodeRow{}); rows.NextNode(&row) && yield(row.Op()); {
			}
		case format.TagValues:
			for row := (format.ValueRow{}); rows.NextValue(&row) && yield(row.Op()); {
			}
		case format.TagOps:
			for row := (format.OpRow{}); rows.NextOp(&row) && yield(row.Op()); {
			}
		}
	}
}
