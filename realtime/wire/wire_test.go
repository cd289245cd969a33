package wire_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

var update = flag.Bool("update", false, "write testdata/vectors.json")

const epoch = "0192f0c0-1111-7222-8333-444455556666"

var (
	ts   = moveop.NewTimestamp(1_700_000_000_000, 3, 0xa1b2c3d4e5f60718)
	id   = moveop.NodeID{0x01, 0x92, 15: 0x42}
	move = moveop.Op{Kind: moveop.Move, TS: moveop.NewTimestamp(1_700_000_000_000, 3, 0x21b2c3d4e5f60718), Node: id, Parent: moveop.Root, OrderKey: "a0V", Known: 6}
	set  = moveop.Op{Kind: moveop.Set, TS: moveop.NewTimestamp(1_700_000_000_001, 0, 0x21b2c3d4e5f60718), Node: id, Key: "title", Value: json.RawMessage(`{"b":[1,null],"a":"\u003cü"}`), Known: 6}
)

// logged is an op as the server relays it.
func logged(op moveop.Op, seq int64, cause moveop.Timestamp) moveop.Op {
	op.Seq, op.Cause = seq, cause
	return op
}

// vectors is one message of every type, and of every shape that a type has.
var vectors = []struct {
	name string
	msg  wire.Message
}{
	{"hello", wire.Hello{Replica: 0x21b2c3d4e5f60718, Epoch: new(epoch), Seq: 6, Name: "Ann's \"desk\"", Token: "t"}},
	{"hello, nothing yet", wire.Hello{Replica: 1}},
	{"welcome", wire.Welcome{
		Epoch: epoch, Head: 9, MinSeq: 2, ServerTime: 1_700_000_000_123, LastTS: &move.TS,
		Limits: wire.Limits{MaxOps: 1000, MaxFrame: 1 << 20}, Status: wire.Ready,
		Clients: []wire.Peer{{Replica: 1, Name: "laptop", User: "ann"}},
	}},
	{"welcome, nothing held", wire.Welcome{Epoch: epoch, Limits: wire.Limits{MaxOps: 1, MaxFrame: 2}, Status: wire.Ready, Clients: []wire.Peer{}}},
	{"resync", wire.Resync{Reason: wire.ResyncCompacted, Epoch: epoch, Head: 9}},
	{"ops", wire.Ops{From: 7, To: 9, Ops: []moveop.Op{
		logged(move, 7, moveop.Timestamp{}), logged(set, 8, moveop.Timestamp{}),
		logged(moveop.Op{Kind: moveop.Move, TS: ts, Node: id, Parent: moveop.Root, OrderKey: "a0V", Known: 8}, 9, set.TS),
	}}},
	{"push", wire.Push{ID: "42", Ops: []moveop.Op{move, set}}},
	{"ack", wire.Ack{ID: "42", Head: 9, Results: []wire.Result{
		{TS: move.TS, Seq: 7, Status: wire.StatusApplied},
		{TS: set.TS, Seq: 8, Status: wire.StatusDuplicate},
		{TS: ts, Seq: 300, Status: wire.StatusIneffective},
	}}},
	{"nack", wire.Nack{ID: "42", Error: wire.Error{Code: wire.CodeClockSkew, Op: &move.TS, Message: "ahead", ServerTime: 1_700_000_000_123}}},
	{"nack, no op", wire.Nack{ID: "42", Error: wire.Error{Code: wire.CodeBusy, Retryable: true, Message: "wait", ServerTime: 1}}},
	{"pull", wire.Pull{After: 6}},
	{"head", wire.Head{Head: 9, Digest: moveop.Digest{Ops: 9, Log: 0xfedcba9876543210, State: 1}}},
	{"presence of a client", wire.Presence{State: json.RawMessage(`{"at":1}`)}},
	{"presence taken back", wire.Presence{}},
	{"presence of the room", wire.Presence{Updates: map[moveop.ReplicaID]json.RawMessage{1: json.RawMessage(`{"at":1}`), 2: json.RawMessage(`null`)}}},
	{"connections", wire.Connections{Clients: []wire.Peer{{Replica: 1, Name: "laptop", User: "ann"}, {Replica: 2}}}},
	{"ping", wire.Ping{}},
	{"status", wire.ServerStatus{Status: wire.Ready, Head: 9}},
	{"auth", wire.Auth{Token: "t"}},
	{"error", &wire.Error{Code: wire.CodeBadRequest, Message: "unknown message type"}},
}

