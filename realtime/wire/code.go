package wire

import "net/http"

// Code is the reason why a message, a batch or a request was refused. The table in this package's README
// says for each code whether and when to try again. No code ever makes a client drop its outbox.
type Code string

// The codes of the protocol.
const (
	CodeBadRequest       Code = "bad_request"       // malformed, unknown type, wrong room name: a bug in the sender
	CodeInvalidOp        Code = "invalid_op"        // an op that no replica may make; Error.Op names it
	CodeClockSkew        Code = "clock_skew"        // a timestamp more than 60 s ahead: set the clock offset, re-stamp, push again
	CodeConflict         Code = "conflict"          // another op with the same timestamp exists
	CodeOutOfOrder       Code = "out_of_order"      // a replica's ops are not in timestamp order
	CodeTooOld           Code = "too_old"           // an op from before the room's horizon: re-stamp, push again
	CodeTooLarge         Code = "too_large"         // more ops than limits.max_ops: push smaller batches
	CodeForbidden        Code = "forbidden"         // the token does not allow it
	CodeForbiddenReplica Code = "forbidden_replica" // ops by a replica other than the session's
	CodeReplicaInUse     Code = "replica_in_use"    // another live socket uses this replica id
	CodeUnauthorized     Code = "unauthorized"      // the token is missing, invalid or expired
	CodeRateLimited      Code = "rate_limited"      // too much at once: wait, push again
	CodeBusy             Code = "busy"              // overloaded, draining or without its database: wait, push again
	CodeInternal         Code = "internal"          // a fault in the server: wait, push again

	// CodeCompacted is the answer over HTTP (410) if the ops right after the cursor are no longer in the
	// log; a socket gets a Resync instead, never an Error or a Nack with this code.
	CodeCompacted Code = "compacted"
)

// Retryable reports whether sending the same thing again later can succeed.
func (c Code) Retryable() bool {
	switch c {
	case CodeRateLimited, CodeBusy, CodeInternal, CodeReplicaInUse:
		return true
	}
	return false
}

// HTTPStatus returns the HTTP status for the code, with two exceptions: an unknown room is 404 (see
// UnknownRoom), and a Nack with CodeInternal is 503.
func (c Code) HTTPStatus() int {
	switch c {
	case CodeBadRequest:
		return http.StatusBadRequest
	case CodeUnauthorized:
		return http.StatusUnauthorized
	case CodeForbidden, CodeForbiddenReplica:
		return http.StatusForbidden
	case CodeConflict, CodeOutOfOrder, CodeTooOld, CodeReplicaInUse:
		return http.StatusConflict
	case CodeCompacted:
		return http.StatusGone
	case CodeInvalidOp, CodeClockSkew, CodeTooLarge:
		return http.StatusUnprocessableEntity
	case CodeBusy, CodeRateLimited:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// Close codes of a socket. The README says how a client reacts to each.
const (
	CloseTooLarge     = 1009 // a frame larger than limits.max_frame
	CloseRestart      = 1012 // the server restarts; the reason is a RestartReason
	CloseOverloaded   = 1013 // too slow or overloaded: reconnect and catch up
	CloseBadRequest   = 4400 // the session cannot go on: no hello, or a malformed one
	CloseUnauthorized = 4401 // the token is missing, invalid or expired
	CloseForbidden    = 4403 // the token does not allow this room
	CloseHelloTimeout = 4408 // no hello in time
	CloseReplicaInUse = 4409 // another live socket uses this replica id
)
