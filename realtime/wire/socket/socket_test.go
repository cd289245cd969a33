package socket_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/canopysync/canopy/realtime/wire"
	"github.com/canopysync/canopy/realtime/wire/socket"
)

// serve answers every request with handler, and returns the URL to dial.
func serve(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s.URL + "/v1/rooms/plan/ws"
}

func upgrade(t *testing.T, w http.ResponseWriter, r *http.Request, subprotocols ...string) *websocket.Conn {
	t.Helper()
	u := websocket.Upgrader{Subprotocols: subprotocols}
	ws, err := u.Upgrade(w, r, nil)
	if err != nil {
		t.Error(err)
	}
	return ws
}

func TestDialRefused(t *testing.T) {
	t.Parallel()
	answer := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}
	}
	for name, test := range map[string]struct {
		handler  http.HandlerFunc
		code     wire.Code // none: no *wire.Error
		protocol bool
	}{
		"forbidden": {answer(403, `{"error":{"code":"forbidden","message":"not yours"}}`), wire.CodeForbidden, false},
		"busy":      {answer(503, `{"error":{"code":"busy","message":"later","retryable":true}}`), wire.CodeBusy, false},
		"another protocol": {answer(426, `{"error":{"code":"bad_request","message":"canopy.v2 only"}}`),
			wire.CodeBadRequest, true},
		"no protocol": {func(w http.ResponseWriter, r *http.Request) { _ = upgrade(t, w, r).Close() }, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := socket.Dial(t.Context(), serve(t, test.handler), nil, nil)
			refusal, _ := errors.AsType[*wire.Error](err)
			if err == nil || (refusal != nil) != (test.code != "") || refusal != nil && refusal.Code != test.code {
				t.Errorf("got %v, want code %q", err, test.code)
			}
			if errors.Is(err, socket.ErrProtocol) != test.protocol {
				t.Errorf("%v is ErrProtocol: %t", err, !test.protocol)
			}
		})
	}
}

// Both forms are spoken, a type that is not known is passed over, and the end says why.
func TestConversation(t *testing.T) {
	t.Parallel()
	for _, form := range []string{wire.SubprotocolBinary, wire.SubprotocolJSON} {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			url := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if got := r.Header.Get("Authorization"); got != "Bearer secret" {
					t.Errorf("authorization %q", got)
				}
				ws := upgrade(t, w, r, form)
				defer ws.Close()
				kind, frame, err := ws.ReadMessage()
				if err != nil {
					t.Error(err)
				}
				if form == wire.SubprotocolJSON {
					_ = ws.WriteMessage(kind, []byte(`{"type":"of tomorrow"}`))
				}
				_ = ws.WriteMessage(kind, frame)
				_ = ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(wire.CloseRestart, ""), time.Now().Add(time.Minute))
				_, _, _ = ws.ReadMessage() // until the other side has gone
			})
			conn, err := socket.Dial(t.Context(), url, http.Header{"Authorization": {"Bearer secret"}}, http.DefaultTransport)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if conn.Codec.Subprotocol() != form {
				t.Errorf("speaks %s", conn.Codec.Subprotocol())
			}
			if err := conn.Send(wire.Pull{After: 7}); err != nil {
				t.Fatal(err)
			}
			if msg, err := conn.Receive(); err != nil || msg != (wire.Pull{After: 7}) {
				t.Errorf("received %v, %v", msg, err)
			}
			_, err = conn.Receive()
			if closed, ok := errors.AsType[*websocket.CloseError](err); !ok || closed.Code != wire.CloseRestart {
				t.Errorf("the end: %v", err)
			}
		})
	}
}
