package main

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/pgfuncs/pgtest"
	"github.com/canopysync/canopy/realtime/wire"
)

// withTokens is a world in which both services want tokens, and the file with the key to mint them.
func withTokens(t *testing.T) (w *world, key string) {
	t.Helper()
	w = &world{t: t, database: pgtest.New(t)}
	var err error
	if w.db, err = pgfuncs.Open(t.Context(), w.database); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.db.Close)
	return w, w.serveWithTokens(t, w.database, w.database)
}

// serveWithTokens starts both services, each on its database URL, and makes a key to mint tokens with.
func (w *world) serveWithTokens(t *testing.T, realtimeDB, bootstrapDB string) (key string) {
	t.Helper()
	dir := t.TempDir()
	key, public := filepath.Join(dir, "key.json"), filepath.Join(dir, "keys.json")
	w.must("token", "keygen", "-o", key, "--public", public)
	args := []string{"--addr=127.0.0.1:0", "--auth-key-file", public, "--auth-audience=canopy", "--json", "--log-level=warn"}
	w.realtime = serveTokens(t, append([]string{"serve", "realtime", "--database-url", realtimeDB}, args...)...)
	w.bootstrap = serveTokens(t, append([]string{"serve", "bootstrap", "--database-url", bootstrapDB}, args...)...)
	return key
}

// serveTokens runs a service in this process until the test ends, and returns its URL.
func serveTokens(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	lines, stderr, done := newLines(), new(lockedBuffer), make(chan int, 1)
	go func() {
		env := &Env{Stdin: strings.NewReader(""), Stdout: lines, Stderr: stderr, LookupEnv: func(string) (string, bool) { return "", false }}
		done <- run(ctx, env, args)
	}()
	t.Cleanup(func() {
		cancel()
		if code := <-done; code != exitOK {
			t.Errorf("%v: exit code %d: %s", args, code, stderr)
		}
	})
	var ready serviceReady
	parseJSON(t, lines.wait(t, 1)[0], &ready)
	if !ready.Auth {
		t.Errorf("%+v", ready)
	}
	return ready.URL
}

// mint issues a token for some rooms.
func (w *world) mint(t *testing.T, key, subject string, rooms ...string) minted {
	t.Helper()
	args := []string{"token", "mint", subject, "--signing-key", key, "--database-url", w.database, "--auth-audience=canopy", "--json"}
	for _, room := range rooms {
		args = append(args, "--room", room)
	}
	var m minted
	parseJSON(t, w.must(args...), &m)
	return m
}

