package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/gorilla/websocket"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/pgfuncs/pgtest"
	"github.com/canopysync/canopy/realtime/wire"
)

// garden is a small document with every kind of value in it.
const garden = `{"format":"canopy-tree","version":1,"room":"garden","props":{"title":"Garden"},"children":[
 {"props":{"name":"beds","size":2},"children":[
  {"props":{"name":"tulips","tags":["red",null],"text":"\u003cb\u003e\u0001"},"children":[
   {"props":{}}
  ]},
  {"props":{"name":"roses"}}
 ]},
 {"props":{"name":"shed"}}
]}
`

// withGarden returns services with the document in the room garden.
func withGarden(t *testing.T) *world {
	t.Helper()
	w := setup(t)
	var done imported
	parseJSON(t, w.must("import", "garden", write(t, "garden.json", garden), "--json"), &done)
	if done != (imported{Room: "garden", Nodes: 5, Props: 8, Seq: 13}) {
		t.Fatalf("%+v", done)
	}
	return w
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDocumentsGoThroughARoomUnchanged(t *testing.T) {
	t.Parallel()
	w := withGarden(t)
	if got := w.must("export", "garden"); got != garden {
		t.Errorf("exported\n%s\nwant\n%s", got, garden)
	}
	for _, format := range []string{"json", "opml"} {
		path := filepath.Join(t.TempDir(), "garden."+format)
		w.must("export", "garden", "-o", path)
		w.must("import", "copy-"+format, path)
		want := strings.Replace(garden, `"room":"garden"`, `"room":"copy-`+format+`"`, 1)
		if got := w.must("export", "copy-"+format); got != want {
			t.Errorf("%s: exported\n%s\nwant\n%s", format, got, want)
		}
	}
}

func TestImportFromStandardInputBelowANode(t *testing.T) {
	t.Parallel()
	w := withGarden(t)
	var doc exportedNode
	parseJSON(t, w.must("export", "garden", "--ids"), &doc)
	shed := doc.Children[1].ID.String()
	opml := `<opml version="2.0"><body><outline text="rake"/><outline text="hoe"/></body></opml>`
	if r := w.canopyIn(t.Context(), strings.NewReader(opml), "import", "garden", "-", "--format=opml", "--parent="+shed); r.code != 0 {
		t.Fatal(r.stderr)
	}
	const want = `{"format":"canopy-tree","version":1,"room":"garden","props":{"name":"shed"},"children":[
 {"props":{"name":"rake"}},
 {"props":{"name":"hoe"}}
]}
`
	if got := w.must("export", "garden", "--parent="+shed); got != want {
		t.Errorf("exported\n%s\nwant\n%s", got, want)
	}
	nobody := moveop.NodeID{1}.String()
	for _, args := range [][]string{
		{"export", "garden", "--parent=" + nobody}, {"import", "garden", t.TempDir(), "--parent=" + nobody},
	} {
		args = append(args, "--format=auto")
		if args[0] == "import" {
			args[2] = filepath.Dir(write(t, "file", "x"))
		}
		if r := w.canopy(args...); r.code != exitFailure {
			t.Errorf("%v: exit code %d: %s", args, r.code, r.stderr)
		}
	}
}

// More siblings than fit into a batch, then deeper nodes, then siblings again: the order is the
// document's.
func TestImportKeepsTheOrderAcrossBatches(t *testing.T) {
	t.Parallel()
	w := setup(t)
	var doc bytes.Buffer
	doc.WriteString(`{"format":"canopy-tree","version":1,"room":"wide","props":{},"children":[` + "\n")
	for i := range 2 * importBatch {
		if i > 0 {
			doc.WriteString(",\n")
		}
		node, _ := json.Marshal(map[string]int{"name": i})
		doc.WriteString(` {"props":` + string(node))
		if i%700 == 0 {
			doc.WriteString(",\"children\":[\n  {\"props\":{}},\n  {\"props\":{}}\n ]")
		}
		doc.WriteString("}")
	}
	doc.WriteString("\n]}\n")
	w.must("import", "wide", write(t, "wide.json", doc.String()))
	if got := w.must("export", "wide"); got != doc.String() {
		t.Errorf("exported %d bytes, imported %d: not the same", len(got), doc.Len())
	}
}

func TestNothingOfAMalformedDocumentIsImported(t *testing.T) {
	t.Parallel()
	w := setup(t)
	for name, text := range map[string]string{
		"cut.json":     garden[:len(garden)-10],
		"long.json":    `{"children":[{"props":{"name":"x"}},{"props":{"` + strings.Repeat("k", 300) + `":1}}]}`,
		"unclosed.xml": `<opml><body><outline text="a"></body></opml>`,
	} {
		r := w.canopy("import", "garden", write(t, name, text))
		if r.code != exitBadInput || !strings.Contains(r.stderr, name+": malformed document") {
			t.Errorf("%s: exit code %d: %s", name, r.code, r.stderr)
		}
	}
	if r := w.canopy("room", "stats", "garden"); r.code != exitUnknownRoom {
		t.Errorf("the room: exit code %d: %s", r.code, r.stderr)
	}
}

func TestOfNothingNoRoomIsMade(t *testing.T) {
	t.Parallel()
	w := setup(t)
	for _, path := range []string{t.TempDir(), write(t, "empty.json", `{}`), write(t, "empty.opml", `<opml><body/></opml>`)} {
		var got imported
		if parseJSON(t, w.must("import", "garden", path, "--json"), &got); got != (imported{Room: "garden"}) {
			t.Errorf("%s: %+v", path, got)
		}
	}
}

// What was read from standard input before it turned out to be malformed is told, as it is at the end.
func TestAnImportThatEndsEarlySaysWhatItHasDone(t *testing.T) {
	t.Parallel()
	w := setup(t)
	doc := `{"children":[` + strings.Repeat(`{"props":{"name":"x"}},`, 2*importBatch) + `?`
	r := w.canopyIn(t.Context(), strings.NewReader(doc), "import", "garden", "-", "--format=json")
	if r.code != exitBadInput || !strings.Contains(r.stderr, "the 2000 nodes before it are in room garden") {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
	var stats wire.Stats
	if parseJSON(t, w.must("room", "stats", "garden", "--json"), &stats); stats.Nodes != 2*importBatch {
		t.Errorf("the room has %d nodes", stats.Nodes)
	}
}

func TestAReplicaFileIsUsedAgain(t *testing.T) {
	t.Parallel()
	w := withGarden(t)
	file := filepath.Join(t.TempDir(), "replica")
	first := w.must("export", "garden", "--file", file)
	w.must("import", "garden", write(t, "more.json", `{"children":[{"props":{"name":"pond"}}]}`), "--file", file)
	second := w.must("export", "garden", "--file", file)
	if first == second || !strings.Contains(second, "pond") {
		t.Errorf("first %s, then %s", first, second)
	}
	if r := w.canopy("export", "other", "--file", file); r.code != exitUnknownRoom {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
	if r := w.canopy("import", "other", write(t, "x.json", `{}`), "--file", file); r.code != exitFailure {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
	if r := w.canopy("export", "garden", "--file", write(t, "foreign", "this is a diary")); r.code != exitBadInput {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
}

func TestARoomThatIsNotThere(t *testing.T) {
	t.Parallel()
	w := setup(t)
	out := filepath.Join(t.TempDir(), "out")
	for _, args := range [][]string{
		{"export", "nowhere", "-o", out}, {"room", "stats", "nowhere"}, {"tail", "nowhere"},
		{"snapshot", "export", "nowhere", "-o", out}, {"room", "stats", "nowhere", "--database-url", w.database},
		{"room", "set", "nowhere", "--restore-on=never", "--database-url", w.database},
	} {
		if r := w.canopy(args...); r.code != exitUnknownRoom || r.stdout != "" {
			t.Errorf("%v: exit code %d, stdout %q, stderr %q", args, r.code, r.stdout, r.stderr)
		}
	}
	if _, err := os.Stat(out); !os.IsNotExist(err) {
		t.Errorf("%s is there: %v", out, err)
	}
}

// A room that is not there, and a service that is another one, are told apart.
func TestAnotherService(t *testing.T) {
	t.Parallel()
	w := withGarden(t)
	page := httptest.NewServer(http.NotFoundHandler())
	defer page.Close()
	for _, args := range [][]string{
		{"export", "garden", "--realtime-url", page.URL}, {"room", "stats", "garden", "--realtime-url", w.realtime + "/elsewhere"}, {"tail", "garden", "--realtime-url", w.bootstrap},
		{"snapshot", "export", "garden", "-o", "-", "--bootstrap-url", w.realtime},
	} {
		if r := w.canopy(args...); r.code != exitFailure || !strings.Contains(r.stderr, "is it the service of --") {
			t.Errorf("%v: exit code %d, stderr %q", args, r.code, r.stderr)
		}
	}
}

func TestServicesThatAreNotThere(t *testing.T) {
	t.Parallel()
	away := map[string]string{"CANOPY_REALTIME_URL": "http://127.0.0.1:1", "CANOPY_BOOTSTRAP_URL": "http://127.0.0.1:1"}
	dir := t.TempDir()
	for _, args := range [][]string{
		{"export", "garden"}, {"import", "garden", dir}, {"room", "stats", "garden"}, {"tail", "garden"},
		{"snapshot", "export", "garden", "-o", filepath.Join(dir, "out")}, {"demo", "--realtime-url=http://127.0.0.1:1", "--bootstrap-url=http://127.0.0.1:1"},
		{"room", "list", "--database-url=postgres://127.0.0.1:1/x"},
		{"room", "set", "garden", "--restore-on=move", "--create", "--database-url=postgres://127.0.0.1:1/x"}, {"migrate", "up", "--database-url=postgres://127.0.0.1:1/x"},
		{"serve", "realtime", "--addr=127.0.0.1:0", "--insecure-no-auth", "--database-url=postgres://127.0.0.1:1/x"},
	} {
		if r := command(t.Context(), nil, away, args...); r.code != exitUnavailable || r.stdout != "" {
			t.Errorf("%v: exit code %d, stdout %q, stderr %q", args, r.code, r.stdout, r.stderr)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v %v", entries, err)
	}
}

// A connection that breaks for good ends an import after a while, with a word about what is left.
func TestImportGivesUpWithoutAConnection(t *testing.T) {
	t.Parallel()
	w := withGarden(t)
	file := filepath.Join(t.TempDir(), "replica")
	w.must("export", "garden", "--file", file)
	c, url := newCable(t, w.realtime)
	// The first request is the check that the service is there.
	c.limit(1)
	r := w.canopy("import", "garden", write(t, "more.json", `{"children":[{}]}`), "--file", file, "--realtime-url", url, "--patience=300ms")
	if r.code != exitUnavailable || !strings.Contains(r.stderr, "no connection for 300ms") {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
}

func TestInterruptedCommandsSaySo(t *testing.T) {
	t.Parallel()
	w := withGarden(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(interrupted{os.Interrupt})
	out := filepath.Join(t.TempDir(), "out")
	for _, args := range [][]string{
		{"export", "garden", "-o", out}, {"import", "garden", t.TempDir()}, {"snapshot", "export", "garden", "-o", out},
		{"dev", "--data-dir", t.TempDir(), "--realtime-addr=127.0.0.1:0", "--bootstrap-addr=127.0.0.1:0"},
	} {
		if r := w.canopyIn(ctx, nil, args...); r.code != exitInterrupted {
			t.Errorf("%v: exit code %d: %s", args, r.code, r.stderr)
		}
	}
}

// Nothing comes on standard input, nor does its end: interrupting does not wait for it.
func TestInterruptedWhileWaitingForInput(t *testing.T) {
	t.Parallel()
	w := setup(t)
	for _, args := range [][]string{{"import", "garden", "-", "--format=json"}, {"snapshot", "verify", "-"}, {"token", "inspect"}} {
		ctx, cancel := context.WithCancelCause(t.Context())
		in, out := io.Pipe()
		done := make(chan result, 1)
		go func() { done <- w.canopyIn(ctx, in, args...) }()
		if _, err := out.Write([]byte(" ")); err != nil { // which is read: it waits for more
			t.Fatal(err)
		}
		cancel(interrupted{os.Interrupt})
		if r := <-done; r.code != exitInterrupted {
			t.Errorf("%v: exit code %d: %s", args, r.code, r.stderr)
		}
		_ = out.Close()
	}
}

func TestSnapshots(t *testing.T) {
	t.Parallel()
	w := withGarden(t)
	path := filepath.Join(t.TempDir(), "garden.canopy")
	if out := w.must("snapshot", "export", "garden", "-o", path); !strings.Contains(out, "at seq 13") {
		t.Errorf("export: %s", out)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if out := w.must("snapshot", "export", "garden", "-o", "-"); !strings.HasPrefix(out, "CANOPYS1") {
		t.Errorf("standard output is %.20q", out)
	}
	if out := w.must("snapshot", "verify", path); !strings.Contains(out, "good snapshot of room garden") {
		t.Errorf("verify: %s", out)
	}
	if out := w.must("snapshot", "inspect", path); !strings.Contains(out, "5 rows") || !strings.Contains(out, "8 rows") {
		t.Errorf("inspect: %s", out)
	}
	ops := strings.Split(strings.TrimSpace(w.must("snapshot", "inspect", "--ops", path)), "\n")
	var op moveop.Op
	if parseJSON(t, ops[0], &op); len(ops) != 13 || op.Kind != moveop.Move || op.Seq == 0 {
		t.Errorf("%d ops, the first one %+v", len(ops), op)
	}
	if r := w.canopyIn(t.Context(), bytes.NewReader(whole), "snapshot", "verify", "-"); r.code != 0 {
		t.Errorf("verify of standard input: %s", r.stderr)
	}
}

func TestDamagedSnapshots(t *testing.T) {
	t.Parallel()
	w := withGarden(t)
	whole := w.must("snapshot", "export", "garden", "-o", "-")
	flipped := []byte(whole)
	flipped[len(flipped)*2/3] ^= 1
	for name, text := range map[string]string{
		"cut": whole[:len(whole)-1], "flipped": string(flipped), "longer": whole + "x", "other": garden, "empty": "",
	} {
		path := write(t, name, text)
		r := w.canopy("snapshot", "verify", path)
		if r.code != exitBadInput || r.stdout != "" {
			t.Errorf("verify %s: exit code %d: %s", name, r.code, r.stderr)
		}
		var v verified
		if parseJSON(t, w.canopy("snapshot", "verify", path, "--json").stdout, &v); v.OK || v.Error == "" {
			t.Errorf("verify %s: %+v", name, v)
		}
		if r := w.canopy("snapshot", "inspect", path); r.code != exitBadInput {
			t.Errorf("inspect %s: exit code %d: %s", name, r.code, r.stderr)
		}
		if r := w.canopy("snapshot", "inspect", "--ops", path); r.code != exitBadInput {
			t.Errorf("inspect --ops %s: exit code %d: %s", name, r.code, r.stderr)
		}
	}
	if r := w.canopy("snapshot", "verify", "/nowhere/at/all"); r.code != exitFailure {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
}

func TestRooms(t *testing.T) {
	t.Parallel()
	w := withGarden(t)
	w.must("import", "attic", write(t, "attic.json", `{"children":[{}]}`))
	list := w.must("room", "list", "--database-url", w.database)
	if lines := strings.Split(strings.TrimSpace(list), "\n"); len(lines) != 3 || !strings.HasPrefix(lines[1], "attic") || !strings.HasPrefix(lines[2], "garden") {
		t.Errorf("list:\n%s", list)
	}
	var room wire.Room
	if parseJSON(t, w.must("room", "list", "--json", "--database-url", w.database), &room); room.Name != "attic" || room.Head != 1 {
		t.Errorf("%+v", room)
	}
	var byService, byDatabase wire.Stats
	parseJSON(t, w.must("room", "stats", "garden", "--json"), &byService)
	parseJSON(t, w.must("room", "stats", "garden", "--json", "--database-url", w.database), &byDatabase)
	if byService != byDatabase || byService.Nodes != 5 || byService.Ops != 13 {
		t.Errorf("the service has %+v, the database %+v", byService, byDatabase)
	}
	if out := w.must("room", "stats", "garden"); !strings.Contains(out, "nodes") {
		t.Errorf("stats: %s", out)
	}
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	db := map[string]string{"CANOPY_DATABASE_URL": pgtest.New(t, pgtest.Empty())}
	status := func() (m migrations) {
		parseJSON(t, command(t.Context(), nil, db, "migrate", "status", "--json").stdout, &m)
		return m
	}
	if m := status(); m.Current || len(m.Migrations) == 0 || !m.Migrations[0].AppliedAt.IsZero() {
		t.Errorf("before: %+v", m)
	}
	if r := command(t.Context(), nil, db, "migrate", "status"); r.code != 0 || !strings.Contains(r.stdout, "pending") || !strings.HasPrefix(r.stdout, "001_") {
		t.Errorf("before: %+v", r)
	}
	if r := command(t.Context(), nil, db, "serve", "bootstrap", "--addr=127.0.0.1:0", "--insecure-no-auth"); r.code != exitUnavailable {
		t.Errorf("serve before: %+v", r)
	}
	if r := command(t.Context(), nil, db, "migrate", "up"); r.code != 0 || !strings.Contains(r.stdout, "applied 001_") {
		t.Errorf("up: %+v", r)
	}
	var again migrations
	if parseJSON(t, command(t.Context(), nil, db, "migrate", "up", "--json").stdout, &again); !again.Current || len(again.Migrations) != 0 {
		t.Errorf("again: %+v", again)
	}
	if m := status(); !m.Current || m.Migrations[0].AppliedAt.IsZero() {
		t.Errorf("after: %+v", m)
	}
}

func TestTail(t *testing.T) {
	t.Parallel()
	w := withGarden(t)
	lines := strings.Split(strings.TrimSpace(w.must("tail", "garden", "--after=0", "-n", "13", "--json")), "\n")
	for i, text := range lines {
		var op moveop.Op
		if parseJSON(t, text, &op); op.Seq != int64(i+1) {
			t.Errorf("line %d has seq %d", i, op.Seq)
		}
	}
	if out := w.must("tail", "garden", "--after=11", "-n", "2"); strings.Count(out, "\n") != 2 || !strings.Contains(out, " set ") {
		t.Errorf("tail:\n%s", out)
	}
}

// A tail that is live, and loses its connection on the way, misses nothing.
func TestTailSurvivesALostConnection(t *testing.T) {
	t.Parallel()
	w := withGarden(t)
	c, url := newCable(t, w.realtime)
	seen := newLines()
	done := make(chan int, 1)
	go func() {
		done <- run(t.Context(), &Env{
			Stdin: strings.NewReader(""), Stdout: seen, Stderr: new(lockedBuffer), LookupEnv: func(string) (string, bool) { return "", false },
		}, []string{"tail", "garden", "--realtime-url", url, "--after", "12", "--json", "-n", "3"})
	}()
	seen.wait(t, 1)
	c.pull()
	w.must("import", "garden", write(t, "a.json", `{"children":[{}]}`))
	c.plug()
	seen.wait(t, 2)
	w.must("import", "garden", write(t, "b.json", `{"children":[{}]}`))
	if code := <-done; code != 0 {
		t.Errorf("exit code %d", code)
	}
	for i, text := range seen.wait(t, 3) {
		var op moveop.Op
		if parseJSON(t, text, &op); op.Seq != int64(13+i) {
			t.Errorf("line %d has seq %d", i, op.Seq)
		}
	}
}

// A service of a later version may say more than this one understands.
func TestTailIgnoresMessagesThatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	op := moveop.Op{Kind: moveop.Move, TS: moveop.NewTimestamp(1_700_000_000_000, 0, 1), Node: moveop.NodeID{9}, Parent: moveop.Root, OrderKey: "a0", Seq: 1}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/rooms/garden/ops", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(wire.OpsHeader{From: 1, To: 0, Epoch: "e"})
	})
	mux.HandleFunc("GET /v1/rooms/garden/ws", func(w http.ResponseWriter, r *http.Request) {
		conn, err := (&websocket.Upgrader{Subprotocols: []string{wire.SubprotocolJSON}}).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		_ = conn.WriteMessage(websocket.TextMessage, []byte(`{"type":"wave"}`))
		ops, _ := wire.JSON.Encode(wire.Ops{From: 1, To: 1, Ops: []moveop.Op{op}})
		_ = conn.WriteMessage(websocket.TextMessage, ops)
		for err == nil {
			_, _, err = conn.ReadMessage()
		}
	})
	web := httptest.NewServer(mux)
	t.Cleanup(web.Close)
	got := command(t.Context(), strings.NewReader(""), nil, "tail", "garden", "--realtime-url", web.URL, "-n", "1")
	if got.code != 0 || strings.Count(got.stdout, "\n") != 1 || got.stderr != "" {
		t.Errorf("exit code %d\n%s%s", got.code, got.stdout, got.stderr)
	}
}

func TestTailComesBackWhenAServerThatStopsSaysSo(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err  error
		want time.Duration // at least; the backoff adds less than a second
	}{
		{io.ErrUnexpectedEOF, 0},
		{&websocket.CloseError{Code: wire.CloseOverloaded, Text: wire.RestartReason(time.Minute)}, 0},
		{&websocket.CloseError{Code: wire.CloseRestart}, 0},
		{fmt.Errorf("read: %w", &websocket.CloseError{Code: wire.CloseRestart, Text: wire.RestartReason(time.Minute)}), time.Minute},
	} {
		tail := &tailer{retry: backoff.NewExponentialBackOff()}
		if got := tail.retryIn(tt.err); got < tt.want || got >= tt.want+time.Second {
			t.Errorf("%v: again in %v, want %v and a bit", tt.err, got, tt.want)
		}
	}
}

func TestOpLine(t *testing.T) {
	t.Parallel()
	ts := moveop.NewTimestamp(1_700_000_000_000, 0, 0x1234567800000000)
	for _, tt := range []struct {
		op   moveop.Op
		want string
	}{
		{moveop.Op{Kind: moveop.Move, TS: ts, Parent: moveop.Root, OrderKey: "a0"}, "move    …000000000000  to Root at a0"},
		{moveop.Op{Kind: moveop.Move, TS: ts, Parent: moveop.Trash}, "delete  …000000000000"},
		{moveop.Op{Kind: moveop.Move, TS: ts.Correction(), Parent: moveop.Root, Cause: ts}, "restore …000000000000  to Root, for the sake of " + ts.String()},
		{moveop.Op{Kind: moveop.Set, TS: ts, Key: "k", Value: json.RawMessage(`null`)}, "clear   …000000000000  k"},
		{moveop.Op{Kind: moveop.Set, TS: ts, Node: moveop.Root, Key: "k\x1b[2J", Value: json.RawMessage("\"\u009b\"")}, `set     Root  k\u001b[2J = "\u009b"`},
		{moveop.Op{Kind: moveop.Set, TS: ts, Node: moveop.Root, Key: "k", Value: json.RawMessage(`"` + strings.Repeat("x", 500) + `"`)}, `set     Root  k = "` + strings.Repeat("x", maxVisible-1) + "…"},
	} {
		if got := opLine(tt.op); !strings.HasSuffix(got, tt.want) {
			t.Errorf("%q, want it to end in %q", got, tt.want)
		}
	}
}

func TestOutputReplacesAFileOnlyWhenItIsComplete(t *testing.T) {
	t.Parallel()
	w := withGarden(t)
	dir := t.TempDir()
	path, link := filepath.Join(dir, "out.json"), filepath.Join(dir, "link.json")
	if err := os.WriteFile(path, []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("out.json", link); err != nil {
		t.Fatal(err)
	}
	if r := w.canopy("export", "nowhere", "-o", path); r.code != exitUnknownRoom {
		t.Errorf("exit code %d", r.code)
	}
	if text, _ := os.ReadFile(path); string(text) != "before" {
		t.Errorf("after a failure: %s", text)
	}
	w.must("export", "garden", "-o", link)
	if text, _ := os.ReadFile(path); string(text) != garden {
		t.Errorf("through a link: %s", text)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link was replaced: %v", err)
	}
	long := filepath.Join(t.TempDir(), strings.Repeat("n", 255))
	w.must("export", "garden", "-o", long)
	if text, _ := os.ReadFile(long); string(text) != garden {
		t.Errorf("with a long name: %s", text)
	}
	w.must("export", "garden", "-o", os.DevNull)
	if info, err := os.Stat(os.DevNull); err != nil || info.Mode()&os.ModeDevice == 0 {
		t.Errorf("%s was replaced: %v", os.DevNull, err)
	}
	if r := w.canopy("export", "garden", "-o", dir); r.code != exitUsage {
		t.Errorf("onto a directory: exit code %d: %s", r.code, r.stderr)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestProgressOnATerminal(t *testing.T) {
	t.Parallel()
	w := withGarden(t)
	var stdout, stderr lockedBuffer
	code := run(t.Context(), &Env{
		Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: &stderr, Terminal: true,
		LookupEnv: func(string) (string, bool) { return "", false },
	}, []string{"export", "garden", "--realtime-url", w.realtime, "--bootstrap-url", w.bootstrap})
	if code != 0 || stdout.String() != garden || !strings.Contains(stderr.String(), "garden") {
		t.Errorf("exit code %d, stderr %q", code, stderr.String())
	}
}

func TestDemo(t *testing.T) {
	t.Parallel()
	w := setup(t)
	var d demoResult
	parseJSON(t, w.must("demo", "--pause=0s", "--edits=50", "--seed=7", "--json", "--realtime-url", w.realtime, "--bootstrap-url", w.bootstrap), &d)
	if !d.Equal || d.Seed != 7 || len(d.People) != 3 || d.Server.Ops == 0 {
		t.Errorf("%+v", d)
	}
	out := w.must("demo", "--pause=0s", "--edits=50") // brings its own services
	if n := strings.Count(out, "all three have"); n != 4 || !strings.Contains(out, "All of them have the same tree.") {
		t.Errorf("the three were together %d times:\n%s", n, out)
	}
}

// A file that the server has refused nothing of, but that another program has open, is not waited for.
func TestALockedReplica(t *testing.T) {
	t.Parallel()
	w := withGarden(t)
	file := filepath.Join(t.TempDir(), "replica")
	c, err := client.Open(t.Context(), file, client.Options{Room: "garden"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if r := w.canopy("export", "garden", "--file", file); r.code != exitFailure || !strings.Contains(r.stderr, "in use") {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
}
