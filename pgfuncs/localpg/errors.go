//go:build unix

package localpg

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrInUse: another Server, in this process or another, runs on the directory.
	ErrInUse = errors.New("directory is in use by another run")
	// ErrForeign: the directory holds something that this package did not make.
	ErrForeign = errors.New("directory was not made by canopy")
	// ErrNoPostgres: no PostgreSQL 15 or later is installed, and none was fetched.
	ErrNoPostgres = errors.New("PostgreSQL 15 or later not found")
	// ErrNoAccount: root has no unprivileged account to run the server as.
	ErrNoAccount = errors.New("PostgreSQL cannot run as root, and there is neither a user postgres nor nobody")
	// ErrRunning: Restart of a server that runs.
	ErrRunning = errors.New("server is running")
)

// AccessError tells that the server's user cannot get to a path. Only root, who starts the server as
// somebody else, can meet it.
type AccessError struct {
	User string // the account that the server runs as
	Path string // the first directory or file on the path that the account cannot access
}

func (e *AccessError) Error() string {
	return fmt.Sprintf("user %s, who runs PostgreSQL for root, has no access to %s: choose a directory outside of it",
		e.User, e.Path)
}

// VersionError tells that a cluster needs another major version than those at hand.
type VersionError struct {
	Need  int   // the major version that made the cluster
	Found []int // the major versions available
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("cluster was made by PostgreSQL %d, found are %v", e.Need, e.Found)
}

// ProgramError tells that initdb or the server ended when it should not have.
type ProgramError struct {
	Program string // "initdb" or "postgres"
	Err     error  // how it ended
	Output  string // the end of its output
}

func (e *ProgramError) Error() string {
	return fmt.Sprintf("%s: %v: %s", e.Program, e.Err, strings.TrimSpace(e.Output))
}

func (e *ProgramError) Unwrap() error { return e.Err }