func TestTokensFromTheCommandLine(t *testing.T) {
	t.Parallel()
	w, key := withTokens(t)
	ann := w.mint(t, key, "ann", "team-*=write", "handbook=read")
	ben := w.mint(t, key, "ben", "team-*=read")
	doc := write(t, "attic.json", `{"children":[{}]}`)
	w.must("import", "team-a", doc, "--token", ann.Token)
	for _, tc := range []struct {
		token string
		args  []string
		code  int
	}{
		{ben.Token, []string{"room", "stats", "team-a"}, exitOK},
		{ben.Token, []string{"snapshot", "export", "team-a", "-o", filepath.Join(t.TempDir(), "s")}, exitOK},
		{ben.Token, []string{"export", "team-a"}, exitOK},
		{ben.Token, []string{"tail", "team-a", "--after=0", "--limit=1"}, exitOK},
		{ben.Token, []string{"import", "team-a", doc}, exitFailure},
		{ben.Token, []string{"room", "stats", "handbook"}, exitUnknownRoom}, // may not be seen
		{ann.Token, []string{"room", "stats", "handbook"}, exitUnknownRoom}, // is not there
		{ann.Token, []string{"snapshot", "export", "other", "-o", filepath.Join(t.TempDir(), "s")}, exitUnknownRoom},
		{"", []string{"room", "stats", "team-a"}, exitFailure},
		{ann.Token + "x", []string{"room", "stats", "team-a"}, exitFailure},
		{"", []string{"snapshot", "export", "team-a", "-o", filepath.Join(t.TempDir(), "s")}, exitFailure},
	} {
		vars := map[string]string{"CANOPY_REALTIME_URL": w.realtime, "CANOPY_BOOTSTRAP_URL": w.bootstrap, "CANOPY_TOKEN": tc.token}
		if r := command(t.Context(), nil, vars, tc.args...); r.code != tc.code {
			t.Errorf("%v as %.10q: exit code %d, want %d: %s", tc.args, tc.token, r.code, tc.code, r.stderr)
		}
	}

	list := w.must("token", "list", "--database-url", w.database)
	if lines := strings.Split(strings.TrimSpace(list), "\n"); len(lines) != 3 || !strings.Contains(list, "team-*=write handbook=read") {
		t.Errorf("list:\n%s", list)
	}
	r := w.canopy("token", "revoke", "--database-url", w.database, "unknown", ben.ID)
	if r.code != exitFailure || !strings.Contains(r.stdout, ben.ID) || !strings.Contains(r.stderr, "unknown") {
		t.Errorf("revoke: %+v", r)
	}
	if list := w.must("token", "list", "--json", "--database-url", w.database); strings.Count(list, `"state":"revoked"`) != 1 {
		t.Errorf("list: %s", list)
	}
	inspect := func(token string, args ...string) (i inspected, code int) {
		r := w.canopyIn(t.Context(), strings.NewReader(token+"\n"), append([]string{"token", "inspect", "--json"}, args...)...)
		parseJSON(t, r.stdout, &i)
		return i, r.code
	}
	if i, code := inspect(ann.Token); code != exitOK || i.Checked || i.Claims.Subject != "ann" || i.Claims.ID != ann.ID {
		t.Errorf("inspect without keys: %d %+v", code, i)
	}
	checks := []string{"--auth-key-file", key, "--auth-audience=canopy", "--database-url", w.database}
	if i, code := inspect(ann.Token, checks...); code != exitOK || !i.Good {
		t.Errorf("inspect: %d %+v", code, i)
	}
	if i, code := inspect(ben.Token, checks...); code != exitFailure || i.Good || !strings.Contains(i.Reason, "revoked") {
		t.Errorf("inspect a revoked token: %d %+v", code, i)
	}
	if i, code := inspect(ann.Token, "--auth-key-file", key); code != exitFailure || i.Good {
		t.Errorf("inspect for no audience: %d %+v", code, i)
	}
	if r := w.canopy("token", "inspect", "nonsense"); r.code != exitBadInput {
		t.Errorf("inspect nonsense: %+v", r)
	}
}

