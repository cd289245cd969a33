package bench

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// Write writes the section as Markdown tables that are good to read as they are.
func (s Section) Write(w io.Writer) error {
	title := s.Name
	if s.Engine != "" {
		title += " (" + s.Engine + ")"
	}
	if _, err := fmt.Fprintf(w, "### %s\n\n", title); err != nil {
		return err
	}
	rows := [][]string{{"measure", "compared with", "limit", "engine", "times the limit", "target", "reached", "rounds"}}
	for _, r := range s.Results {
		rows = append(rows, r.row())
	}
	if err := writeTable(w, rows); err != nil {
		return err
	}
	for _, g := range s.Growth {
		if _, err := fmt.Fprintf(w, "%s, by %s (to be: %s):\n\n", g.Name, g.Of, g.Expect); err != nil {
			return err
		}
		if err := writeTable(w, g.rows()); err != nil {
			return err
		}
	}
	return nil
}

func (r Result) row() []string {
	row := []string{r.Name, r.Of, "", quantity(r.Engine, r.Unit), "", "", "", fmt.Sprint(r.Rounds)}
	target := quantity(r.Target, r.Unit)
	if r.Limit > 0 {
		row[2], row[4] = quantity(r.Limit, r.Unit), times(r.Ratio)
		target = times(r.Target)
	}
	if r.Target > 0 {
		row[5], row[6] = "≤ "+target, "no"
		if r.Rate {
			row[5] = "≥ " + target
		}
		if r.Reached {
			row[6] = "yes"
		}
	}
	return row
}

func (g Growth) rows() [][]string {
	rows := [][]string{{g.Of}, {"cost"}, {"times"}}
	for _, p := range g.Points {
		rows[0] = append(rows[0], count(p.Size))
		rows[1] = append(rows[1], quantity(p.Value, g.Unit))
		rows[2] = append(rows[2], times(p.Times))
	}
	return rows
}

// quantity writes a figure; a time with three digits that count.
func quantity(v float64, unit string) string {
	if unit != nsPerOp && unit != nanoseconds {
		return count(int(math.Round(v))) + " " + unit
	}
	d := time.Duration(v)
	switch {
	case v < 1000:
		return fmt.Sprintf("%.0f ns", v)
	case d < 100*time.Microsecond:
		return fmt.Sprintf("%.1f µs", v/1e3)
	case d < time.Millisecond:
		return fmt.Sprintf("%.0f µs", v/1e3)
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%.1f ms", v/1e6)
	}
	return fmt.Sprintf("%.0f ms", v/1e6)
}

func times(v float64) string {
	if v < 1 {
		return fmt.Sprintf("%.2f×", v)
	}
	if v < 100 {
		return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0") + "×"
	}
	return fmt.Sprintf("%.0f×", v)
}

// writeTable writes rows, of which the first one is the head, with columns of equal width.
func writeTable(w io.Writer, rows [][]string) error {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 3)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for i, row := range rows {
		for k, width := range widths {
			fmt.Fprintf(&b, "| %-*s ", width, row[k])
		}
		b.WriteString("|\n")
		if i > 0 {
			continue
		}
		for _, width := range widths {
			b.WriteString("|" + strings.Repeat("-", width+2))
		}
		b.WriteString("|\n")
	}
	b.WriteByte('\n')
	_, err := io.WriteString(w, b.String())
	return err
}
