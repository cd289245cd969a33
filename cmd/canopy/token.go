package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/realtime/auth"
)

type tokenCmd struct {
	Keygen  tokenKeygenCmd  `cmd:"" help:"Make a key to sign tokens with."`
	Mint    tokenMintCmd    `cmd:"" help:"Issue a token for rooms."`
	Inspect tokenInspectCmd `cmd:"" help:"Show a token's content, and whether it is valid."`
	List    tokenListCmd    `cmd:"" help:"List issued tokens."`
	Revoke  tokenRevokeCmd  `cmd:"" help:"Revoke tokens and close their open sockets within seconds."`
}

type tokenMintCmd struct {
	Subject     string        `arg:"" help:"Who the token is for; the others in a room see it."`
	Room        []string      `required:"" placeholder:"ROOM=ACCESS" help:"Access to grant: a room, or a prefix and a star, with read, write or admin. May be repeated."`
	TTL         time.Duration `name:"ttl" default:"24h" placeholder:"DURATION" help:"How long the token is valid; 24h by default."`
	SigningKey  string        `required:"" envar:"CANOPY_SIGNING_KEY" placeholder:"FILE" help:"Private key to sign with, as written by keygen, or PEM."`
	DatabaseURL string        `envar:"CANOPY_DATABASE_URL" placeholder:"URL" help:"Record the token here, so that it can be listed and revoked."`
	Unlisted    bool          `help:"Do without a database and record the token nowhere. It can still be revoked, with --foreign."`
	claimFlags
	jsonFlag
}

// Help is the command's long help.
func (*tokenMintCmd) Help() string {
	return `Prints the token and stores it nowhere: the database records only its id, subject, access and expiry.

The services need the public key (--auth-key-file), and --auth-issuer and --auth-audience if you use them here.

Examples:

    canopy token mint ann --room 'team-*=write' --room handbook=read --signing-key key.json
    canopy token mint backup --room '*=read' --ttl 720h --json`
}

// minted is what is printed with --json.
type minted struct {
	Token   string       `json:"token"`
	ID      string       `json:"id"`
	Subject string       `json:"subject"`
	Rooms   []auth.Grant `json:"rooms"`
	Expires time.Time    `json:"expires"`
}

func (c *tokenMintCmd) Run(ctx context.Context, env *Env) error {
	claims, err := c.claims()
	if err != nil {
		return err
	}
	key, err := signingKey(c.SigningKey)
	if err != nil {
		return err
	}
	token, err := auth.Sign(key, claims)
	if err != nil {
		return usagef("%v", err)
	}
	if err := c.note(ctx, claims); err != nil {
		return err
	}
	result := minted{token, claims.ID, claims.Subject, claims.Rooms, claims.Expires.UTC()}
	return c.print(env, result, func() {
		fmt.Fprintln(env.Stdout, token)
		fmt.Fprintf(env.Stderr, "token %s for %s, good until %s\n", claims.ID, claims.Subject, claims.Expires.Format(time.RFC3339))
	})
}

func (c *tokenMintCmd) claims() (auth.Claims, error) {
	if c.TTL < time.Second {
		return auth.Claims{}, usagef("--ttl %s is less than a second", c.TTL)
	}
	if (c.DatabaseURL == "") != c.Unlisted {
		return auth.Claims{}, usagef("give either --database-url, to record the token, or --unlisted, not to")
	}
	id, err := auth.NewID()
	if err != nil {
		return auth.Claims{}, err
	}
	now := time.Now().Truncate(time.Second) // claims count in seconds
	claims := auth.Claims{
		Subject: c.Subject, ID: id, Issuer: c.AuthIssuer, Issued: now, Expires: now.Add(c.TTL.Truncate(time.Second)),
	}
	if c.AuthAudience != "" {
		claims.Audience = []string{c.AuthAudience}
	}
	for _, text := range c.Room {
		grant, err := auth.ParseGrant(text)
		if err != nil {
			return auth.Claims{}, usagef("--room: %v", err)
		}
		claims.Rooms = append(claims.Rooms, grant)
	}
	return claims, nil
}