// A client whose token is revoked keeps what it has not sent, and sends it with the next token.
func TestARevokedTokenEndsTheSocketAndLosesNothing(t *testing.T) {
	t.Parallel()
	w, key := withTokens(t)
	first := w.mint(t, key, "ann", "team-a=write")
	var token atomic.Pointer[string]
	token.Store(&first.Token)
	c, err := client.Open(t.Context(), filepath.Join(t.TempDir(), "replica"), client.Options{
		Room: "team-a", RealtimeURL: w.realtime, BootstrapURL: w.bootstrap, RetryMin: 50 * time.Millisecond, RetryMax: time.Second,
		Token: func(context.Context) (string, error) { return *token.Load(), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	add := func() {
		t.Helper()
		err := c.Edit(t.Context(), func(tx *client.Tx) error {
			_, err := tx.Create(moveop.Root, client.Last)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	synced := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := c.WaitSynced(ctx); err != nil {
			t.Fatal(err)
		}
	}
	add()
	synced()
	begin := time.Now()
	w.must("token", "revoke", first.ID, "--database-url", w.database)
	for s := range c.WatchStatus(t.Context()) {
		if s.State == client.StateNeedsAuth {
			break
		}
	}
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("the socket was open for %v more", d)
	}
	add()
	add()
	if n := c.Pending(); n != 2 {
		t.Errorf("%d operations are pending", n)
	}
	fresh := w.mint(t, key, "ann", "team-a=write")
	token.Store(&fresh.Token)
	c.Reconnect()
	synced()
	if room, err := w.db.Room(t.Context(), "team-a"); err != nil || room.Head != 3 {
		t.Errorf("the room is %+v (%v)", room, err)
	}
}

// What a browser or a script sees without a client.
func TestTokensOverTheWire(t *testing.T) {
	t.Parallel()
	w, key := withTokens(t)
	reader := w.mint(t, key, "ben", "team-a=read")
	w.must("import", "team-a", write(t, "attic.json", `{"children":[{}]}`), "--token", w.mint(t, key, "ann", "team-a=write").Token)
	for path, want := range map[string][2]int{ // with the token, without
		w.realtime + "/v1/rooms/team-a/ops":       {200, 401},
		w.realtime + "/v1/rooms/team-b/ops":       {404, 401},
		w.bootstrap + "/v1/rooms/team-a/snapshot": {200, 401},
		w.bootstrap + "/v1/rooms/team-b/stats":    {404, 401},
		w.realtime + "/readyz":                    {200, 200},
		w.bootstrap + "/healthz":                  {200, 200},
	} {
		for i, header := range []http.Header{{"Authorization": {"Bearer " + reader.Token}}, {}} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header = header
			resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			if _ = resp.Body.Close(); resp.StatusCode != want[i] {
				t.Errorf("%s, %d: %d, want %d", path, i, resp.StatusCode, want[i])
			}
			if got := resp.Header.Get("WWW-Authenticate"); (got == "Bearer") != (resp.StatusCode == 401) {
				t.Errorf("%s: WWW-Authenticate %q", path, got)
			}
		}
		// A token in the URL counts for nothing.
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get(path + "?token=" + reader.Token + "&access_token=" + reader.Token)
		if err != nil {
			t.Fatal(err)
		}
		if _ = resp.Body.Close(); resp.StatusCode != want[1] {
			t.Errorf("%s with the token in the URL: %d", path, resp.StatusCode)
		}
	}
	conn, _, err := websocket.DefaultDialer.DialContext(t.Context(), "ws"+strings.TrimPrefix(w.realtime, "http")+"/v1/rooms/team-a/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.WriteJSON(map[string]any{"type": "hello", "replica": "00000000000000ab", "epoch": nil, "seq": 0, "token": reader.Token}); err != nil {
		t.Fatal(err)
	}
	push := `{"type":"push","id":"1","ops":[{"kind":"move","ts":"0190a5c0-0000-0000-0000-0000000000ab","node":"0190a5c0-0000-7000-8000-000000000001","parent":"00000000-0000-0000-0000-000000000001","order_key":"a0","known":0}]}`
	if err := conn.WriteMessage(websocket.TextMessage, []byte(push)); err != nil {
		t.Fatal(err)
	}
	for {
		var msg struct{ Type, Code string }
		if err := conn.ReadJSON(&msg); err != nil {
			t.Fatal(err)
		}
		if msg.Type == "nack" {
			if msg.Code != string(wire.CodeForbidden) {
				t.Errorf("nack %s", msg.Code)
			}
			break
		}
	}
	// Its own token, expired, over the open socket.
	short := w.mint(t, key, "ben", "team-b=read")
	if err := conn.WriteJSON(map[string]any{"type": "auth", "token": short.Token}); err != nil {
		t.Fatal(err)
	}
	for {
		_, _, err := conn.ReadMessage()
		if closed, ok := errors.AsType[*websocket.CloseError](err); ok {
			if closed.Code != wire.CloseForbidden {
				t.Errorf("a token for another room: %v", closed)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A key that the services no longer have ends the sockets of the tokens that it signed.
func TestAKeyThatIsTakenAwayEndsItsSockets(t *testing.T) {
	t.Parallel()
	w, key := withTokens(t)
	w.must("import", "team-a", write(t, "attic.json", `{"children":[{}]}`), "--token", w.mint(t, key, "ann", "team-a=write").Token)
	header := http.Header{"Authorization": {"Bearer " + w.mint(t, key, "ben", "team-a=read").Token}}
	conn, _, err := websocket.DefaultDialer.DialContext(t.Context(), "ws"+strings.TrimPrefix(w.realtime, "http")+"/v1/rooms/team-a/ws", header)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.WriteJSON(map[string]any{"type": "hello", "replica": "00000000000000ab", "epoch": nil, "seq": 0}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := conn.ReadMessage(); err != nil {
		t.Fatal(err)
	}
	next := filepath.Join(t.TempDir(), "next-public.json")
	w.must("token", "keygen", "-o", filepath.Join(t.TempDir(), "next-key.json"), "--public", next)
	if err := os.Rename(next, filepath.Join(filepath.Dir(key), "keys.json")); err != nil {
		t.Fatal(err)
	}
	for {
		_, _, err := conn.ReadMessage()
		if closed, ok := errors.AsType[*websocket.CloseError](err); ok {
			if closed.Code != wire.CloseUnauthorized {
				t.Errorf("closed with %v", closed)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestKeygen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, alg := range []string{"EdDSA", "ES256", "RS256", "HS256"} {
		key := filepath.Join(dir, alg)
		var made keygenResult
		parseJSON(t, command(t.Context(), nil, nil, "token", "keygen", "--alg", alg, "-o", key, "--json").stdout, &made)
		if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 || made.Alg != alg {
			t.Errorf("%s: %v (%v), %+v", alg, info.Mode(), err, made)
		}
		if r := command(t.Context(), nil, nil, "token", "keygen", "--alg", alg, "-o", key); r.code != exitUsage {
			t.Errorf("%s: replaced: %+v", alg, r)
		}
		if r := command(t.Context(), nil, nil, "token", "mint", "ann", "--room=a=read", "--unlisted", "--signing-key", key); r.code != exitOK || strings.Count(r.stdout, ".") != 2 {
			t.Errorf("%s: mint: %+v", alg, r)
		}
	}
	if r := command(t.Context(), nil, nil, "token", "keygen", "-o", "-"); r.code != exitOK || !strings.Contains(r.stdout, `"d":`) {
		t.Errorf("to standard output: %+v", r)
	}
	unpublished := filepath.Join(dir, "unpublished")
	r := command(t.Context(), nil, nil, "token", "keygen", "-o", unpublished, "--public", filepath.Join(dir, "nowhere", "x"))
	if _, err := os.Stat(unpublished); r.code != exitFailure || !os.IsNotExist(err) {
		t.Errorf("without its public key: %v, %+v", err, r)
	}
	key := filepath.Join(dir, "EdDSA")
	for _, args := range []string{
		"token keygen --alg=HS256 -o x --public y", "token keygen -o x --public ./x", "token keygen --output=", "token keygen --alg=none -o x", "token mint ann --room=a=read --unlisted",
		"token mint ann --room=a=read --signing-key=" + key, "token mint ann --unlisted --signing-key=" + key,
		"token mint ann --room=A=read --unlisted --signing-key=" + key, "token mint ann --room=a=own --unlisted --signing-key=" + key,
		"token mint ann --room=a=read --ttl=0s --unlisted --signing-key=" + key,
		"token mint ann --room=a=read --unlisted --signing-key=/dev/null", "token mint ann --room=a=read --unlisted --signing-key=/nowhere",
		"token revoke --database-url=x", "token list",
		"serve realtime --addr=127.0.0.1:0 --database-url=x", "serve bootstrap --addr=127.0.0.1:0 --database-url=x",
		"serve realtime --addr=0.0.0.0:0 --database-url=x --insecure-no-auth",
		"serve realtime --addr=127.0.0.1:0 --database-url=x --insecure-no-auth --auth-key-file=" + key,
	} {
		if r := command(t.Context(), nil, nil, strings.Fields(args)...); r.code != exitUsage || r.stdout != "" {
			t.Errorf("canopy %s: exit code %d, stdout %q, stderr %q", args, r.code, r.stdout, r.stderr)
		}
	}
}
