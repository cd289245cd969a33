// Package pgfuncs is the typed Go interface to Canopy's stored functions: one method per function, a
// migrator, and one mapping from SQLSTATEs to Go errors. The logic is in the functions (package sql);
// nothing here decides anything about the tree.
//
// A DB is safe for concurrent use. A refused batch is a *wire.Error, an unknown room wire.ErrUnknownRoom. Any
// other error is the database's own; it wraps wire.ErrUnavailable if SafeToRetry says that trying again may
// help. Unless documented otherwise, a call is one transaction: an error means that nothing was changed,
// unless the connection broke around COMMIT. Repeating the call is harmless then.
package pgfuncs

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// DB calls the stored functions of one database through a connection pool.
type DB struct {
	pool *pgxpool.Pool
}

// minConns is the minimum pool size unless the URL sets one. A snapshot keeps its connection until its reader is done,
// so pgx's default on a machine with few cores, four, is soon exhausted.
const minConns = 20

// connectTimeout applies, unless the URL sets one, if something at the address accepts but does not answer.
const connectTimeout = 10 * time.Second

// maxMessage is the maximum size in bytes of one message from the database, such as a row. Everything but the
// properties of one node, whose number is not bounded, is far smaller.
const maxMessage = 64 << 20

// Option configures Open.
type Option func(*pgxpool.Config)

// WithTracer reports every database call to a tracer.
func WithTracer(tracer pgx.QueryTracer) Option {
	return func(config *pgxpool.Config) { config.ConnConfig.Tracer = tracer }
}

// Open creates a connection pool for a database URL or DSN, with pgx's pool_… parameters. pool_max_conns
// defaults to the number of cores but at least 20, connect_timeout to 10 s. Open does not connect; the first
// call does. Close the DB to release its connections.
func Open(ctx context.Context, databaseURL string, opts ...Option) (*DB, error) {
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return nil, fmt.Errorf("parse database url: %w", err)
	}
	if !strings.Contains(databaseURL, "pool_max_conns") {
		config.MaxConns = max(config.MaxConns, minConns)
	}
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = connectTimeout
	}
	config.ConnConfig.MaxProtocolMessageBodyLen = maxMessage
	for _, opt := range opts {
		opt(config)
	}
	config.AfterConnect = hideOtherSchemas
	config.ConnConfig.OnPgError = leaveStandby(config.ConnConfig.OnPgError)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open database pool: %w", err)
	}
	return &DB{pool: pool}, nil
}

// hideOtherSchemas prevents objects in other schemas of the search_path from shadowing names and operators in our
// statements. It is a statement because poolers reject search_path as a startup parameter.
func hideOtherSchemas(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, `set search_path = pg_catalog, pg_temp`)
	return err
}

// leaveStandby closes connections to a server that accepts no writes: after a failover the pool would otherwise keep
// its connections to the former primary.
func leaveStandby(next pgconn.PgErrorHandler) pgconn.PgErrorHandler {
	return func(conn *pgconn.PgConn, err *pgconn.PgError) bool { return err.Code != readOnly && next(conn, err) }
}

// Close closes all connections and waits for the ones in use.
func (db *DB) Close() { db.pool.Close() }

// Ping checks that the database answers.
func (db *DB) Ping(ctx context.Context) error {
	if err := db.pool.Ping(ctx); err != nil {
		return fmt.Errorf("ping database: %w", err)
	}
	return nil
}

// snapshotOptions give all statements of a transaction one snapshot, and let none write.
var snapshotOptions = pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
