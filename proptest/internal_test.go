package proptest

import (
	"strings"
	"testing"

	"github.com/canopysync/canopy/moveop"
)

func TestSmallScopeLists(t *testing.T) {
	t.Parallel()
	if n := len(smallScopeLists()); n != 8478 {
		t.Errorf("want 8478 lists, got %d", n)
	}
}

func TestNotation(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"a:5 X→A@a0XV (knows 0)",
		"b:70.2 P0→ROOT@a0P0V (knows 12)",
		"c:9+ X→TRASH@a0XV (knows 0)",
		`a:5 N.title="x" (knows 3)`,
	} {
		short, _, _ := strings.Cut(text, "@")
		if !strings.Contains(text, "@") {
			short, _, _ = strings.Cut(text, " (")
		}
		_, known, _ := strings.Cut(text, " (knows ")
		op, err := parseOp(short+" (knows "+known, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := opText(op); got != text {
			t.Errorf("want %s, got %s", text, got)
		}
		if op.Kind == moveop.Move {
			if err := moveop.ValidateOrderKey(op.OrderKey); err != nil {
				t.Error(err)
			}
		}
	}
	for _, text := range []string{"", "a5 X→A", "a:x X→A", "a:5 X", "a:5 X=1", "a:5.x X→A", "ab:5 X→A", "a:5 X→A (knows z)"} {
		if op, err := parseOp(text, 0); err == nil {
			t.Errorf("%q is read as %s", text, opText(op))
		}
	}
	if _, err := parseTree("ROOT{A}}"); err == nil {
		t.Error("an unbalanced tree is read")
	}
}

func TestParseTree(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"ROOT", "ROOT{A}", "ROOT{A{B{C}},D}", "ROOT{A,B,C{D,E}}"} {
		ops, err := parseTree(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := replayAll(ops).Tree(); got != text {
			t.Errorf("want %s, got %s", text, got)
		}
	}
}

func TestOrders(t *testing.T) {
	t.Parallel()
	ops, err := parseOps("a:1 A→ROOT; a:2 B→ROOT; b:1 C→ROOT; b:2 D→ROOT", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		fifo        bool
		limit, want int
	}{{false, 0, 24}, {true, 0, 6}, {false, 7, 7}, {true, 100, 6}} {
		got := orders(ops, c.fifo, c.limit)
		seen := make(map[string]bool)
		for _, order := range got {
			seen[opsText(order)] = true
		}
		if len(got) != c.want || len(seen) != c.want {
			t.Errorf("fifo %t, limit %d: want %d orders, got %d, of which %d differ", c.fifo, c.limit, c.want, len(got), len(seen))
		}
	}
}

// TestStateCheck plants what Check must find.
func TestStateCheck(t *testing.T) {
	t.Parallel()
	ops, err := parseTree("ROOT{A{B},C}")
	if err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func(s *State){
		"circle": func(s *State) {
			s.Nodes[node("A")] = Placement{Parent: node("B")}
			s.Digest.State = s.hash()
		},
		"digest":  func(s *State) { s.Digest.State++ },
		"missing": func(s *State) { delete(s.Nodes, node("C")) },
	} {
		s := replayAll(ops)
		if err := s.Check(); err != nil {
			t.Fatal(err)
		}
		damage(&s)
		if err := s.Check(); err == nil {
			t.Errorf("%s: not found", name)
		}
		if Diff(replayAll(ops), s) == "" {
			t.Errorf("%s: no difference", name)
		}
	}
}
