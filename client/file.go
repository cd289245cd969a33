package client

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/canopysync/canopy/moveop"
)

// Synchronous says which failures a finished edit survives.
type Synchronous string

const (
	// SynchronousFull makes an edit survive a power cut once Edit has returned, at one fsync per edit.
	SynchronousFull Synchronous = "FULL"
	// SynchronousNormal makes an edit survive a crash of the process. A power cut may lose the last
	// edits, but never part of one.
	SynchronousNormal Synchronous = "NORMAL"
)

// replicaFile is the open file: the lock, one connection that writes and some that read.
type replicaFile struct {
	path    string
	lock    *session
	writer  *session
	readers chan *session // idle ones; nil stands for one that is not open yet
	reading sync.RWMutex  // held by every read, and by close for good
}

const (
	// minReaders is how many reads run at once without waiting, as long as they are short.
	minReaders = 4
	// maxReaders is how many connections to read with are kept.
	maxReaders = 16
	// readerPatience is how long a read waits for an idle connection before it gets a new one: the holders of the
	// others may be waiting for this very read, like a function that reads inside another read or an edit.
	readerPatience = 10 * time.Millisecond
)

// writerCache and readerCache bound SQLite's cache of pages for the writer and for each reader, in KiB;
// indexCache is the writer's while it makes indexes and the like, which sorts in as much again.
const (
	writerCache = 16000
	readerCache = 2000
	indexCache  = 4000
)

// openFile locks, checks and opens the file, making it where there is none.
func openFile(ctx context.Context, path string, fresh meta, opts Options) (_ *replicaFile, err error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // one lock, whatever the file goes by
	}
	if _, err := os.Stat(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrReadOnly, err) // SQLite would not say what is wrong
	}
	lock, err := lockFile(ctx, path, opts.WaitForFile)
	if err != nil {
		return nil, err
	}
	f := &replicaFile{path: path, lock: lock, readers: make(chan *session, maxReaders)}
	for range minReaders {
		f.readers <- nil
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.close())
		}
	}()
	err = checkFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = createReplica(path, fresh)
	}
	if err != nil {
		return nil, err
	}
	f.writer, err = openExisting(path, "synchronous("+string(opts.Synchronous)+")",
		"busy_timeout(5000)", "temp_store(memory)", fmt.Sprintf("cache_size(-%d)", writerCache), "wal_autocheckpoint(4000)")
	if err != nil {
		return nil, fmt.Errorf("open replica file: %w", err)
	}
	if err := upgrade(f.writer); err != nil {
		return nil, fmt.Errorf("upgrade replica file: %w", err)
	}
	return f, nil
}

// upgrade brings a file of an earlier version up to date, in one transaction.
func upgrade(s *session) error {
	var version int
	if err := s.once(`PRAGMA user_version`, &version); err != nil || version == schemaVersion {
		return err
	}
	if version < 1 || version > schemaVersion {
		return fmt.Errorf("%w: version %d", ErrCorrupt, version)
	}
	var statements []string
	for ; version < schemaVersion; version++ {
		statements = append(statements, upgrades[version]...)
	}
	statements = append(statements, fmt.Sprintf("PRAGMA user_version = %d", schemaVersion))
	return s.sorting(func() error { return s.atomically(statements...) })
}

// sorting has the writer run fn, which begins and ends its own transactions, and limits the memory for sorting,
// so that the sorted data does not stay in memory.
func (s *session) sorting(fn func() error) (err error) {
	if err := s.script("PRAGMA temp_store = FILE", fmt.Sprintf("PRAGMA cache_size = -%d", indexCache)); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, s.script("PRAGMA temp_store = MEMORY", fmt.Sprintf("PRAGMA cache_size = -%d", writerCache)))
	}()
	return fn()
}

// atomically runs statements in one transaction.
func (s *session) atomically(statements ...string) error {
	err := s.script("BEGIN IMMEDIATE")
	if err != nil {
		return err
	}
	if err = s.script(append(statements, "COMMIT")...); err != nil {
		return errors.Join(err, s.script("ROLLBACK"))
	}
	return nil
}

// lockRetry is how often somebody who waits for the lock asks for it.
const lockRetry = 50 * time.Millisecond