// note records the token before it is shown, so that every issued token can be revoked.
func (c *tokenMintCmd) note(ctx context.Context, claims auth.Claims) error {
	if c.Unlisted {
		return nil
	}
	rooms, err := json.Marshal(claims.Rooms)
	if err != nil {
		return err
	}
	db, err := databaseFlag{c.DatabaseURL}.open(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	return db.IssueToken(ctx, pgfuncs.IssuedToken{
		ID: claims.ID, Subject: claims.Subject, Rooms: rooms, Issued: claims.Issued, Expires: claims.Expires,
	})
}

// signingKey reads the one private key of a file.
func signingKey(path string) (auth.Key, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return auth.Key{}, usagef("--signing-key: %v", err)
	}
	keys, err := auth.ParseKeys(text)
	if err != nil {
		return auth.Key{}, usagef("--signing-key %s: %v", path, err)
	}
	if len(keys) != 1 || !keys[0].Signs() {
		return auth.Key{}, usagef("--signing-key %s: the file must hold exactly one private key", path)
	}
	return keys[0], nil
}

type tokenInspectCmd struct {
	Token       string `arg:"" default:"-" help:"The token, or - for standard input (the default): others may see the command line."`
	DatabaseURL string `envar:"CANOPY_DATABASE_URL" placeholder:"URL" help:"Check here whether the token was revoked."`
	authFlags
	jsonFlag
}

// Help is the command's long help.
func (*tokenInspectCmd) Help() string {
	return `Shows a token's content, whether it is valid or not. With keys, it also says whether a service with the same settings would accept the token, and ends with exit code 1 if not.

Examples:

    canopy token inspect < token
    canopy token inspect --auth-key-file keys.json --database-url postgres://canopy@db/canopy < token`
}

// inspected is what is printed with --json.
type inspected struct {
	Header  json.RawMessage `json:"header"`
	Claims  auth.Claims     `json:"claims"`
	Checked bool            `json:"checked"` // there were keys to check with
	Good    bool            `json:"good"`
	Reason  string          `json:"reason,omitempty"` // why it is not good
}

func (c *tokenInspectCmd) Run(ctx context.Context, env *Env) error {
	if c.Token == "-" {
		in, err := openInput(ctx, env, c.Token)
		if err != nil {
			return err
		}
		defer in.Close()
		text, err := io.ReadAll(io.LimitReader(in, 2*auth.MaxTokenBytes))
		if err != nil {
			return err
		}
		c.Token = strings.TrimSpace(string(text))
	}
	var got inspected
	var err error
	if got.Header, got.Claims, err = auth.Inspect(c.Token); err != nil {
		return fmt.Errorf("%w: %w", errNoToken, err)
	}
	refusal, err := c.check(ctx)
	if err != nil {
		return err
	}
	got.Checked = c.given()
	got.Good = got.Checked && refusal == nil
	if refusal != nil {
		got.Reason = refusal.Error()
	}
	if err := c.print(env, got, func() { got.write(env) }); err != nil {
		return err
	}
	return refusal
}

// errNoToken means that the argument is not a token.
var errNoToken = errors.New("not a token")