// vector is one line of testdata/vectors.json: what another implementation has to agree with.
type vector struct {
	Name   string `json:"name"`
	JSON   string `json:"json"`
	Binary string `json:"binary"` // hexadecimal
}

func TestGoldenVectors(t *testing.T) {
	t.Parallel()
	const file = "testdata/vectors.json"
	var made []vector
	for _, v := range vectors {
		text, err := wire.JSON.Encode(v.msg)
		if err != nil {
			t.Fatalf("%s: %v", v.name, err)
		}
		frame, err := wire.Binary.Encode(v.msg)
		if err != nil {
			t.Fatalf("%s: %v", v.name, err)
		}
		made = append(made, vector{v.name, string(text), hex.EncodeToString(frame)})
	}
	if *update {
		var out bytes.Buffer
		enc := json.NewEncoder(&out)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(made); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var golden []vector
	if err := json.Unmarshal(text, &golden); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(made, golden) {
		t.Fatalf("encodings differ from %s; -update writes it anew, which breaks every client that is out there", file)
	}
	for i, v := range golden {
		frame, _ := hex.DecodeString(v.Binary)
		for codec, data := range map[wire.Codec][]byte{wire.JSON: []byte(v.JSON), wire.Binary: frame} {
			msg, err := codec.Decode(data)
			if err != nil || !reflect.DeepEqual(msg, vectors[i].msg) {
				t.Errorf("%s, %s: decoded %+v, %v", v.Name, codec.Subprotocol(), msg, err)
			}
		}
	}
}

// What decodes can be encoded again and decodes to the same; what does not says so as an *Error with a
// code that may be sent to the peer, and a Push to be nacked or nothing.
func FuzzDecode(f *testing.F) {
	for _, v := range vectors {
		for _, codec := range []wire.Codec{wire.JSON, wire.Binary} {
			frame, err := codec.Encode(v.msg)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(frame)
		}
	}
	f.Add([]byte(`{"type":"push","id":"x","ops":[{"kind":"copy"}]}`))
	f.Add([]byte{1, 5, 1, 'x', 1, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, frame []byte) {
		for _, codec := range []wire.Codec{wire.JSON, wire.Binary} {
			checkDecode(t, codec, frame)
		}
	})
}

func checkDecode(t *testing.T, codec wire.Codec, frame []byte) {
	t.Helper()
	msg, err := codec.Decode(frame)
	if err != nil {
		e, ok := errors.AsType[*wire.Error](err)
		if !ok || e.Code != wire.CodeBadRequest && e.Code != wire.CodeInvalidOp && e.Code != wire.CodeTooLarge {
			t.Fatalf("%s: %v", codec.Subprotocol(), err)
		}
		if _, push := msg.(wire.Push); msg != nil && !push {
			t.Fatalf("%s: %T beside an error", codec.Subprotocol(), msg)
		}
		return
	}
	again, err := codec.Encode(msg)
	if err != nil {
		t.Fatalf("%s decodes %q, but cannot encode it: %v", codec.Subprotocol(), frame, err)
	}
	back, err := codec.Decode(again)
	if err != nil {
		t.Fatalf("%s decodes %q, but not what it makes of it, %q: %v", codec.Subprotocol(), frame, again, err)
	}
	if !equivalent(msg, back) {
		t.Fatalf("%q: %+v became %+v", frame, msg, back)
	}
}

// equivalent compares by the JSON form, in which nil and empty lists of ops are the same.
func equivalent(a, b wire.Message) bool {
	x, errX := wire.JSON.Encode(a)
	y, errY := wire.JSON.Encode(b)
	if errX != nil || errY != nil {
		return (errX == nil) == (errY == nil)
	}
	nilToEmpty := strings.NewReplacer(`"ops":null`, `"ops":[]`, `"results":null`, `"results":[]`)
	return nilToEmpty.Replace(string(x)) == nilToEmpty.Replace(string(y))
}

func TestDecodeNamesTheBadOp(t *testing.T) {
	t.Parallel()
	msg, err := wire.JSON.Decode([]byte(`{"ops":[{"kind":"copy","ts":"` + move.TS.String() + `","node":"` + id.String() + `"}],"id":"7","type":"push"}`))
	e, ok := errors.AsType[*wire.Error](err)
	if !ok || e.Code != wire.CodeInvalidOp || e.Op == nil || *e.Op != move.TS {
		t.Errorf("error %v", err)
	}
	if push, ok := msg.(wire.Push); !ok || push.ID != "7" {
		t.Errorf("message %+v", msg)
	}
}

// The sender of a push waits for an answer with its id, whatever is wrong with the rest.
func TestDecodeKeepsTheIDOfAMistypedPush(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{"type":"push","id":"7","ops":{}}`,
		`{"type":"push","ops":"none","id":"7"}`,
		`{"type":"push","id":"7","ops":5}`,
	} {
		msg, err := wire.JSON.Decode([]byte(text))
		if e, ok := errors.AsType[*wire.Error](err); !ok || e.Code != wire.CodeBadRequest {
			t.Errorf("%s: error %v", text, err)
		}
		if push, ok := msg.(wire.Push); !ok || push.ID != "7" || push.Ops != nil {
			t.Errorf("%s: message %+v", text, msg)
		}
	}
	for _, text := range []string{`{"type":"push","id":7,"ops":[]}`, `{"type":"push","id":"7","ops":[}`} {
		if msg, err := wire.JSON.Decode([]byte(text)); err == nil || msg != nil {
			t.Errorf("%s: message %+v, %v", text, msg, err)
		}
	}
}

func TestTheTypeMayStandAndBeWrittenAnyhow(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{"type":"pull","after":4}`, `{"type":"pu\u006cl","after":4}`, ` { "after" : 4 , "\u0074ype" : "pull" } `,
		`{"after":4,"x":{"type":"ping"},"type":"pull"}`,
	} {
		if msg, err := wire.JSON.Decode([]byte(text)); err != nil || msg != (wire.Pull{After: 4}) {
			t.Errorf("%s: %+v, %v", text, msg, err)
		}
	}
}

func TestUnknownFieldsAreIgnored(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]wire.Message{
		` {"colour":"green","type":"pull","after":4,"then":[{}]}`:              wire.Pull{After: 4},
		`{"type":"pull","after":4,"AFTER":5,"Type":"ping"}`:                    wire.Pull{After: 4},
		`{"Type":"ping","type":"pull","after":4,"a\u017fter":5}`:               wire.Pull{After: 4},
		`{"type":"hello","replica":"0000000000000001","Seq":5,"\u017feq":"x"}`: wire.Hello{Replica: 1},
		`{"type":"push","id":"7","ops":[],"ID":"8","OPS":5,"replica":5}`:       wire.Push{ID: "7", Ops: []moveop.Op{}},
	} {
		if msg, err := wire.JSON.Decode([]byte(text)); err != nil || !reflect.DeepEqual(msg, want) {
			t.Errorf("%s: %+v, %v", text, msg, err)
		}
	}
	if msg, err := wire.JSON.Decode([]byte(`{"Type":"ping"}`)); err == nil {
		t.Errorf("a message without a type: %+v", msg)
	}
	req, err := wire.DecodePushRequest([]byte(`{"replica":"0000000000000001","id":"7","ops":[],"Replica":"x","ID":8}`))
	if err != nil || req.Replica != 1 || req.ID != "7" {
		t.Errorf("request %+v, %v", req, err)
	}
}