// lockFile takes the lock that keeps others out for as long as the session is open: an exclusive SQLite lock on
// an empty database beside the file. The operating system releases it if we die, and SQLite's locks work
// wherever SQLite does, even between two clients in one process.
func lockFile(ctx context.Context, path string, wait bool) (*session, error) {
	_, missing := os.Lstat(path + "-lock")
	lock, err := openSession(path + "-lock")
	if err != nil {
		return nil, fmt.Errorf("lock replica file: %w", err)
	}
	if errors.Is(missing, fs.ErrNotExist) {
		_ = os.Chmod(path+"-lock", private) // who can read it can lock it; where there are no modes, nobody else can
	}
	// In a file that cannot be written, SQLite begins a read, which locks nobody out: hence the write.
	statements := []string{"PRAGMA journal_mode = memory", "BEGIN EXCLUSIVE", "PRAGMA user_version = 0"}
	err = lock.script(statements...)
	for wait && errors.Is(err, ErrLocked) && ctx.Err() == nil {
		select {
		case <-ctx.Done():
			err = errors.Join(err, ctx.Err())
		case <-time.After(lockRetry):
			err = lock.script(statements...)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock replica file: %w", err), lock.close())
	}
	return lock, nil
}

// checkFile checks the file's header without opening it as a database, so that a file that is not ours stays
// untouched, and whether it can be written, which SQLite reports only when it is too late. It must run under the
// lock: closing a file that a connection of this process has open would drop that connection's locks.
func checkFile(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("%w: %w", ErrReadOnly, err)
	}
	if err != nil {
		return err
	}
	defer file.Close()
	const magic = "SQLite format 3\x00"
	var header [72]byte
	if _, err := io.ReadFull(file, header[:]); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("%w: %s", ErrNotCanopyFile, path)
		}
		return fmt.Errorf("read replica file: %w", err)
	}
	version, application := binary.BigEndian.Uint32(header[60:]), binary.BigEndian.Uint32(header[68:])
	if string(header[:len(magic)]) != magic || application != applicationID {
		return fmt.Errorf("%w: %s", ErrNotCanopyFile, path)
	}
	if version > schemaVersion {
		return fmt.Errorf("%w: %s has version %d, this program knows %d", ErrNewerVersion, path, version, schemaVersion)
	}
	return nil
}

// createReplica makes an empty replica.
func createReplica(path string, fresh meta) error {
	if fresh.room == "" {
		return errors.New("a new file needs Options.Room")
	}
	return createFile(path, func(draft string) error { return writeDraft(draft, fresh) })
}

// createFile makes a file under another name and renames it: there is never half a file.
func createFile(path string, write func(draft string) error) (err error) {
	draft := path + "-new"
	if err := removeFile(draft); err != nil {
		return fmt.Errorf("create replica file: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("create replica file: %w", errors.Join(err, removeFile(draft)))
		}
	}()
	if err := touch(draft); err != nil {
		return err
	}
	if err := write(draft); err != nil {
		return err
	}
	if err := syncFile(draft); err != nil {
		return err
	}
	// SQLite would take the remains of another file of that name, removed after a crash, for edits of this one.
	for _, left := range []string{"-wal", "-shm", "-journal"} {
		if err := removeFile(path + left); err != nil {
			return err
		}
	}
	if err := os.Rename(draft, path); err != nil {
		return err
	}
	// Not every system can sync a directory. Where one cannot, the name is as safe as it makes it.
	_ = syncFile(filepath.Dir(path))
	return nil
}

// private is the mode of all files: nobody else may read a room, whatever the umask is. The files that SQLite puts
// beside a file get its mode.
const private = 0o600

// touch makes an empty file, which is a database without anything in it.
func touch(path string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, private)
	if err != nil {
		return err
	}
	return file.Close()
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func syncFile(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

// writeDraft needs no journal: a draft that was broken off is thrown away.
func writeDraft(path string, fresh meta) (err error) {
	s, err := openSession(path, "journal_mode(off)", "synchronous(off)")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	err = s.script("BEGIN",
		fmt.Sprintf("PRAGMA application_id = %d", applicationID),
		fmt.Sprintf("PRAGMA user_version = %d", schemaVersion),
		createMeta, addUndoNext, addUndoEnded, addHorizon, addFoldedOps, addFoldedLog, addFoldedState,
		createOutbox, addReason, createOwn, createUndo, createPages)
	if err != nil {
		return err
	}
	for _, table := range logTables {
		if err := s.script(table.create); err != nil {
			return err
		}
		if err := s.script(table.createIndexes("", indexNames[0])...); err != nil {
			return err
		}
	}
	if err := fresh.insert(s); err != nil {
		return err
	}
	return s.script("COMMIT", "PRAGMA journal_mode = WAL")
}

// putBack keeps a connection for the next read, where there are not enough already.
func (f *replicaFile) putBack(s *session) {
	select {
	case f.readers <- s:
	default:
		if s != nil {
			_ = s.close() // it only read
		}
	}
}

func (f *replicaFile) close() error {
	var errs []error
	f.reading.Lock()
	for len(f.readers) > 0 {
		if s := <-f.readers; s != nil {
			errs = append(errs, s.close())
		}
	}
	if f.writer != nil {
		errs = append(errs, f.writer.close())
	}
	return errors.Join(append(errs, f.lock.close())...)
}

// freshMeta is the meta row of a new file.
func freshMeta(room string, random io.Reader) (meta, error) {
	replica, err := moveop.NewReplicaID(random)
	return meta{room: room, replica: replica}, err
}
