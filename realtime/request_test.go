package realtime_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/canopysync/canopy/realtime"
	"github.com/canopysync/canopy/realtime/wire"
)

// lines keeps a log.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// about returns the lines with a message.
func (l *lines) about(t *testing.T, msg string) (found []map[string]any) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatal(err)
		}
		if fields["msg"] == msg {
			found = append(found, fields)
		}
	}
	return found
}

// Every line about a request, or a socket, says which one and in which room; replicas are named by what they do.
func TestLogsSayWhatTheyAreAbout(t *testing.T) {
	t.Parallel()
	log := new(lines)
	s := setup(t, fast, func(cfg *realtime.Config) { cfg.Logger = slog.New(slog.NewJSONHandler(log, nil)) })
	s.seed("plan", 1)
	p, _, err := s.socket("plan", wire.JSON, http.Header{"X-Request-Id": {"socket-1"}})
	if err != nil {
		t.Fatal(err)
	}
	p.hello(0xa, nil, 0)
	joined := log.about(t, "joined")
	if len(joined) != 1 || joined[0]["request"] != "socket-1" || joined[0]["room"] != "plan" || joined[0]["replica"] != "000000000000000a" {
		t.Errorf("joined: %v", joined)
	}
	s.store.set(func(f *fakeStore) { f.broken = http.ErrBodyNotAllowed })
	for given, want := range map[string]string{"ask-1": "ask-1", "": "", "no good\"": "", strings.Repeat("x", 65): ""} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url("/v1/rooms/plan/stats"), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Request-Id", given)
		before := len(log.about(t, "read stats"))
		var id string
		for len(log.about(t, "read stats")) == before { // of many faults, some are logged
			resp, err := s.http.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if id = resp.Header.Get("X-Request-Id"); id == "" || want != "" && id != want || want == "" && id == given {
				t.Fatalf("given %q, the answer has %q", given, id)
			}
		}
		found := log.about(t, "read stats")
		if last := found[len(found)-1]; last["request"] != id || last["room"] != "plan" {
			t.Errorf("%v, want %s", last, id)
		}
	}
}