// Whatever its members are called: the size of a state is limited.
func TestAPresenceStateStaysAsItIs(t *testing.T) {
	t.Parallel()
	for _, state := range []string{`{"pos":"<a>"}`, `{"cursorPos":"<a>"}`, `{"cursorPos": [ 1 ]}`} {
		msg, err := wire.JSON.Decode([]byte(`{"type":"presence","state":` + state + `}`))
		if p, ok := msg.(wire.Presence); err != nil || !ok || string(p.State) != state {
			t.Errorf("%s: got %+v, %v", state, msg, err)
		}
	}
}

func TestUnknownTypesAreTold(t *testing.T) {
	t.Parallel()
	for frame, codec := range map[string]wire.Codec{`{"type":"wave"}`: wire.JSON, "\x01\x70{}": wire.Binary} {
		_, err := codec.Decode([]byte(frame))
		if e, ok := errors.AsType[*wire.Error](err); !ok || e.Code != wire.CodeBadRequest || !errors.Is(err, wire.ErrUnknownType) {
			t.Errorf("%q: %v", frame, err)
		}
	}
	if _, err := wire.JSON.Decode([]byte(`{"type":7}`)); errors.Is(err, wire.ErrUnknownType) {
		t.Errorf("a type that is no text is malformed: %v", err)
	}
}

