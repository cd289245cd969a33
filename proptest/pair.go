package proptest

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/canopysync/canopy/moveop"
)

// pair is an engine and the model that it must agree with, fed alike.
type pair struct {
	engine Engine
	model  Engine
}

// newPair returns a pair that lasts as long as the test.
func (s Suite) newPair(t testing.TB, policy Policy) *pair {
	p := s.open(t, policy)
	t.Cleanup(func() {
		if err := p.close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// withPair runs fn on a pair of its own.
func (s Suite) withPair(t testing.TB, policy Policy, fn func(p *pair) error) error {
	p := s.open(t, policy)
	return errors.Join(fn(p), p.close())
}

func (s Suite) open(t testing.TB, policy Policy) *pair {
	p := &pair{engine: s.New(t, policy), model: NewModel()}
	if _, ok := p.engine.(ServerEngine); ok {
		p.model = NewServer(policy)
	}
	return p
}

func (p *pair) close() error {
	if closer, ok := p.engine.(io.Closer); ok {
		return closer.Close()
	}
	return nil
}

// apply applies a batch to both and compares the answers and the states.
func (p *pair) apply(batch []moveop.Op) error {
	if err := p.answer(batch); err != nil {
		return err
	}
	if err := p.compareStates(); err != nil {
		return fmt.Errorf("after batch\n%s%w", opsText(batch), err)
	}
	return nil
}

// answer applies a batch to both and compares the answers.
func (p *pair) answer(batch []moveop.Op) error {
	want, wantErr := p.model.Apply(slices.Clone(batch))
	got, gotErr := p.engine.Apply(slices.Clone(batch))
	for _, refusal := range []error{ErrConflict, ErrOutOfOrder, ErrInvalid} {
		if errors.Is(wantErr, refusal) != errors.Is(gotErr, refusal) {
			return fmt.Errorf("batch\n%swant error %v, got %v", opsText(batch), wantErr, gotErr)
		}
	}
	if wantErr == nil && gotErr != nil {
		return fmt.Errorf("batch\n%swant no error, got %w", opsText(batch), gotErr)
	}
	if !slices.Equal(want, got) {
		return fmt.Errorf("batch\n%swant results %v, got %v", opsText(batch), want, got)
	}
	return nil
}

// compare compares all that can be seen of both.
func (p *pair) compare() error {
	return cmp.Or(p.compareStates(), p.compareLogs(), p.compareChildren())
}

func (p *pair) compareStates() error {
	want, err := p.model.State()
	if err != nil {
		return fmt.Errorf("state of the model: %w", err)
	}
	got, err := p.engine.State()
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	if err := got.Check(); err != nil {
		return err
	}
	if diff := Diff(want, got); diff != "" {
		return errors.New("the engine differs from the model:\n" + diff)
	}
	return nil
}

func (p *pair) compareLogs() error {
	server, ok := p.engine.(ServerEngine)
	if !ok {
		return nil
	}
	want, err := p.model.(ServerEngine).Log()
	if err != nil {
		return fmt.Errorf("log of the model: %w", err)
	}
	got, err := server.Log()
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	if w, g := opsText(want), opsText(got); w != g {
		return fmt.Errorf("want log\n%sgot log\n%s", w, g)
	}
	return nil
}

func (p *pair) compareChildren() error {
	reader, ok := p.engine.(ChildReader)
	if !ok {
		return nil
	}
	want, err := p.model.State()
	if err != nil {
		return fmt.Errorf("state of the model: %w", err)
	}
	parents := map[moveop.NodeID]bool{moveop.Root: true, moveop.Trash: true}
	for n, placement := range want.Nodes {
		parents[n], parents[placement.Parent] = true, true
	}
	for parent := range parents {
		got, err := reader.Children(parent)
		if err != nil {
			return fmt.Errorf("children of %s: %w", nodeName(parent), err)
		}
		if w := want.Children(parent); !slices.Equal(w, got) {
			return fmt.Errorf("children of %s: want %s, got %s", nodeName(parent), nodeNames(w), nodeNames(got))
		}
	}
	return nil
}

func nodeNames(nodes []moveop.NodeID) string {
	var names []string
	for _, n := range nodes {
		names = append(names, nodeName(n))
	}
	return "[" + strings.Join(names, " ") + "]"
}

// repeat applies batches that were applied before once more: nothing may change, not a byte of what is kept.
func (p *pair) repeat(batches ...[]moveop.Op) error {
	before, err := p.model.State()
	if err != nil {
		return fmt.Errorf("state of the model: %w", err)
	}
	kept, err := p.dump()
	if err != nil {
		return err
	}
	for _, batch := range batches {
		if err := p.answer(batch); err != nil {
			return fmt.Errorf("repeated: %w", err)
		}
	}
	if err := p.compare(); err != nil {
		return fmt.Errorf("repeated: %w", err)
	}
	after, err := p.model.State()
	if err != nil {
		return fmt.Errorf("state of the model: %w", err)
	}
	if diff := Diff(before, after); diff != "" {
		return fmt.Errorf("repeating the ops changed the model:\n%s", diff)
	}
	rewritten, err := p.dump()
	if err != nil {
		return err
	}
	if !slices.Equal(kept, rewritten) {
		return fmt.Errorf("repeating the ops changed what is kept:\n%s", diffLines(kept, rewritten))
	}
	return nil
}

// dump returns what the engine keeps, nil if it keeps nothing.
func (p *pair) dump() ([]string, error) {
	dumper, ok := p.engine.(Dumper)
	if !ok {
		return nil, nil
	}
	rows, err := dumper.Dump()
	if err != nil {
		return nil, fmt.Errorf("dump: %w", err)
	}
	return rows, nil
}

// diffLines says which lines are only in one of two lists.
func diffLines(before, after []string) string {
	var b strings.Builder
	for _, side := range []struct {
		name         string
		lines, other []string
	}{{"before", before, after}, {"after", after, before}} {
		for _, line := range side.lines {
			if !slices.Contains(side.other, line) {
				fmt.Fprintf(&b, "%s: %s\n", side.name, line)
			}
		}
	}
	return b.String()
}
