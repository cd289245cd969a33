package pgfuncs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

var (
	// ErrNotMigrated is reported if the schema or the functions are missing or not of this version.
	ErrNotMigrated = errors.New("the database is not migrated to this version: run canopy migrate up")
	// ErrNewerSchema is reported if a newer version has migrated the database. This version must not
	// touch it.
	ErrNewerSchema = errors.New("the database schema is newer than this version of canopy: update canopy")
	// ErrNotGranted is reported if the database role of this connection lacks a right.
	ErrNotGranted = errors.New("the database role may not do this: give a service's role its rights with canopy migrate grant; for everything else use the role that owns the schema")
	// ErrUnknownRole is reported if the database has no such role.
	ErrUnknownRole = errors.New("the database has no such role")
	// ErrDamaged is reported if the recorded parents form a cycle, which happens only in a damaged
	// database.
	ErrDamaged = errors.New("the room's tree is damaged")
)

// refusals maps the functions' own SQLSTATEs; sql/README.md says when each is raised.
var refusals = map[string]wire.Code{
	"CN409": wire.CodeConflict,
	"CN410": wire.CodeTooOld,
	"CN416": wire.CodeOutOfOrder,
	"CN422": wire.CodeInvalidOp,
	"CN425": wire.CodeClockSkew,
}

// refusalDetail is the DETAIL of an error raised by the SQL function refuse.
type refusalDetail struct {
	Op         *moveop.Timestamp `json:"op"`
	ServerTime int64             `json:"server_time"`
}

// domainError maps a database error to one that callers branch on, and wraps any other with what was being done.
func domainError(doing string, err error) error {
	if SafeToRetry(err) || connectionLost(err) {
		return fmt.Errorf("%s: %w: %w", doing, wire.ErrUnavailable, err)
	}
	if _, ok := errors.AsType[*pgproto3.ExceededMaxBodyLenErr](err); ok {
		return wire.NewError(wire.CodeTooLarge, "the properties of a node have more than %d bytes: take a snapshot", maxMessage)
	}
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if code, ok := refusals[pgErr.Code]; ok {
		var detail refusalDetail
		if err := json.Unmarshal([]byte(pgErr.Detail), &detail); err != nil {
			return fmt.Errorf("%s: %w", doing, errors.Join(pgErr, err))
		}
		refused := wire.NewError(code, "%s", pgErr.Message)
		refused.Op, refused.ServerTime = detail.Op, detail.ServerTime
		return refused
	}
	switch pgErr.Code {
	case "CN404":
		return wire.ErrUnknownRoom
	case "CN411":
		return wire.NewError(wire.CodeCompacted, "%s: take a snapshot", pgErr.Message)
	case "CN500":
		return fmt.Errorf("%s: %w: %w", doing, ErrDamaged, pgErr)
	case "22P02": // invalid text representation: only JSON values are passed as text
		return wire.NewError(wire.CodeInvalidOp, "a value is not JSON that the database accepts")
	case "23514": // check violation: the message names the constraint, which says what is wrong
		return wire.NewError(wire.CodeBadRequest, "%s", pgErr.Message)
	case "42501": // insufficient privilege
		return fmt.Errorf("%s: %w: %w", doing, ErrNotGranted, pgErr)
	case "3F000", "42P01", "42883": // undefined schema, table, function
		return fmt.Errorf("%s: %w: %w", doing, ErrNotMigrated, pgErr)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// readOnly is the SQLSTATE of a write to a standby, or to a server that its provider made read-only because the disk
// is nearly full.
const readOnly = "25006"

// SafeToRetry reports whether the same call may succeed later: the connection was lost or refused, the
// database is starting, stopping or out of resources, or it aborted the transaction to resolve a conflict.
// Every method may be repeated without harm.
func SafeToRetry(err error) bool {
	if errors.Is(err, wire.ErrUnavailable) {
		return true
	}
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pgErr.Code {
		case readOnly, "25P03", "25P04", "55P03": // transaction and lock timeouts
			return true
		}
		switch pgErr.Code[:min(len(pgErr.Code), 2)] { // something other than Postgres may send none
		case "08", "40", "53", "57", "58": // connection, rollback, resources, operator, system
			return true
		}
		return false
	}
	var connect *pgconn.ConnectError
	return pgconn.SafeToRetry(err) || pgconn.Timeout(err) || errors.As(err, &connect)
}

// connectionLost reports whether the connection broke during a call. The error shows that only if the call read and
// wrote nothing but the database.
func connectionLost(err error) bool {
	_, network := errors.AsType[*net.OpError](err)
	return network || errors.Is(err, io.ErrUnexpectedEOF)
}
