package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/canopysync/canopy/moveop"
)

var (
	// ErrUnknownRoom is a store's error for a room that does not exist.
	ErrUnknownRoom = errors.New("unknown room")
	// ErrUnavailable is wrapped by a store's error while the store cannot be reached or accepts no work. Try
	// again later.
	ErrUnavailable = errors.New("the database is not available")
	// ErrUnknownType is wrapped by the error of Codec.Decode for a message type that this version of the
	// protocol does not have.
	ErrUnknownType = errors.New("unknown message type")
)

// Error is a refusal with its code: the body of a Nack, the error message of a socket, and the error of an
// HTTP response. A store returns one for a batch that it refuses.
type Error struct {
	Code Code `json:"code"`
	// Op is the refused operation; nil if the error is not about a single one.
	Op        *moveop.Timestamp `json:"op,omitempty"`
	Retryable bool              `json:"retryable"`
	Message   string            `json:"message"`
	// ServerTime is the server's Unix time in milliseconds, on every Nack. With CodeClockSkew, the sender
	// sets its clock by it.
	ServerTime int64 `json:"server_time,omitempty"`

	cause error // the wrapped error
}

// NewError returns an Error that is retryable if its code is.
func NewError(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Retryable: code.Retryable(), Message: fmt.Sprintf(format, args...)}
}

// OpError returns an Error about one operation.
func OpError(code Code, op moveop.Timestamp, format string, args ...any) *Error {
	e := NewError(code, format, args...)
	e.Op = &op
	return e
}

// Error implements error.
func (e *Error) Error() string {
	if e.Op != nil {
		return fmt.Sprintf("%s: op %s: %s", e.Code, e.Op, e.Message)
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Message)
}

// Unwrap returns the cause of the error, if it has one that callers can test for.
func (e *Error) Unwrap() error { return e.cause }

// unknownType is the error for a message of an unknown type.
func unknownType(name string) *Error {
	e := NewError(CodeBadRequest, "%s %s", ErrUnknownType, name)
	e.cause = ErrUnknownType
	return e
}

// Type implements Message: an Error is the message "error".
func (*Error) Type() string { return "error" }

// AsError returns the Error in err's chain. ErrUnknownRoom becomes the error of UnknownRoom, ErrUnavailable
// becomes CodeBusy, and any other error CodeInternal. These never include the text of err, which is not for
// clients.
func AsError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if errors.Is(err, ErrUnknownRoom) {
		return UnknownRoom()
	}
	if errors.Is(err, ErrUnavailable) {
		return NewError(CodeBusy, "the database is not available")
	}
	return NewError(CodeInternal, "internal error")
}

// UnknownRoom returns the error (HTTP 404) for a room that does not exist and for one that the token may
// not see. Clients must not be able to tell the two apart, so both have CodeForbidden.
func UnknownRoom() *Error {
	return NewError(CodeForbidden, "there is no such room, or the token may not see it")
}

// httpError is the body of an HTTP answer that is neither ack nor nack.
type httpError struct {
	Error struct {
		Code      Code   `json:"code"`
		Message   string `json:"message"`
		Retryable bool   `json:"retryable"`
	} `json:"error"`
}

// SetRoute copies what Echo's router found into a request: the parameters, for PathValue, and the pattern
// in the syntax of net/http, for middleware. Echo takes parameters from RawPath if it is set, still escaped.
func SetRoute(r *http.Request, path string, names, values []string) {
	for i, name := range names {
		value := values[i]
		if r.URL.RawPath != "" {
			value, _ = url.PathUnescape(value) // net/url has validated them
		}
		r.SetPathValue(name, value)
	}
	r.Pattern = strings.Replace(path, ":room", "{room}", 1)
}

// WriteError answers an HTTP request with e. A retryable error gets a Retry-After header, a 401 a
// WWW-Authenticate header.
func WriteError(w http.ResponseWriter, status int, e *Error) {
	var body httpError
	body.Error.Code, body.Error.Message, body.Error.Retryable = e.Code, e.Message, e.Retryable
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if e.Retryable {
		w.Header().Set("Retry-After", "1")
	}
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // if this fails the peer is gone, with nobody left to tell
}

// ReadError returns the Error in the body of an HTTP response outside 2xx, a nack or not. It reads at most
// 64 KiB. If the body is something else (a proxy's page), the Error is made from the status alone.
func ReadError(resp *http.Response) *Error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var body httpError
	if json.Unmarshal(text, &body) == nil && body.Error.Code != "" {
		b := body.Error
		return &Error{Code: b.Code, Message: b.Message, Retryable: b.Retryable}
	}
	if msg, err := JSON.Decode(text); err == nil {
		if nack, ok := msg.(Nack); ok {
			return &nack.Error
		}
	}
	return &Error{
		Code:      codeOfStatus(resp.StatusCode),
		Retryable: resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests,
		Message:   "not an answer of Canopy: http status " + strconv.Itoa(resp.StatusCode),
	}
}

func codeOfStatus(status int) Code {
	switch status {
	case http.StatusUnauthorized:
		return CodeUnauthorized
	case http.StatusForbidden:
		return CodeForbidden
	case http.StatusGone:
		return CodeCompacted
	case http.StatusRequestEntityTooLarge:
		return CodeTooLarge
	case http.StatusTooManyRequests:
		return CodeRateLimited
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return CodeBusy
	}
	if status >= 500 {
		return CodeInternal
	}
	return CodeBadRequest
}

// restart is the reason of a close with CloseRestart.
type restart struct {
	Reason       string `json:"reason"`
	RetryAfterMS int64  `json:"retry_after_ms"`
}

// RestartReason returns the reason text of a CloseRestart: JSON with the delay after which the client
// reconnects; the client adds jitter.
func RestartReason(delay time.Duration) string {
	text, _ := json.Marshal(restart{"restart", delay.Milliseconds()}) // cannot fail: a string and a number
	return string(text)
}

// ParseRestartReason returns the delay in a RestartReason; ok is false for any other text.
func ParseRestartReason(reason string) (delay time.Duration, ok bool) {
	var r restart
	if json.Unmarshal([]byte(reason), &r) != nil || r.Reason != "restart" || r.RetryAfterMS < 0 {
		return 0, false
	}
	return time.Duration(min(r.RetryAfterMS, int64(time.Hour/time.Millisecond))) * time.Millisecond, true
}
