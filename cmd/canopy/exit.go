package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/cmd/canopy/internal/outline"
	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/realtime/wire"
)

// Exit codes, for scripts. They are in the help and in README.md too.
const (
	exitOK          = 0
	exitFailure     = 1   // anything that has no code of its own
	exitUsage       = 2   // the command line or the environment is wrong: nothing was done
	exitUnknownRoom = 3   // the room does not exist
	exitUnavailable = 4   // a service or the database is not there, or not ready: try again later
	exitBadInput    = 5   // the file or stream is damaged, or not what it should be
	exitInterrupted = 130 // a signal came before the work was done
	exitUnread      = 141 // nobody reads standard output any more; what a shell shows of a process that SIGPIPE ended
)

// usageError is an error in the command line that is found only while running.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

// unavailableError is an error that may be gone another time.
type unavailableError struct{ err error }

func (e *unavailableError) Error() string { return e.err.Error() }
func (e *unavailableError) Unwrap() error { return e.err }

func unavailable(err error) error {
	if err == nil {
		return nil
	}
	return &unavailableError{err}
}

var badInput = []error{
	format.ErrNotSnapshot, format.ErrVersion, format.ErrTruncated, format.ErrChecksum, format.ErrCorrupt,
	outline.ErrFormat, client.ErrNotCanopyFile, client.ErrNewerVersion, client.ErrCorrupt,
	errNoToken, errUnsound,
}

// exitCode maps an error to the code that tells scripts what to do about it.
func exitCode(ctx context.Context, err error) int {
	switch {
	case err == nil:
		return exitOK
	case isUnread(err):
		return exitUnread
	case isUsage(err):
		return exitUsage
	case errors.Is(err, wire.ErrUnknownRoom):
		return exitUnknownRoom
	case isInterrupted(ctx, err):
		return exitInterrupted
	case isAny(err, badInput):
		return exitBadInput
	case isUnavailable(err):
		return exitUnavailable
	}
	return exitFailure
}

// isUnread reports whether the reader of standard output is gone, as after head.
func isUnread(err error) bool {
	write, ok := errors.AsType[*fs.PathError](err)
	return ok && write.Path == os.Stdout.Name() && errors.Is(write, syscall.EPIPE)
}

func isUsage(err error) bool {
	if _, ok := errors.AsType[*kong.ParseError](err); ok {
		return true
	}
	_, ok := errors.AsType[*usageError](err)
	return ok
}

func isInterrupted(ctx context.Context, err error) bool {
	_, ok := errors.AsType[interrupted](context.Cause(ctx))
	return ok && errors.Is(err, context.Canceled)
}

func isUnavailable(err error) bool {
	if _, ok := errors.AsType[*unavailableError](err); ok {
		return true
	}
	if refusal, ok := errors.AsType[*wire.Error](err); ok {
		return refusal.Retryable
	}
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return false // a network error by its type too, with deadlines
	}
	_, network := errors.AsType[net.Error](err)
	return network || pgfuncs.SafeToRetry(err) || isAny(err, []error{pgfuncs.ErrNotMigrated, pgfuncs.ErrNewerSchema})
}

func isAny(err error, targets []error) bool {
	for _, target := range targets {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}
