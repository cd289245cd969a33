package wire

import "net/http"

// Code says why a message, a batch or a request was refused. The table in this package's README says
// for each of them whether and when to try again; none of them ever makes a client drop its outbox.
type Code string

// The codes of the protocol.
const (
	CodeBadRequest       Code = "bad_request"       // malformed, unknown type, wrong room name: a bug of the sender
	CodeInvalidOp        Code = "invalid_op"        // an op that no replica may make; Error.Op names it
	CodeClockSkew        Code = "clock_skew"        // a timestamp more than 60 s ahead: set the clock offset, re-stamp, push again
	CodeConflict         Code = "conflict"          // the same timestamp with another body
	CodeOutOfOrder       Code = "out_of_order"      // a replica's ops not in timestamp order
	CodeTooOld           Code = "too_old"           // an op from before the room's horizon: re-stamp, push again
	CodeTooLarge         Code = "too_large"         // more ops than limits.max_ops: push smaller batches
	CodeForbidden        Code = "forbidden"         // the token does not allow it
	CodeForbiddenReplica Code = "forbidden_replica" // ops of another replica than the session's
	CodeReplicaInUse     Code = "replica_in_use"    // another live socket speaks for this replica
	CodeUnauthorized     Code = "unauthorized"      // no token, a wrong one, or an expired one
	CodeRateLimited      Code = "rate_limited"      // too much at once: wait, push again
	CodeBusy             Code = "busy"              // overloaded, draining or without its database: wait, push again
	CodeInternal         Code = "internal"          // a fault of the server: wait, push again

	// CodeCompacted is answered over HTTP (410) where history before the cursor is gone; over a
	// socket the same is a Resync. It is no code of an Error message or a Nack.
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

// HTTPStatus is the status that carries the code outside the two special cases: an unknown room is
// 404 (see UnknownRoom), and a Nack for CodeInternal is 503.
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

// Close codes of a socket. See the README for what a client does about each.
const (
	CloseTooLarge     = 1009 // a frame above limits.max_frame
	CloseRestart      = 1012 // the server restarts; the reason is a RestartReason
	CloseOverloaded   = 1013 // too slow or overloaded: reconnect and catch up
	CloseBadRequest   = 4400 // the session cannot go on: no hello, or not one that can be understood
	CloseUnauthorized = 4401 // no token, a wrong one, or an expired one
	CloseForbidden    = 4403 // the token does not allow this room
	CloseHelloTimeout = 4408 // no hello in time
	CloseReplicaInUse = 4409 // another live socket speaks for this replica
)
