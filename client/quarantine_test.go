package client_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// refusing is a server that refuses operations as long as it is told to, and a client that has a node
// refused, and a later title of another node.
func refusing(t *testing.T) (s *server, c *client.Client, path string, bad, titled moveop.NodeID) {
	t.Helper()
	s = newServer(t)
	path = filepath.Join(t.TempDir(), "replica")
	c = open(t, path, s.options())
	titled = create(t, c, moveop.Root, client.Last, "a")
	s.synced(t, c)
	s.hook(func(h *hooks) {
		h.push = func(p *peer, m wire.Push) bool {
			for _, op := range m.Ops {
				if op.Kind == moveop.Move && op.Node == bad || string(op.Value) == `"rude"` {
					p.nack(m.ID, wire.OpError(wire.CodeInvalidOp, op.TS, "this server does not like it"))
					return true
				}
			}
			return false
		}
	})
	edit(t, c, func(tx *client.Tx) (err error) {
		s.mu.Lock() // the hook reads bad
		defer s.mu.Unlock()
		bad, err = tx.Create(moveop.Root, client.Last)
		return err
	})
	edit(t, c, func(tx *client.Tx) error { return tx.Set(bad, "title", "b") })
	edit(t, c, func(tx *client.Tx) error { return tx.Set(titled, "title", "rude") })
	create(t, c, moveop.Root, client.Last, "c")
	if err := c.WaitSynced(t.Context()); !errors.Is(err, client.ErrRefused) {
		t.Fatalf("the error is %v", err)
	}
	if refused := quarantine(t, c); len(refused) != 2 {
		t.Fatalf("refused are %+v", refused)
	}
	wantOutline(t, c, "rude,b,c")
	return s, c, path, bad, titled
}

func quarantine(t testing.TB, c *client.Client) []client.Refusal {
	t.Helper()
	refused, err := c.Refused(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return refused
}

// Everything else goes on beside the quarantine, and it survives a restart.
func TestQuarantine(t *testing.T) {
	t.Parallel()
	s, c, path, bad, _ := refusing(t)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = open(t, path, s.options())
	create(t, c, moveop.Root, client.Last, "d")
	if err := c.WaitSynced(t.Context()); !errors.Is(err, client.ErrRefused) {
		t.Errorf("the error is %v", err)
	}
	other := s.join(t)
	if err := other.WaitSynced(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantOutline(t, other, "a,c,d")
	var out bytes.Buffer
	if err := c.ExportRefused(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	var first client.Refusal
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if err := json.Unmarshal([]byte(lines[0]), &first); err != nil {
		t.Fatal(err)
	}
	if len(lines) != 2 || first.Op.Node != bad || first.Code != wire.CodeInvalidOp ||
		first.Message != "this server does not like it" || first.Edit == 0 {
		t.Errorf("exported %s", out.String())
	}
}

// What the server takes after all, everybody sees.
func TestRetry(t *testing.T) {
	t.Parallel()
	s, c, _, _, _ := refusing(t)
	if err := c.Retry(t.Context()); err != nil { // still not
		t.Fatal(err)
	}
	if err := c.WaitSynced(t.Context()); !errors.Is(err, client.ErrRefused) || len(quarantine(t, c)) != 2 {
		t.Errorf("the error is %v, in quarantine %+v", err, quarantine(t, c))
	}
	s.hook(func(h *hooks) { h.push = nil })
	refused := quarantine(t, c)
	if err := c.Retry(t.Context(), refused[0].Op.TS, refused[0].Op.TS, moveop.MaxTimestamp); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitSynced(t.Context()); !errors.Is(err, client.ErrRefused) || len(quarantine(t, c)) != 1 {
		t.Errorf("the error is %v, in quarantine %+v", err, quarantine(t, c))
	}
	if err := c.Retry(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := s.join(t)
	s.synced(t, c, other)
	wantOutline(t, other, "rude,b,c")
}

// A value that was written over since must not come back on top.
func TestRetrySuperseded(t *testing.T) {
	t.Parallel()
	s, c, _, _, titled := refusing(t)
	edit(t, c, func(tx *client.Tx) error { return tx.Set(titled, "title", "polite") })
	s.hook(func(h *hooks) { h.push = nil })
	if err := c.Retry(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := s.join(t)
	s.synced(t, c, other)
	wantOutline(t, c, "polite,b,c")
	wantOutline(t, other, "polite,b,c")
}

// What is discarded was never there, for Undo and events neither.
func TestDiscard(t *testing.T) {
	t.Parallel()
	s, c, path, bad, titled := refusing(t)
	m := newMirror(t, c, path)
	if err := c.Discard(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.check()
	if m.kinds[client.Removed] != 1 || m.rereads > 0 {
		t.Errorf("changes %v, %d rereads", m.kinds, m.rereads)
	}
	wantOutline(t, c, "a,c")
	s.synced(t, c)
	if _, err := c.Node(t.Context(), bad); !errors.Is(err, client.ErrUnknownNode) {
		t.Errorf("the discarded node: %v", err)
	}
	undo(t, c) // c
	if skipped := undo(t, c); len(skipped) != 1 || skipped[0].Node != titled || skipped[0].Reason != client.SkipChanged {
		t.Errorf("undoing the discarded title skipped %+v", skipped)
	}
	s.synced(t, c)
	wantOutline(t, c, "a")
	if st := c.Status(); st.Refused != 0 || st.Pending != 0 {
		t.Errorf("status is %+v", st)
	}
}