// check returns the reason why the token is refused, if there are keys to check it with.
func (c *tokenInspectCmd) check(ctx context.Context) (refusal, err error) {
	if !c.given() {
		return nil, nil
	}
	var revoked *auth.Revocations
	if c.DatabaseURL != "" {
		db, err := databaseFlag{c.DatabaseURL}.open(ctx)
		if err != nil {
			return nil, err
		}
		defer db.Close()
		revoked = auth.NewRevocations(auth.RevocationsConfig{Log: revocationLog{db}})
		if err := revoked.Load(ctx); err != nil {
			return nil, err
		}
	}
	v, _, err := c.verifier(ctx, revoked, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	_, refusal = v.Verify(ctx, c.Token)
	return refusal, nil
}

func (i inspected) write(env *Env) {
	w := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
	c := i.Claims
	fmt.Fprintf(w, "header\t%s\nsubject\t%s\nid\t%s\n", inert(string(i.Header), ""), c.Subject, c.ID)
	fmt.Fprintf(w, "issuer\t%s\naudience\t%s\n", inert(c.Issuer, ""), inert(strings.Join(c.Audience, ", "), ""))
	fmt.Fprintf(w, "issued\t%s\nnot before\t%s\nexpires\t%s\n", stamp(c.Issued), stamp(c.NotBefore), stamp(c.Expires))
	for _, g := range c.Rooms {
		fmt.Fprintf(w, "room\t%s\t%s\n", g.Room, g.Access)
	}
	switch {
	case !i.Checked:
		fmt.Fprintln(w, "good\tnot checked: no keys were given")
	case i.Good:
		fmt.Fprintln(w, "good\tyes")
	default:
		fmt.Fprintf(w, "good\tno: %s\n", i.Reason)
	}
	_ = w.Flush() // as Fprintf to standard output elsewhere
}

// stamp is a time for a person.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

type tokenListCmd struct {
	All bool `help:"Also list tokens that expired within the last 90 days."`
	databaseFlag
	jsonFlag
}

// listed is a line of --json.
type listed struct {
	ID      string          `json:"id"`
	Subject string          `json:"subject"`
	Rooms   json.RawMessage `json:"rooms"`
	State   string          `json:"state"` // good, expired or revoked
	Issued  time.Time       `json:"issued"`
	Expires time.Time       `json:"expires"`
	Revoked time.Time       `json:"revoked,omitzero"`
}

func (c *tokenListCmd) Run(ctx context.Context, env *Env) error {
	db, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	tokens, err := db.IssuedTokens(ctx, c.All)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
	if !c.JSON {
		fmt.Fprintln(w, "ID\tSUBJECT\tSTATE\tISSUED\tEXPIRES\tROOMS")
	}
	for _, t := range tokens {
		l := listed{t.ID, t.Subject, t.Rooms, state(t, time.Now()), t.Issued.UTC(), t.Expires.UTC(), t.Revoked}
		if err := c.print(env, l, func() { l.write(w) }); err != nil {
			return err
		}
	}
	return w.Flush()
}

func (l listed) write(w io.Writer) {
	var grants []auth.Grant
	_ = json.Unmarshal(l.Rooms, &grants) // of a newer version, perhaps: show what is understood
	var rooms []string
	for _, g := range grants {
		rooms = append(rooms, g.String())
	}
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", l.ID, l.Subject, l.State, stamp(l.Issued), stamp(l.Expires), strings.Join(rooms, " "))
}

func state(t pgfuncs.IssuedToken, now time.Time) string {
	switch {
	case !t.Revoked.IsZero():
		return "revoked"
	case !t.Expires.After(now):
		return "expired"
	}
	return "good"
}

type tokenRevokeCmd struct {
	IDs     []string `arg:"" name:"id" help:"Token ids (the jti claim), as shown by list and inspect."`
	Foreign bool     `help:"Also accept ids of tokens that are not recorded here."`
	databaseFlag
	jsonFlag
}

// Help is the command's long help.
func (*tokenRevokeCmd) Help() string {
	return `Within five seconds, every server on the database refuses new connections with the token and closes its open sockets (4401). The clients keep their pending operations.

Examples:

    canopy token revoke 8c2f4b0de1a94c7f9d3a5b6c7e8f9012
    canopy token list --json | jq -r 'select(.subject=="ann") | .id' | xargs canopy token revoke`
}

// revoked is a line of --json.
type revoked struct {
	ID      string    `json:"id"`
	Revoked time.Time `json:"revoked"`
}

// Run revokes as many tokens as it can: one wrong id must not keep another token valid.
func (c *tokenRevokeCmd) Run(ctx context.Context, env *Env) error {
	db, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	var unknown []string
	for _, id := range c.IDs {
		at, ok, err := db.RevokeToken(ctx, id, c.Foreign)
		if err != nil {
			return fmt.Errorf("token %.200s: %w", id, err)
		}
		if !ok {
			unknown = append(unknown, id)
			continue
		}
		err = c.print(env, revoked{id, at.UTC()}, func() { fmt.Fprintf(env.Stdout, "%s has been revoked since %s\n", id, stamp(at)) })
		if err != nil {
			return err
		}
	}
	if len(unknown) > 0 {
		return fmt.Errorf("not issued here: %s (--foreign revokes other issuers' tokens)", strings.Join(unknown, ", "))
	}
	return nil
}
