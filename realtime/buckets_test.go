package realtime_test

import (
	"bufio"
	"encoding/json"
	"net/http"
	"testing"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// spanOps reads GET …/buckets/ops.
func (s *service) spanOps(t *testing.T, span wire.Span) (ops []moveop.Op) {
	t.Helper()
	resp, err := s.http.Get(s.url("/v1/rooms/plan/buckets/ops?prefix=" + string(span)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/x-ndjson" {
		t.Fatalf("%q: %s", span, resp.Status)
	}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		var op moveop.Op
		if err := json.Unmarshal(lines.Bytes(), &op); err != nil {
			t.Fatal(err)
		}
		ops = append(ops, op)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return ops
}

// From the whole log down to single readings of the clock, every span has the ops that its parts have.
func TestGetBuckets(t *testing.T) {
	t.Parallel()
	s := setup(t, fast)
	room := s.seed("plan", 700)
	spans := []wire.Span{""}
	for digits := 0; digits < wire.MaxSpan; digits += 2 {
		var parts []wire.Span
		total := wire.Count{}
		for _, span := range spans {
			status, got := get[wire.Buckets](s, "/v1/rooms/plan/buckets?prefix="+string(span))
			if status != 200 || got.Epoch != room.Epoch || got.Seq != 700 {
				t.Fatalf("%q: %d %+v", span, status, got)
			}
			for _, b := range got.Buckets {
				parts = append(parts, b.Span)
				total.Ops += b.Ops
			}
		}
		if total.Ops != 700 {
			t.Errorf("%d digits: %d ops", digits+2, total.Ops)
		}
		spans = parts
	}
	var read []moveop.Op
	for _, span := range append(spans[:3], spans[len(spans)-1]) {
		ops := s.spanOps(t, span)
		if len(ops) == 0 || !span.Contains(ops[0].TS) {
			t.Errorf("%q: %d ops", span, len(ops))
		}
		read = append(read, ops...)
	}
	if all := s.spanOps(t, ""); len(all) != 700 || all[0].TS != read[0].TS || all[699].TS != read[len(read)-1].TS {
		t.Errorf("the whole log: %d ops", len(all))
	}
	for path, want := range map[string]int{
		"/v1/rooms/plan/buckets?prefix=0":       400,
		"/v1/rooms/plan/buckets?prefix=0G":      400,
		"/v1/rooms/plan/buckets/ops?prefix=xyz": 400,
		"/v1/rooms/none/buckets":                404,
		"/v1/rooms/none/buckets/ops":            404,
	} {
		if status, body := get[json.RawMessage](s, path); status != want {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
}
