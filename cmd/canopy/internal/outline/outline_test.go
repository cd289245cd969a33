package outline_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"testing/iotest"

	"github.com/canopysync/canopy/cmd/canopy/internal/outline"
	"github.com/canopysync/canopy/moveop"
)

// format is one of the two forms that are read and written.
type format struct {
	name  string
	read  func(text string) outline.Entries
	write func(dst *bytes.Buffer, doc outline.Document) (outline.Writer, error)
}

var formats = []format{
	{"json",
		func(text string) outline.Entries { return outline.ReadJSON(strings.NewReader(text)) },
		func(dst *bytes.Buffer, doc outline.Document) (outline.Writer, error) {
			return outline.NewJSON(dst, doc, false)
		}},
	{"opml",
		func(text string) outline.Entries { return outline.ReadOPML(strings.NewReader(text)) },
		func(dst *bytes.Buffer, doc outline.Document) (outline.Writer, error) {
			return outline.NewOPML(dst, doc)
		}},
}

// node is a line of a tree in depth-first order.
type node struct {
	depth int
	props outline.Props
}

// collect reads a document into the properties of the root and its nodes.
func collect(entries outline.Entries) (root outline.Props, nodes []node, err error) {
	root = outline.Props{}
	open := map[int]outline.Props{0: root}
	for e, err := range entries {
		if err != nil {
			return nil, nil, err
		}
		if e.New {
			open[e.Depth] = outline.Props{}
			nodes = append(nodes, node{e.Depth, open[e.Depth]})
		}
		for key, value := range e.Props {
			open[e.Depth][key] = value
		}
	}
	return root, nodes, nil
}

