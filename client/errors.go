package client

import (
	"errors"
	"fmt"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"
)

// Conditions of the file that Open reports. The file stays as it was.
var (
	// ErrLocked means that another Client, in this or another process, has the file open: close that
	// one, or wait for it with Options.WaitForFile.
	ErrLocked = errors.New("replica file is in use by another client: close that one, or wait for it")
	// ErrNotCanopyFile means that the file is not a replica file: choose another path.
	ErrNotCanopyFile = errors.New("not a Canopy replica file: choose another path")
	// ErrNewerVersion means that a newer version of this package wrote the file: update.
	ErrNewerVersion = errors.New("a newer version wrote this replica file: update this program")
	// ErrOtherRoom means that the file holds another room than Options.Room.
	ErrOtherRoom = errors.New("replica file holds another room: choose another path, or open that room")
)

// Conditions of the storage, from any method.
var (
	// ErrReadOnly means that the file or its directory cannot be written.
	ErrReadOnly = errors.New("replica file cannot be written: make the file and its directory writable")
	// ErrDiskFull means that a transaction did not fit on the disk and was rolled back: free some space
	// and try again. When a quota or a limit on file size is exhausted, the transaction is rolled back
	// too, but the error is SQLite's error for a failed write, which does not give the reason.
	ErrDiskFull = errors.New("disk is full: free some space and try again")
	// ErrCorrupt means that the file is damaged. A new file gets everything that the server has;
	// Client.Salvage saves the pending operations. It needs an open Client: if the damage makes Open
	// itself fail, this package cannot read the pending operations, so keep the file.
	ErrCorrupt = errors.New("replica file is damaged: repair it, or salvage its pending operations into a new one")
	// ErrClosed means that Close was called before, or during, the method.
	ErrClosed = errors.New("client is closed")
)

// Errors of reads and of the steps of an edit. Edit rolls back if its function returns the error; the
// function may also go on without the step.
var (
	// ErrUnknownNode means that this replica has no such node.
	ErrUnknownNode = errors.New("unknown node")
	// ErrReserved means that the edit would have moved Root or Trash.
	ErrReserved = errors.New("the nodes Root and Trash cannot be moved")
	// ErrCycle means that the edit would have moved a node below itself.
	ErrCycle = errors.New("a node cannot be moved below itself")
	// ErrNotSibling means that Before or After names a node that has another parent.
	ErrNotSibling = errors.New("not a child of that parent")
	// ErrPartial means that this needs all of the room, and not all of it is here: see Status.Partial.
	ErrPartial = errors.New("not all of the room is here yet")
	// ErrInsideDeleted means that a node above this one was deleted, not the node itself: restore that
	// one, or move this one out.
	ErrInsideDeleted = errors.New("a node above it was deleted: restore that one, or move this one out")
)

// Conditions of sync and presence.
var (
	// ErrOffline means that the client was opened without a RealtimeURL.
	ErrOffline = errors.New("client has no services to sync with: open it with Options.RealtimeURL")
	// ErrRefused means that the server refused operations for good. They are in quarantine (see
	// Client.Refused, Client.Retry and Client.Discard), and everything else goes on.
	ErrRefused = errors.New("the server refused operations")
	// ErrPresenceTooLarge means that the state given to SetPresence is longer than MaxPresence.
	ErrPresenceTooLarge = errors.New("the presence state is too large")
)

// storageErrors maps SQLite result codes, extended or primary, to the errors of this package.
var storageErrors = map[int]error{
	lib.SQLITE_BUSY:     ErrLocked,
	lib.SQLITE_LOCKED:   ErrLocked,
	lib.SQLITE_READONLY: ErrReadOnly,
	lib.SQLITE_CANTOPEN: ErrReadOnly,
	lib.SQLITE_PERM:     ErrReadOnly,
	lib.SQLITE_FULL:     ErrDiskFull,
	lib.SQLITE_CORRUPT:  ErrCorrupt,
	lib.SQLITE_NOTADB:   ErrCorrupt,

	lib.SQLITE_IOERR_SHMSIZE: ErrDiskFull, // for the file path-shm, which indexes SQLite's log
}

// storageError names the way out of a SQLite error where there is one.
func storageError(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	known, ok := storageErrors[e.Code()]
	if !ok {
		known, ok = storageErrors[e.Code()&0xff]
	}
	if !ok || errors.Is(err, known) {
		return err
	}
	return fmt.Errorf("%w: %w", known, err)
}
