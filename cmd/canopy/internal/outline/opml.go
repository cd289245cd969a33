package outline

import (
	"bufio"
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/html/charset"

	"github.com/canopysync/canopy/moveop"
)

// namespace is where the attribute lives that keeps what OPML has no way to say.
const namespace = "https://canopysync.github.io/ns/opml"

// ReadOPML reads an OPML document. Each outline element is a node:
//
//   - its attribute text is the property name; where it is empty there is none;
//   - its attribute name, which OPML has no use for, is the property text, so that nothing is lost;
//   - its attribute canopy:props, which NewOPML writes where the others do not do, is a JSON object
//     of properties, which go before the others;
//   - any other attribute without a namespace is a property of the same name, always a string.
//
// The attribute canopy:props of body holds the properties of the document. The head is ignored, and
// so are elements and attributes of other namespaces.
func ReadOPML(src io.Reader) Entries {
	return func(yield func(Entry, error) bool) {
		d := xml.NewDecoder(src)
		d.CharsetReader = charset.NewReaderLabel
		p := &opmlParser{d: d, yield: yield}
		if err := p.run(); err != nil && !p.stopped {
			yield(Entry{}, err)
		}
	}
}

type opmlParser struct {
	d       *xml.Decoder
	yield   func(Entry, error) bool
	stopped bool
	rooted  bool // the opml element was seen
	body    bool // and the body
	depth   int  // open outline elements
}

func (p *opmlParser) run() error {
	for !p.stopped {
		t, err := p.d.Token()
		if err == io.EOF && p.body {
			return nil
		}
		if err == io.EOF {
			return fmt.Errorf("%w: no OPML body", ErrFormat)
		}
		if err != nil {
			return p.wrap(err)
		}
		switch t := t.(type) {
		case xml.StartElement:
			err = p.start(t)
		case xml.EndElement:
			if t.Name.Local == "outline" {
				p.depth--
			}
		}
		if err != nil {
			return p.wrap(err)
		}
	}
	return nil
}

func (p *opmlParser) start(t xml.StartElement) error {
	switch {
	case !p.rooted && t.Name.Local != "opml":
		return fmt.Errorf("<%s> is not OPML", t.Name.Local)
	case !p.rooted:
		p.rooted = true
		return nil
	case !p.body && t.Name.Local == "body":
		p.body = true
		return p.element(t, Entry{})
	case p.body && t.Name.Local == "outline" && t.Name.Space == "":
		p.depth++
		return p.element(t, Entry{Depth: p.depth, New: true})
	}
	return p.d.Skip()
}

func (p *opmlParser) element(t xml.StartElement, e Entry) (err error) {
	if e.Props, err = attributes(t.Attr); err != nil {
		return err
	}
	p.stopped = !p.yield(e, nil)
	return nil
}

func (p *opmlParser) wrap(err error) error {
	line, column := p.d.InputPos()
	return fmt.Errorf("%w: OPML at line %d, column %d: %w", ErrFormat, line, column, err)
}

func attributes(attrs []xml.Attr) (Props, error) {
	props := Props{}
	for _, a := range attrs {
		if a.Name.Space != "" || a.Name.Local == "xmlns" || a.Name.Local == "text" && a.Value == "" {
			continue
		}
		props[swap(a.Name.Local)] = text(a.Value)
	}
	for _, a := range attrs {
		if a.Name.Space == namespace && a.Name.Local == "props" {
			if err := json.Unmarshal([]byte(a.Value), &props); err != nil {
				return nil, fmt.Errorf("canopy:props: %w", err)
			}
		}
	}
	return props, props.check()
}

// swap is the way from attribute to property and back: what OPML calls text is the name here.
func swap(name string) string {
	switch name {
	case "text":
		return Name
	case Name:
		return "text"
	}
	return name
}

type opmlWriter struct {
	w      *bufio.Writer
	levels levels
	filled bool // the node written last has children; else its tag is still open
}

