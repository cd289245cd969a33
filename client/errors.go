package client

import (
	"errors"
	"fmt"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"
)

// Conditions of the file that Open reports. The file is left as it was.
var (
	// ErrLocked means that another Client, in this process or another one, has the file open: close that
	// one, or wait for it with Options.WaitForFile.
	ErrLocked = errors.New("replica file is in use by another client: close that one, or wait for it")
	// ErrNotCanopyFile means that the file is something else: choose another path.
	ErrNotCanopyFile = errors.New("not a Canopy replica file: choose another path")
	// ErrNewerVersion means that a newer version of this package wrote the file: update.
	ErrNewerVersion = errors.New("replica file is of a newer version: update this program")
	// ErrOtherRoom means that the file holds another room than Options.Room.
	ErrOtherRoom = errors.New("replica file holds another room: choose another path, or open that room")
)

// Conditions of the storage, from any method.
var (
	// ErrReadOnly means that the file or its directory cannot be written.
	ErrReadOnly = errors.New("replica file cannot be written: make the file and its directory writable")
	// ErrDiskFull means that a transaction did not fit on the disk. It was rolled back: make room and
	// do it again. Where a quota or a limit on the file's size is what is used up, the transaction is rolled
	// back too, but the error is SQLite's of a failed write, which does not say why it failed.
	ErrDiskFull = errors.New("disk is full: make room and do it again")
	// ErrCorrupt means that the file is damaged. What the server has can be had again with a new file,
	// what it does not have yet by Client.Salvage. That needs an open Client: where the damage is where Open
	// has to read, this package cannot get at what is pending, so keep the file.
	ErrCorrupt = errors.New("replica file is damaged: repair it, or salvage what is pending and start a new one")
	// ErrClosed is returned by everything after Close.
	ErrClosed = errors.New("client is closed")
)

// What an edit can ask for and not get. Edit rolls back when its function returns the error; a
// function may also go on without the step.
var (
	// ErrUnknownNode means that this replica has no such node.
	ErrUnknownNode = errors.New("unknown node")
	// ErrReserved means that Root or Trash was to be moved.
	ErrReserved = errors.New("the nodes Root and Trash cannot be moved")
	// ErrCycle means that a node was to be moved below itself.
	ErrCycle = errors.New("a node cannot be moved below itself")
	// ErrNotSibling means that Before or After names a node that has another parent.
	ErrNotSibling = errors.New("not a child of that parent")
	// ErrPartial means that this cannot be told or done until all of the room is here: see Status.Partial.
	ErrPartial = errors.New("not all of the room is here yet")
	// ErrInsideDeleted means that the node was not deleted itself, but a node above it was: restore
	// that one, or move this one out.
	ErrInsideDeleted = errors.New("a node above it was deleted")
)

// What keeps a replica from being in step with the server, or others from seeing what it shows.
var (
	// ErrOffline means that the client was opened without a RealtimeURL.
	ErrOffline = errors.New("client has no services to sync with: open it with Options.RealtimeURL")
	// ErrRefused means that the server refused operations for good. They are in quarantine, see
	// Client.Refused, Client.Retry and Client.Discard, and everything else goes on.
	ErrRefused = errors.New("the server refused operations")
	// ErrPresenceTooLarge means that SetPresence was given more than MaxPresence.
	ErrPresenceTooLarge = errors.New("the state is too large to show to others")
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
