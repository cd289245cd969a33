package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"strings"
	"time"

	"github.com/canopysync/canopy/realtime/wire"
)

const (
	// refreshLead is the least time before its end at which a token is replaced.
	refreshLead = 10 * time.Second
	// refreshPause is the least time between two questions for a token on one connection.
	refreshPause = time.Second
)

// refresher gets the next token from Options.Token before the one in use expires, so that the connection stays open.
// It ignores tokens that are not JSON Web Tokens, or do not expire: the server will say when it wants another.
type refresher struct {
	opts  *Options
	log   *slog.Logger
	fresh chan string // tokens to send
}

// startRefresh runs a refresher until stop is called, which waits for it.
func (l *link) startRefresh(ctx context.Context) (fresh <-chan string, stop func()) {
	if l.c.opts.Token == nil {
		return nil, func() {}
	}
	r := refresher{&l.c.opts, l.log, make(chan string)}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.run(ctx, l.conn.token)
	}()
	return r.fresh, func() {
		cancel()
		<-done
	}
}

func (r *refresher) run(ctx context.Context, token string) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for {
		end, ok := tokenEnd(token)
		if !ok {
			return
		}
		timer.Reset(refreshIn(end.Sub(r.opts.Now())))
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		next, err := r.opts.Token(ctx)
		if err != nil {
			r.log.Warn("no fresh token", "error", err)
			continue
		}
		if next == token {
			continue // it has no other one yet
		}
		select {
		case r.fresh <- next:
			token = next
		case <-ctx.Done():
			return
		}
	}
}

// refreshIn is how long to keep a token with the given remaining validity: four fifths of it, or all but the lead.
func refreshIn(left time.Duration) time.Duration {
	return max(left-max(left/5, refreshLead), refreshPause)
}

// tokenEnd reads when a JSON Web Token ends. It verifies nothing; that is the server's business.
func tokenEnd(token string) (end time.Time, ok bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}, false
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}, false
	}
	var claims struct {
		Exp float64 `json:"exp"`
	}
	if json.Unmarshal(text, &claims) != nil || claims.Exp <= 0 {
		return time.Time{}, false
	}
	return time.Unix(int64(claims.Exp), 0), true
}

// sendToken brings a fresh token over the open connection.
func (l *link) sendToken(token string) error {
	l.log.Info("sending a fresh token")
	return l.conn.Send(wire.Auth{Token: token})
}