// NewOPML returns a Writer of OPML 2.0 that ReadOPML reads back as it was.
func NewOPML(dst io.Writer, doc Document) (Writer, error) {
	w := &opmlWriter{w: bufio.NewWriter(dst), filled: true}
	w.w.WriteString(xml.Header + `<opml version="2.0" xmlns:canopy="` + namespace + "\">\n<head><title>")
	if err := xml.EscapeText(w.w, []byte(doc.Room)); err != nil {
		return nil, err
	}
	w.w.WriteString("</title></head>\n<body")
	if len(doc.Props) > 0 {
		_ = w.attr("canopy:props", jsonAttr(doc.Props)) // as above
	}
	_, err := w.w.WriteString(">\n")
	return w, err
}

// Node implements Writer. bufio.Writer keeps its first error, so it is enough to ask the last write.
func (w *opmlWriter) Node(depth int, n Node) error {
	before := w.levels.open
	ended, err := w.levels.enter(depth)
	if err != nil {
		return err
	}
	if ended == 0 && !w.filled {
		w.w.WriteString(">\n")
	}
	w.ends(before, ended)
	w.w.WriteString(indent(depth) + "<outline")
	w.filled = false
	return w.attributes(n.Props)
}

func (w *opmlWriter) ends(depth, n int) {
	for ; n > 0; n, depth = n-1, depth-1 {
		if w.filled {
			w.w.WriteString(indent(depth) + "</outline>\n")
		} else {
			w.w.WriteString("/>\n")
		}
		w.filled = true // whatever is closed next holds this one
	}
}

// Close implements Writer.
func (w *opmlWriter) Close() error {
	w.ends(w.levels.open, w.levels.open)
	w.w.WriteString("</body>\n</opml>\n")
	return w.w.Flush()
}

// attributes writes what it can as attributes, the text first because OPML requires it, and the rest
// as JSON in one.
func (w *opmlWriter) attributes(p Props) error {
	rest := Props{}
	label := ""
	plain := map[string]string{}
	for key, value := range p {
		s, ok := plainText(value)
		switch {
		case key == Name && ok && s != "":
			label = s
		case key != Name && ok && isAttrName(swap(key)):
			plain[key] = s
		default:
			rest[key] = value
		}
	}
	err := w.attr("text", label)
	for _, key := range p.Keys() {
		if s, ok := plain[key]; ok {
			err = w.attr(swap(key), s)
		}
	}
	if len(rest) > 0 {
		err = w.attr("canopy:props", jsonAttr(rest))
	}
	return err
}

func (w *opmlWriter) attr(name, value string) error {
	w.w.WriteString(" " + name + `="`)
	_ = xml.EscapeText(w.w, []byte(value)) // bufio.Writer keeps the error
	return w.w.WriteByte('"')
}

// plainText returns the string that a value is, if an attribute can hold it so that reading it back
// gives the same JSON, byte for byte.
func plainText(value json.RawMessage) (s string, ok bool) {
	if json.Unmarshal(value, &s) != nil || value[0] != '"' {
		return "", false
	}
	compact, err := moveop.CompactValue(value)
	if err != nil || !bytes.Equal(compact, text(s)) {
		return "", false
	}
	return s, !strings.ContainsFunc(s, func(r rune) bool { return !isXMLChar(r) })
}

// isXMLChar is the production Char of XML 1.0.
func isXMLChar(r rune) bool {
	switch {
	case r == '\t', r == '\n', r == '\r':
		return true
	case r < 0x20, r == 0xFFFE, r == 0xFFFF:
		return false
	}
	return utf8.ValidRune(r)
}

// isAttrName is true of names that any XML reader takes and none gives a meaning to.
func isAttrName(s string) bool {
	for i, r := range s {
		letter := r == '_' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
		if !letter && (i == 0 || r != '-' && r != '.' && (r < '0' || r > '9')) {
			return false
		}
	}
	return s != "" && !strings.HasPrefix(strings.ToLower(s), "xml")
}

// jsonAttr is a JSON object without the two characters that JSON takes and XML does not.
func jsonAttr(p Props) string {
	b, err := json.Marshal(p)
	if err != nil {
		return "{}" // of values that are JSON already there is no error
	}
	return strings.NewReplacer("\uFFFE", `\ufffe`, "\uFFFF", `\uffff`).Replace(string(b))
}
