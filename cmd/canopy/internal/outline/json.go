package outline

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
)

// The head of a JSON document. A document without it is read all the same.
const (
	jsonFormat  = "canopy-tree"
	jsonVersion = 1
)

// ReadJSON reads a JSON document:
//
//	{"format":"canopy-tree","version":1,"room":"…","props":{…},"children":[
//	 {"props":{"name":"a"},"children":[…]},
//	 …
//	]}
//
// Members may be in any order, and all of them may be missing. The id of a node is ignored, because
// an imported node is a new one; a member that is not known is refused, because what it holds would be
// lost.
func ReadJSON(src io.Reader) Entries {
	return func(yield func(Entry, error) bool) {
		p := &jsonParser{d: json.NewDecoder(src), yield: yield}
		if err := p.run(); err != nil && !p.stopped {
			yield(Entry{}, err)
		}
	}
}

type jsonParser struct {
	d       *json.Decoder
	yield   func(Entry, error) bool
	stopped bool
	depth   int
}

// run is one loop rather than a function per level: objects and the arrays of children in them
// alternate, so all there is to know is the depth and which of the two is open.
func (p *jsonParser) run() error {
	if err := p.delim('{'); err != nil {
		return err
	}
	inChildren := false
	for !p.stopped {
		t, err := p.token()
		switch {
		case err != nil:
			return err
		case inChildren && t == json.Delim(']'):
			inChildren = false
		case inChildren && t == json.Delim('{'):
			inChildren = false
			p.depth++
			p.emit(Entry{Depth: p.depth, New: true})
		case inChildren:
			return p.errorf("a child must be an object")
		case t == json.Delim('}') && p.depth == 0:
			return p.end()
		case t == json.Delim('}'):
			inChildren = true
			p.depth--
		default:
			// The decoder takes nothing but a string for a key.
			inChildren, err = p.member(t.(string))
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// member reads one member of an object; of children only the opening bracket.
func (p *jsonParser) member(key string) (children bool, err error) {
	switch {
	case key == "children":
		return true, p.delim('[')
	case key == "props":
		var props Props
		if err := p.decode(&props); err != nil {
			return false, err
		}
		if err := props.check(); err != nil {
			return false, p.wrap(err)
		}
		p.emit(Entry{Depth: p.depth, Props: props})
		return false, nil
	case key == "id" || p.depth == 0 && key == "room":
		return false, p.decode(new(string))
	case p.depth == 0 && (key == "format" || key == "version"):
		return false, p.head(key)
	}
	return false, p.errorf("unknown member %.100q", key)
}

func (p *jsonParser) head(key string) error {
	var got any
	if err := p.decode(&got); err != nil {
		return err
	}
	if key == "format" && got != jsonFormat {
		return p.errorf("the format is %.100v, not %s", got, jsonFormat)
	}
	if key == "version" && got != float64(jsonVersion) {
		return p.errorf("version %.100v is not supported", got)
	}
	return nil
}

func (p *jsonParser) emit(e Entry) { p.stopped = p.stopped || !p.yield(e, nil) }

func (p *jsonParser) end() error {
	if _, err := p.d.Token(); err != io.EOF {
		return p.errorf("something follows the document")
	}
	return nil
}

func (p *jsonParser) delim(want json.Delim) error {
	t, err := p.token()
	if err == nil && t != want {
		err = p.errorf("%s expected", want)
	}
	return err
}

func (p *jsonParser) token() (json.Token, error) {
	t, err := p.d.Token()
	if err != nil {
		return nil, p.wrap(err)
	}
	return t, nil
}

func (p *jsonParser) decode(v any) error {
	if err := p.d.Decode(v); err != nil {
		return p.wrap(err)
	}
	return nil
}

func (p *jsonParser) wrap(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: JSON at byte %d: %w", ErrFormat, p.d.InputOffset(), err)
}

func (p *jsonParser) errorf(format string, args ...any) error {
	return p.wrap(fmt.Errorf(format, args...))
}

// jsonWriter writes one node a line, so that two exports can be compared by line.
type jsonWriter struct {
	w      *bufio.Writer
	ids    bool
	levels levels
	filled bool // the node written last has children
}

// NewJSON returns a Writer of what ReadJSON reads. With ids, nodes are written with theirs.
func NewJSON(dst io.Writer, doc Document, ids bool) (Writer, error) {
	w := &jsonWriter{w: bufio.NewWriter(dst), ids: ids}
	room, err := json.Marshal(doc.Room)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(w.w, `{"format":%q,"version":%d,"room":%s`, jsonFormat, jsonVersion, room)
	return w, w.props(doc.Props, true)
}

// Node implements Writer.
func (w *jsonWriter) Node(depth int, n Node) error {
	before := w.levels.open
	ended, err := w.levels.enter(depth)
	if err != nil {
		return err
	}
	if ended == 0 {
		w.w.WriteString(`,"children":[`)
	} else {
		w.ends(before, ended)
		w.w.WriteByte(',')
	}
	w.w.WriteString("\n" + indent(depth) + "{")
	if w.ids {
		fmt.Fprintf(w.w, `"id":%q`, n.ID)
	}
	w.filled = false
	return w.props(n.Props, w.ids)
}

// ends closes n nodes, the innermost at depth.
func (w *jsonWriter) ends(depth, n int) {
	for ; n > 0; n, depth = n-1, depth-1 {
		if w.filled {
			w.w.WriteString("\n" + indent(depth) + "]")
		}
		w.w.WriteByte('}')
		w.filled = true // whatever is closed next holds this one
	}
}

// Close implements Writer.
func (w *jsonWriter) Close() error {
	w.ends(w.levels.open, w.levels.open+1)
	w.w.WriteByte('\n')
	return w.w.Flush()
}

// props is called last of what begins a node. bufio.Writer keeps its first error, so this is where one
// shows.
func (w *jsonWriter) props(p Props, follows bool) error {
	text := []byte("{}")
	if len(p) > 0 {
		var err error
		if text, err = json.Marshal(p); err != nil {
			return err
		}
	}
	if follows {
		w.w.WriteByte(',')
	}
	w.w.WriteString(`"props":`)
	_, err := w.w.Write(text)
	return err
}