func render(t testing.TB, f format, root outline.Props, nodes []node) string {
	t.Helper()
	var buf bytes.Buffer
	w, err := f.write(&buf, outline.Document{Room: `a "room" <&>`, Props: root})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		if err := w.Node(n.depth, outline.Node{Props: n.props}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

// form is a tree as text that can be compared.
func form(root outline.Props, nodes []node) string {
	var b strings.Builder
	line := func(depth int, p outline.Props) {
		text, err := json.Marshal(p)
		if err != nil {
			panic(err)
		}
		fmt.Fprintf(&b, "%d %s\n", depth, text)
	}
	line(0, root)
	for _, n := range nodes {
		line(n.depth, n.props)
	}
	return b.String()
}

func seed(t *testing.T) *rand.Rand {
	n := rand.Uint64()
	if text := os.Getenv("CANOPY_SEED"); text != "" {
		var err error
		if n, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("CANOPY_SEED=%d", n)
	return rand.New(rand.NewPCG(n, 0))
}

var keys = []string{"name", "text", "title", "size", "_status", "xmlns", "XMLthing", "a b", "ümlaut", "\uffff"}

var values = []string{
	`""`, `"a"`, `"line\nbreak\ttab"`, `" spaces  "`, `"\u0000"`, `"\ud800"`, "\"\uffff\"", `"\u003c\u0026\u003e'\""`,
	`"\u0041"`, `0`, `1.50`, `true`, `[1,[2]]`, `{"b":1,"a":null}`, `"` + strings.Repeat("long ", 100) + `"`,
}

func randomProps(rng *rand.Rand) outline.Props {
	p := outline.Props{}
	for range rng.IntN(4) {
		p[keys[rng.IntN(len(keys))]] = json.RawMessage(values[rng.IntN(len(values))])
	}
	return p
}

func randomTree(rng *rand.Rand) (outline.Props, []node) {
	var nodes []node
	depth := 0
	for range rng.IntN(30) {
		depth = 1 + rng.IntN(depth+1)
		nodes = append(nodes, node{depth, randomProps(rng)})
	}
	return randomProps(rng), nodes
}

func TestWhatIsWrittenReadsBackAsItWas(t *testing.T) {
	t.Parallel()
	rng := seed(t)
	for i := range 2000 {
		root, nodes := randomTree(rng)
		for _, f := range formats {
			text := render(t, f, root, nodes)
			gotRoot, got, err := collect(f.read(text))
			if err != nil {
				t.Fatalf("%s, tree %d: %v\n%s", f.name, i, err, text)
			}
			// U+FFFF is spelled with an escape in XML: the same text, other bytes.
			want := strings.ReplaceAll(form(root, nodes), "\uffff", `\uffff`)
			if got := strings.ReplaceAll(form(gotRoot, got), "\uffff", `\uffff`); got != want {
				t.Fatalf("%s, tree %d: read\n%s\nwant\n%s\nfrom\n%s", f.name, i, got, want, text)
			}
		}
	}
}

func TestADeepChainIsNoDeeperThanAny(t *testing.T) {
	t.Parallel()
	const depth = 100_000
	nodes := make([]node, depth)
	for i := range nodes {
		nodes[i] = node{depth: i + 1}
	}
	for _, f := range formats {
		text := render(t, f, nil, nodes)
		_, got, err := collect(f.read(text))
		if err != nil || len(got) != depth || got[depth-1].depth != depth {
			t.Errorf("%s: read %d nodes, %v", f.name, len(got), err)
		}
		if limit := depth * 120; len(text) > limit {
			t.Errorf("%s: %d bytes for a chain of %d", f.name, len(text), depth)
		}
	}
}

func TestJSONForm(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	w, err := outline.NewJSON(&buf, outline.Document{Room: "r", Props: outline.Props{"a": json.RawMessage(`1`)}}, true)
	if err != nil {
		t.Fatal(err)
	}
	for depth, id := range map[int]moveop.NodeID{1: {15: 9}} {
		if err := w.Node(depth, outline.Node{ID: id, Props: outline.Props{"name": json.RawMessage(`"x"`)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	const want = `{"format":"canopy-tree","version":1,"room":"r","props":{"a":1},"children":[
 {"id":"00000000-0000-0000-0000-000000000009","props":{"name":"x"}}
]}
`
	if buf.String() != want {
		t.Errorf("wrote\n%s\nwant\n%s", buf.String(), want)
	}
}

func TestOPMLForm(t *testing.T) {
	t.Parallel()
	got := render(t, formats[1], nil, []node{
		{1, outline.Props{"name": json.RawMessage(`"top"`), "size": json.RawMessage(`3`)}},
		{2, outline.Props{"text": json.RawMessage(`"x"`)}},
	})
	const want = `<?xml version="1.0" encoding="UTF-8"?>
<opml version="2.0" xmlns:canopy="https://canopysync.github.io/ns/opml">
<head><title>a &#34;room&#34; &lt;&amp;&gt;</title></head>
<body>
 <outline text="top" canopy:props="{&#34;size&#34;:3}">
  <outline text="" name="x"/>
 </outline>
</body>
</opml>
`
	if got != want {
		t.Errorf("wrote\n%s\nwant\n%s", got, want)
	}
}

func TestReadsWhatOthersWrite(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ entries, want any }{
		"opml with a charset, comments, foreign elements": {
			formats[1].read(`<?xml version="1.0" encoding="ISO-8859-1"?><!-- c --><opml version="1.0"><head><title>t</title>
				<outline text="not here"/></head><body><outline text="` + "caf\xe9" + `" type="rss" o:x="1" xmlns:o="urn:o">
				<o:outline text="no"><outline text="no"/></o:outline><outline text="two"/></outline></body></opml>`),
			"0 {}\n1 {\"name\":\"café\",\"type\":\"rss\"}\n2 {\"name\":\"two\"}\n",
		},
		"json with members in any order": {
			formats[0].read(`{"children":[{"children":[{"props":{"a":1}}],"props":{"b":2},"id":"x"}],"props":{"c":3}}`),
			"0 {\"c\":3}\n1 {\"b\":2}\n2 {\"a\":1}\n",
		},
		"json, empty": {formats[0].read(`{}`), "0 {}\n"},
	} {
		root, nodes, err := collect(tt.entries.(outline.Entries))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := form(root, nodes); got != tt.want {
			t.Errorf("%s: read\n%s\nwant\n%s", name, got, tt.want)
		}
	}
}

func TestRefusesWhatIsMalformed(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		``, `[]`, `{`, `{"children":[`, `{"children":[1]}`, `{"children":{}}`, `{"childern":[]}`, `{"props":[]}`,
		`{"format":"other"}`, `{"version":2}`, `{"children":[{"version":1}]}`, `{} {}`, `{"id":7}`, `{"props":{"a":}}`,
	} {
		if _, _, err := collect(formats[0].read(text)); !errors.Is(err, outline.ErrFormat) {
			t.Errorf("json %s: %v", text, err)
		}
	}
	for _, text := range []string{
		``, `text`, `<html/>`, `<opml>`, `<opml/>`, `<opml><body><outline></body></opml>`, `<opml><body>&nope;</body></opml>`,
		`<opml xmlns:canopy="https://canopysync.github.io/ns/opml"><body canopy:props="["/></opml>`,
		`<?xml version="1.0" encoding="klingon"?><opml/>`,
	} {
		if _, _, err := collect(formats[1].read(text)); !errors.Is(err, outline.ErrFormat) {
			t.Errorf("opml %s: %v", text, err)
		}
	}
}

func TestReadErrorsComeThrough(t *testing.T) {
	t.Parallel()
	broken := errors.New("disk on fire")
	for _, entries := range []outline.Entries{
		outline.ReadJSON(iotest.ErrReader(broken)), outline.ReadOPML(iotest.ErrReader(broken)),
	} {
		if _, _, err := collect(entries); !errors.Is(err, broken) {
			t.Errorf("%v", err)
		}
	}
	if _, _, err := collect(outline.ReadDir(os.DirFS(t.TempDir() + "/missing"))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func TestReadingStopsWhereTheLoopDoes(t *testing.T) {
	t.Parallel()
	text := `{"children":[{},{},{}]}`
	files := fstest.MapFS{"a": {}, "b": {}, "c": {}}
	for _, entries := range []outline.Entries{
		formats[0].read(text), formats[1].read(`<opml><body><outline/><outline/></body></opml>`), outline.ReadDir(files),
	} {
		n := 0
		for _, err := range entries {
			if err != nil {
				t.Fatal(err)
			}
			n++
			break
		}
		if n != 1 {
			t.Errorf("%d entries", n)
		}
	}
}

func TestReadDir(t *testing.T) {
	t.Parallel()
	_, nodes, err := collect(outline.ReadDir(fstest.MapFS{
		"b/two.txt":  {Data: []byte("12"), Mode: 0o644},
		"b/one.txt":  {Data: []byte("1"), Mode: 0o600},
		"a":          {Data: nil, Mode: 0o755},
		"c\xff":      {Data: nil, Mode: 0o644},
		"link":       {Data: []byte("a"), Mode: fs.ModeSymlink | 0o777},
		"b/d/e/f.go": {Data: []byte("123"), Mode: 0o444},
	}))
	if err != nil {
		t.Fatal(err)
	}
	const want = `0 {}
1 {"mode":"-rwxr-xr-x","name":"a","size":0}
1 {"mode":"dr-xr-xr-x","name":"b"}
2 {"mode":"dr-xr-xr-x","name":"d"}
3 {"mode":"dr-xr-xr-x","name":"e"}
4 {"mode":"-r--r--r--","name":"f.go","size":3}
2 {"mode":"-rw-------","name":"one.txt","size":1}
2 {"mode":"-rw-r--r--","name":"two.txt","size":2}
1 {"mode":"-rw-r--r--","name":"c\ufffd","size":0}
1 {"mode":"Lrwxrwxrwx","name":"link"}
`
	if got := strings.ReplaceAll(form(nil, nodes), "0 null\n", "0 {}\n"); got != want {
		t.Errorf("read\n%s\nwant\n%s", got, want)
	}
}

func TestWriterRefusesALeap(t *testing.T) {
	t.Parallel()
	for _, f := range formats {
		w, err := f.write(new(bytes.Buffer), outline.Document{})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Node(2, outline.Node{}); err == nil {
			t.Errorf("%s: depth 2 without a parent", f.name)
		}
	}
}

// Properties that no replica takes are refused, with the place where they are.
func TestRefusesWhatNoReplicaTakes(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("k", 256)
	for i, texts := range [][]string{
		{`{"props":{"":1}}`, `{"props":{"` + long + `":1}}`, `{"props":{"a":` + strings.Repeat("[", 65) + strings.Repeat("]", 65) + `}}`},
		{`<opml><body><outline ` + long + `="1"/></body></opml>`},
	} {
		for _, text := range texts {
			_, _, err := collect(formats[i].read(text))
			if !errors.Is(err, outline.ErrFormat) || !strings.Contains(err.Error(), []string{"at byte ", "at line 1, column "}[i]) {
				t.Errorf("%s %s: %v", formats[i].name, text, err)
			}
		}
	}
	if _, _, err := collect(formats[0].read(`{"props":{"a": [ 1 ] }}`)); err != nil {
		t.Error(err)
	}
}

// FuzzRead's oracle: what is read is a tree, and it is the same tree when it was written and read again.
func FuzzRead(f *testing.F) {
	f.Add(`{"props":{"a":1},"children":[{"props":{"name":"x"}},{"children":[{}]}]}`)
	f.Add(`<opml xmlns:canopy="https://canopysync.github.io/ns/opml"><body><outline text="a" canopy:props='{"b":1}'/></body></opml>`)
	f.Fuzz(func(t *testing.T, text string) {
		for _, form := range formats {
			root, nodes, err := collect(form.read(text))
			if err != nil {
				continue
			}
			again := render(t, form, root, nodes)
			root2, nodes2, err := collect(form.read(again))
			if err != nil {
				t.Fatalf("%s: %v\n%s", form.name, err, again)
			}
			if twice := render(t, form, root2, nodes2); twice != again {
				t.Fatalf("%s: wrote\n%s\nand then\n%s", form.name, again, twice)
			}
		}
	})
}