// Text that is not UTF-8 goes to nobody, whose connection it would break; and no push is answered under
// another id than its own.
func TestDecodeRefusesWhatIsNotUTF8(t *testing.T) {
	t.Parallel()
	for codec, frames := range map[wire.Codec][]string{
		wire.JSON: {
			"{\"type\":\"presence\",\"state\":\"\xff\"}", "{\"type\":\"hello\",\"replica\":\"0000000000000001\",\"name\":\"\xff\"}",
			"{\"type\":\"push\",\"id\":\"\xff\",\"ops\":[]}", `{"type":"push","id":"7\ud800","ops":[]}`,
		},
		wire.Binary: {"\x01\x0a{\"state\":\"\xff\"}", "\x01\x05\x01\xff\x01\x00"},
	} {
		for _, frame := range frames {
			msg, err := codec.Decode([]byte(frame))
			if e, ok := errors.AsType[*wire.Error](err); !ok || e.Code != wire.CodeBadRequest || msg != nil {
				t.Errorf("%q: %+v, %v", frame, msg, err)
			}
		}
	}
	if req, err := wire.DecodePushRequest([]byte("{\"replica\":\"0000000000000001\",\"id\":\"\xff\",\"ops\":[]}")); err == nil {
		t.Errorf("request %+v", req)
	}
}

func TestEncodeRefusesWhatHasNoWords(t *testing.T) {
	t.Parallel()
	for _, codec := range []wire.Codec{wire.JSON, wire.Binary} {
		if _, err := codec.Encode(wire.Push{Ops: []moveop.Op{{Kind: 9}}}); err == nil {
			t.Errorf("%s encodes an op of an unknown kind", codec.Subprotocol())
		}
	}
	if _, err := wire.Binary.Encode(wire.Ack{Results: []wire.Result{{Status: "lost"}}}); err == nil {
		t.Error("an unknown status is encoded")
	}
	for _, msg := range []wire.Message{wire.Ops{From: -1}, wire.Ops{To: -1}, wire.Ack{Head: -1}, wire.Ack{Results: []wire.Result{{Seq: -1, Status: wire.StatusApplied}}}} {
		if _, err := wire.Binary.Encode(msg); err == nil {
			t.Errorf("a negative number is encoded: %+v", msg)
		}
	}
}

