package main

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode"
)

// What other people have written cannot make a terminal do anything, however it is cut into writes.
func TestShield(t *testing.T) {
	t.Parallel()
	const text = "a\x1b]0;title\x07\r\n\tä\u009b2J\x7f€\U0001f333\x00\x9b\xc2"
	const want = `a\u001b]0;title\u0007\u000d` + "\n\tä" + `\u009b2J\u007f` + "€\U0001f333" + `\u0000` + "\ufffd"
	for size := 1; size <= len(text); size++ {
		var shown strings.Builder
		s := &shield{to: &shown}
		for rest := text; rest != ""; {
			n, err := s.Write([]byte(rest[:min(size, len(rest))]))
			if err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if shown.String() != want {
			t.Errorf("%d bytes at a time: %q", size, shown.String())
		}
	}
}

// Nor can a service's refusals, nor a token that somebody has handed in.
func TestMessagesOfOthersAreInert(t *testing.T) {
	t.Parallel()
	hostile := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"error":{"code":"bad_request","message":"\u001b[2J\u009b2J\u0007","retryable":false}}`))
	}))
	defer hostile.Close()
	encode := base64.RawURLEncoding.EncodeToString
	token := encode([]byte("{\"alg\":\"EdDSA\",\"kid\":\"\u009b2J\"}")) + "." +
		encode([]byte(`{"sub":"ann","iss":"\u001b[2J\nroom  *  admin","aud":["\u0007"]}`)) + ".x"
	for _, args := range [][]string{
		{"tail", "notes", "--realtime-url", hostile.URL}, {"room", "stats", "notes", "--realtime-url", hostile.URL}, {"token", "inspect", token},
	} {
		r := command(t.Context(), nil, nil, args...)
		if strings.ContainsFunc(r.stdout+r.stderr, func(r rune) bool { return unicode.IsControl(r) && r != '\n' }) {
			t.Errorf("%s: %q", args, r.stdout+r.stderr)
		}
		if strings.Contains(r.stdout, "\nroom") {
			t.Errorf("%s: a line of its own: %q", args, r.stdout)
		}
		if !strings.Contains(r.stdout+r.stderr, `\u009b2J`) {
			t.Errorf("%s: %q %q", args, r.stdout, r.stderr)
		}
	}
}
