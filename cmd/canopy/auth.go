package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/realtime"
	"github.com/canopysync/canopy/realtime/auth"
	"github.com/canopysync/canopy/realtime/wire"
)

// keyFlags select the keys to verify tokens with.
type keyFlags struct {
	AuthKeyFile []string `envar:"CANOPY_AUTH_KEY_FILE" placeholder:"FILE" help:"Accept tokens signed with a key in this file: PEM, a JWK or a JWK Set. May be repeated."`
	AuthKey     string   `envar:"CANOPY_AUTH_KEY" placeholder:"TEXT" help:"Keys themselves, in the form of an --auth-key-file. Others may see the command line: put a secret into the variable or a file."`
	AuthJWKSURL string   `name:"auth-jwks-url" envar:"CANOPY_AUTH_JWKS_URL" placeholder:"URL" help:"Fetch the issuer's keys from this URL, as a JWK Set."`
}

// claimFlags are the claims that tokens must have, and that minted tokens get.
type claimFlags struct {
	AuthIssuer   string `envar:"CANOPY_AUTH_ISSUER" placeholder:"ISSUER" help:"Issuer (iss) of tokens; any by default."`
	AuthAudience string `envar:"CANOPY_AUTH_AUDIENCE" placeholder:"AUDIENCE" help:"Audience (aud) of tokens; by default they must have none."`
}

// authFlags are the flags to verify tokens.
type authFlags struct {
	keyFlags
	claimFlags
	AuthLeeway time.Duration `default:"2s" envar:"CANOPY_AUTH_LEEWAY" placeholder:"DURATION" help:"How far issuers' clocks may be off; 2s by default."`
}

// given reports whether there are any keys.
func (f keyFlags) given() bool {
	return len(f.AuthKeyFile) > 0 || f.AuthKey != "" || f.AuthJWKSURL != ""
}

func (f keyFlags) sources() ([]auth.Source, error) {
	var sources []auth.Source
	for _, path := range f.AuthKeyFile {
		sources = append(sources, auth.File(path))
	}
	if f.AuthKey != "" {
		sources = append(sources, auth.Text("--auth-key", f.AuthKey))
	}
	if f.AuthJWKSURL != "" {
		source, err := auth.URL(f.AuthJWKSURL, nil)
		if err != nil {
			return nil, usagef("--auth-jwks-url: %v", err)
		}
		sources = append(sources, source)
	}
	return sources, nil
}

// verifier loads the keys. Without a list of revoked tokens, none counts as revoked.
func (f authFlags) verifier(ctx context.Context, revoked *auth.Revocations, log *slog.Logger) (*auth.Verifier, *auth.Keyring, error) {
	sources, err := f.sources()
	if err != nil {
		return nil, nil, err
	}
	keys := auth.NewKeyring(auth.KeyringConfig{Sources: sources, Logger: log})
	if err := keys.Load(ctx); err != nil {
		return nil, nil, err
	}
	if f.AuthLeeway == 0 {
		f.AuthLeeway = -1 // none, where zero is the default
	}
	v, err := auth.NewVerifier(auth.VerifierConfig{
		Keys: keys, Issuer: f.AuthIssuer, Audience: f.AuthAudience, Leeway: f.AuthLeeway, Revocations: revoked,
	})
	if err != nil {
		return nil, nil, usagef("%v", err)
	}
	return v, keys, nil
}

// gate lets the bearers of valid tokens into both services, by the hook of each. A nil gate lets everybody in.
type gate struct {
	verifier *auth.Verifier
	keys     *auth.Keyring
	revoked  *auth.Revocations
}

// newGate loads keys and the list of revoked tokens.
func newGate(ctx context.Context, f authFlags, db *pgfuncs.DB, log *slog.Logger) (*gate, error) {
	revoked := auth.NewRevocations(auth.RevocationsConfig{Log: revocationLog{db}, Logger: log})
	if err := revoked.Load(ctx); err != nil {
		return nil, err
	}
	verifier, keys, err := f.verifier(ctx, revoked, log)
	if err != nil {
		return nil, err
	}
	return &gate{verifier, keys, revoked}, nil
}

// around runs a service, and keeps keys and the list of revoked tokens up to date meanwhile.
func (g *gate) around(ctx context.Context, serve func(context.Context) error) error {
	if g == nil {
		return serve(ctx)
	}
	polling, stop := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { g.revoked.Run(polling) })
	running.Go(func() { g.keys.Run(polling) })
	err := serve(ctx)
	stop() // when the service has drained
	running.Wait()
	return err
}

// realtime gives a realtime service its hooks.
func (g *gate) realtime(cfg *realtime.Config) {
	if g != nil {
		cfg.Authorize = g.grant
	}
}

func (g *gate) grant(ctx context.Context, token, room string) (realtime.Grant, error) {
	claims, err := g.verifier.Verify(ctx, token)
	if err != nil {
		return realtime.Grant{}, err
	}
	access := claims.Access(room)
	return realtime.Grant{
		Read: access >= auth.Read, Write: access >= auth.Write,
		User: claims.Subject, Expires: g.verifier.Deadline(claims), Withdrawn: g.verifier.Withdrawn(claims),
	}, nil
}

// mayRead is the hook of a bootstrap service.
func (g *gate) mayRead(ctx context.Context, token, room string) error {
	claims, err := g.verifier.Verify(ctx, token)
	if err != nil {
		return err
	}
	if claims.Access(room) < auth.Read {
		return wire.ErrUnknownRoom
	}
	return nil
}

// revocationLog adapts the database to the list of revoked tokens.
type revocationLog struct{ db *pgfuncs.DB }

// RevocationsAfter implements auth.RevocationLog.
func (l revocationLog) RevocationsAfter(ctx context.Context, after int64, limit int) ([]auth.Revocation, int64, error) {
	rows, head, err := l.db.RevocationsAfter(ctx, after, limit)
	list := make([]auth.Revocation, len(rows))
	for i, row := range rows {
		list[i] = auth.Revocation(row)
	}
	return list, head, err
}
