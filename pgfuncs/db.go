// Package pgfuncs is the typed Go face of Canopy's stored functions: one method per function, a
// migrator, and one mapping from SQLSTATEs to Go errors. The logic is in the functions (package sql);
// nothing here decides anything about the tree.
//
// A DB is safe for concurrent use. Refused batches come back as *wire.Error, an unknown room as
// wire.ErrUnknownRoom; any other error is the database's own, which wraps wire.ErrUnavailable where
// SafeToRetry says that it is worth another try. Every call is one transaction, so an error means that nothing was changed,
// except where the connection broke around COMMIT: repeating the call is harmless.
package pgfuncs

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// DB calls the stored functions of one database through a connection pool.
type DB struct {
	pool *pgxpool.Pool
}

// minConns is the size of a pool on a machine with few cores where the URL does not say. A snapshot keeps
// its connection for as long as its reader takes, so pgx's default, four, is soon taken up.
const minConns = 20

// connectTimeout is for an address where something listens and does not answer, where the URL does not say.
const connectTimeout = 10 * time.Second

// maxMessage is the most bytes that are taken from the database at once, such as a row. All but the properties of
// one node, of which there may be any number, take far less.
const maxMessage = 64 << 20

// Option changes what Open makes.
type Option func(*pgxpool.Config)

// WithTracer has a tracer told of everything that goes to the database.
func WithTracer(tracer pgx.QueryTracer) Option {
	return func(config *pgxpool.Config) { config.ConnConfig.Tracer = tracer }
}

// Open makes a pool for a database URL or DSN (with pgx's pool_… parameters; pool_max_conns defaults to
// the number of cores, but no less than 20, connect_timeout to 10 s). It does not wait for the database: the first
// call connects. Close the DB to release its connections.
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
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open database pool: %w", err)
	}
	return &DB{pool: pool}, nil
}

// hideOtherSchemas keeps names and operators in statements from meaning what somebody has put into another
// schema of the search_path. A statement and not a parameter of the connection, which poolers refuse.
func hideOtherSchemas(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, `set search_path = pg_catalog, pg_temp`)
	return err
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

// snapshotOptions give all statements of a transaction one consistent view and no right to write.
var snapshotOptions = pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