func TestValidRoom(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"a": true, "0": true, "plan-2.draft_b": true, strings.Repeat("a", 128): true,
		"": false, "A": false, "-a": false, ".a": false, "_a": false, "a b": false, "ä": false, "a\n": false,
		"a/b": false, "a'--": false, strings.Repeat("a", 129): false,
	} {
		if err := wire.ValidRoom(name); (err == nil) != want {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestErrorsOverHTTP(t *testing.T) {
	t.Parallel()
	for _, want := range []*wire.Error{
		wire.NewError(wire.CodeBusy, "wait"), wire.NewError(wire.CodeCompacted, "gone"), wire.UnknownRoom(),
	} {
		w := httptest.NewRecorder()
		wire.WriteError(w, want.Code.HTTPStatus(), want)
		resp := w.Result()
		if got := wire.ReadError(resp); !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if (resp.Header.Get("Retry-After") != "") != want.Retryable {
			t.Errorf("%s: Retry-After %q", want.Code, resp.Header.Get("Retry-After"))
		}
	}
	nack, _ := wire.JSON.Encode(wire.Nack{Error: *wire.OpError(wire.CodeConflict, move.TS, "twice")})
	for _, test := range []struct {
		status int
		body   string
		want   wire.Error
	}{
		{http.StatusConflict, string(nack), wire.Error{Code: wire.CodeConflict, Op: &move.TS, Message: "twice"}},
		{http.StatusBadGateway, "<html>bad gateway", wire.Error{
			Code: wire.CodeBusy, Retryable: true, Message: "not an answer of Canopy: http status 502"}},
		{http.StatusBadGateway, `{"error":"something"}`, wire.Error{
			Code: wire.CodeBusy, Retryable: true, Message: "not an answer of Canopy: http status 502"}},
		// Of a room that the service does not know it says so itself: this is about the URL, not about the token.
		{http.StatusNotFound, "404 page not found", wire.Error{
			Code: wire.CodeBadRequest, Message: "not an answer of Canopy: http status 404"}},
	} {
		w := httptest.NewRecorder()
		w.WriteHeader(test.status)
		_, _ = w.WriteString(test.body)
		if got := wire.ReadError(w.Result()); !reflect.DeepEqual(*got, test.want) {
			t.Errorf("%s: %+v", test.body, got)
		}
	}
}

func TestAsErrorHidesWhatIsTheServersOwn(t *testing.T) {
	t.Parallel()
	if e := wire.AsError(errors.New("password=secret")); e.Code != wire.CodeInternal || strings.Contains(e.Message, "secret") {
		t.Errorf("%+v", e)
	}
	if e := wire.AsError(wire.ErrUnknownRoom); e.Code != wire.CodeForbidden || e.Retryable {
		t.Errorf("%+v", e)
	}
}

func TestRestartReason(t *testing.T) {
	t.Parallel()
	reason := wire.RestartReason(1500 * time.Millisecond)
	if d, ok := wire.ParseRestartReason(reason); !ok || d != 1500*time.Millisecond || len(reason) > 123 {
		t.Errorf("%s: %v %v", reason, d, ok)
	}
	for _, reason := range []string{"", "restart", "{}", `{"reason":"restart","retry_after_ms":-1}`, `{"reason":"restart","retry_after_ms":"1"}`} {
		if _, ok := wire.ParseRestartReason(reason); ok {
			t.Errorf("%q parsed", reason)
		}
	}
	if d, ok := wire.ParseRestartReason(`{"reason":"restart","retry_after_ms":9223372036854775807}`); !ok || d != time.Hour {
		t.Errorf("%v %v: an hour is the most", d, ok)
	}
}

// The README's table is complete and says of each code what the program does.
func TestReadmeListsEveryCode(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range []wire.Code{
		wire.CodeBadRequest, wire.CodeInvalidOp, wire.CodeClockSkew, wire.CodeConflict, wire.CodeOutOfOrder,
		wire.CodeTooOld, wire.CodeTooLarge, wire.CodeForbidden, wire.CodeForbiddenReplica, wire.CodeReplicaInUse,
		wire.CodeUnauthorized, wire.CodeRateLimited, wire.CodeBusy, wire.CodeInternal, wire.CodeCompacted,
	} {
		retry := map[bool]string{true: "yes", false: "no"}[code.Retryable()]
		row := "| `" + string(code) + "` | " + strconv.Itoa(code.HTTPStatus()) + " | " + retry + " |"
		if !bytes.Contains(text, []byte(row)) {
			t.Errorf("no row %q", row)
		}
	}
	for _, code := range []int{
		wire.CloseTooLarge, wire.CloseRestart, wire.CloseOverloaded, wire.CloseBadRequest,
		wire.CloseUnauthorized, wire.CloseForbidden, wire.CloseHelloTimeout, wire.CloseReplicaInUse,
	} {
		if !bytes.Contains(text, []byte("| "+strconv.Itoa(code)+" |")) {
			t.Errorf("no row for close code %d", code)
		}
	}
}
