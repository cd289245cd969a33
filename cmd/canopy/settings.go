package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/pgfuncs/localpg"
)

// The protocol's default ports.
const (
	defaultRealtimeAddr  = "127.0.0.1:8420"
	defaultBootstrapAddr = "127.0.0.1:8421"
)

// defaults are the variables in flags' tags.
var defaults = map[string]string{
	"data_dir":       localpg.DefaultDataDir(),
	"realtime_addr":  defaultRealtimeAddr,
	"bootstrap_addr": defaultBootstrapAddr,
	"realtime_url":   "http://" + defaultRealtimeAddr,
	"bootstrap_url":  "http://" + defaultBootstrapAddr,
}

// logFlags choose what a long-lived command logs, always on standard error.
type logFlags struct {
	LogLevel  slog.Level `default:"info" envar:"CANOPY_LOG_LEVEL" placeholder:"LEVEL" help:"Lowest level to log: debug, info, warn or error; info by default."`
	LogFormat string     `default:"text" enum:"text,json" envar:"CANOPY_LOG_FORMAT" help:"Format of the log: text or json."`
}

func (f logFlags) logger(env *Env) *slog.Logger {
	opts := &slog.HandlerOptions{Level: f.LogLevel}
	if f.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(env.Stderr, opts))
	}
	return slog.New(slog.NewTextHandler(env.Stderr, opts))
}

// databaseFlag is for commands that cannot do without a database.
type databaseFlag struct {
	DatabaseURL string `required:"" placeholder:"URL" envar:"CANOPY_DATABASE_URL" help:"Postgres 15 or later, as postgres://user@host/database."`
}

// readyTimeout is how long the database may take to say which version's it is.
const readyTimeout = 10 * time.Second

// open returns a pool, which the caller closes, of a database that is exactly this version's.
func (f databaseFlag) open(ctx context.Context, opts ...pgfuncs.Option) (*pgfuncs.DB, error) {
	db, err := f.connect(ctx, opts...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := db.Ready(ctx); err != nil {
		db.Close()
		return nil, unavailable(fmt.Errorf("database: %w", err))
	}
	return db, nil
}

// connect is open for what works on databases of other versions too.
func (f databaseFlag) connect(ctx context.Context, opts ...pgfuncs.Option) (*pgfuncs.DB, error) {
	db, err := pgfuncs.Open(ctx, f.DatabaseURL, opts...)
	if err != nil {
		return nil, usagef("database URL: %v", err)
	}
	return db, nil
}

// jsonFlag is for commands that print a result.
type jsonFlag struct {
	JSON bool `name:"json" envar:"CANOPY_JSON" help:"Print JSON, one object per line."`
}

// print writes v as a line of JSON, or has human write it for people.
func (f jsonFlag) print(env *Env, v any, human func()) error {
	if !f.JSON {
		human()
		return nil
	}
	return printJSON(env, v)
}

func printJSON(env *Env, v any) error {
	enc := json.NewEncoder(env.Stdout)
	enc.SetEscapeHTML(false) // a URL is a URL for tools that are not JSON's, too
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}
