//go:build unix

package localpg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// marker is the content of the file that marks a directory as ours; its last word is the version of the layout.
const (
	markerName = "canopy-postgres"
	markerText = "Canopy made this directory and its PostgreSQL cluster. Layout 1\n"
)

const (
	lockName   = "lock"
	dataName   = "data"
	socketName = "socket"
	logName    = "postgres.log"
)

const (
	// maxLog is the size beyond which a start rotates the log.
	maxLog = 8 << 20
	// maxSocketPath is what fits into every system's sockaddr_un: 103 bytes and a zero (Linux: 107).
	maxSocketPath = 103
	// port only names the socket file: nothing listens on TCP.
	port = "5432"
	// tempSockets is the pattern of socket directories outside the data directory.
	tempSockets = "canopy-pg-*"
)

// directory is a data directory that this process has locked.
type directory struct {
	path string
	lock *os.File
}

// openDirectory locks the directory at path, and marks it as ours if it is missing or empty. Any other directory without
// a marker is refused unchanged.
func openDirectory(path string) (*directory, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := makeParents(filepath.Dir(path)); err != nil {
		return nil, err
	}
	if err := os.Mkdir(path, directoryMode()); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if _, err := isOurs(path); err != nil {
		return nil, err
	}
	lock, err := lockFile(filepath.Join(path, lockName))
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	d := &directory{path: path, lock: lock}
	if err := d.mark(); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// makeParents makes a directory and its parents if missing. Those made by root let the server's user through, whatever
// root's umask.
func makeParents(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := makeParents(filepath.Dir(path)); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o755); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil // another process made it in between
		}
		return err
	}
	if os.Geteuid() == 0 {
		return os.Chmod(path, 0o755)
	}
	return nil
}

// directoryMode lets the server's user reach its own directories, which root does not own.
func directoryMode() os.FileMode {
	if os.Geteuid() == 0 {
		return 0o711
	}
	return 0o700
}

// isOurs reports whether the marker is present; the error is ErrForeign if the directory is neither marked nor free.
func isOurs(path string) (bool, error) {
	text, err := os.ReadFile(filepath.Join(path, markerName))
	if err == nil && string(text) == markerText {
		return true, nil
	}
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return false, errors.Join(fmt.Errorf("%s: %w", path, ErrForeign), err)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		if e.Name() != lockName && e.Name() != markerName+".new" {
			return false, fmt.Errorf("%s: %w", path, ErrForeign)
		}
	}
	return false, nil
}

// mark marks a free directory as ours.
func (d *directory) mark() error {
	ours, err := isOurs(d.path)
	if err != nil || ours {
		return err
	}
	if err := os.Chmod(d.path, directoryMode()); err != nil {
		return err
	}
	fresh := d.join(markerName + ".new")
	if err := os.WriteFile(fresh, []byte(markerText), 0o644); err != nil {
		return err
	}
	return os.Rename(fresh, d.join(markerName))
}

func (d *directory) join(name string) string { return filepath.Join(d.path, name) }

func (d *directory) data() string { return d.join(dataName) }

// close releases the lock. Closing the file alone would not while a process being forked has it open too.
func (d *directory) close() {
	_ = syscall.Flock(int(d.lock.Fd()), syscall.LOCK_UN)
	_ = d.lock.Close()
}

// remove deletes the directory; the caller closes it. The marker goes last but for the lock: without it, an interrupted
// removal could never be completed.
func (d *directory) remove() error {
	if err := d.removeSockets(); err != nil {
		return err
	}
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == markerName || e.Name() == lockName {
			continue
		}
		if err := os.RemoveAll(d.join(e.Name())); err != nil {
			return err
		}
	}
	return errors.Join(os.Remove(d.join(markerName)), os.RemoveAll(d.path))
}

// lockFile opens and locks a file. It checks the name after locking, because the previous holder may have deleted it.
func lockFile(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			_ = f.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				return nil, ErrInUse
			}
			return nil, err
		}
		mine, err := f.Stat()
		if err != nil {
			_ = f.Close()
			return nil, err
		}
		if named, err := os.Stat(path); err == nil && os.SameFile(mine, named) {
			return f, nil
		}
		_ = f.Close()
	}
}

// account determines who runs the server's programs, and whether they can reach the directory by its path.
func (d *directory) account(ctx context.Context) (account, error) {
	a, err := accountFor(d.data())
	if err != nil {
		return a, err
	}
	err = a.reach(ctx, d.path)
	if _, closed := errors.AsType[*AccessError](err); closed && canHand() {
		a.shutOut = true
		return a, nil
	}
	return a, err
}

// initialize makes the cluster if there is none, under a temporary name until it is complete.
func (d *directory) initialize(ctx context.Context, a account, inst installation, cfg Config) error {
	if err := d.removeUnfinished(); err != nil {
		return err
	}
	if _, err := os.Lstat(d.data()); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	cfg.Logger.LogAttrs(ctx, slog.LevelInfo, "making a PostgreSQL cluster",
		slog.String("dir", d.path), slog.String("version", inst.version.String()))
	fresh, err := os.MkdirTemp(d.path, "init-*")
	if err != nil {
		return err
	}
	if err := a.takeDir(fresh); err != nil {
		return err
	}
	args := []string{"-D", a.nameOf(fresh), "-U", User, "-E", "UTF8", "--locale=C", "--no-instructions",
		"--auth-local=trust", "--auth-host=reject"}
	if cfg.Volatile {
		args = append(args, "--no-sync")
	} else {
		args = append(args, "--data-checksums")
	}
	cmd := a.command(ctx, inst.program("initdb"), args...)
	dir, err := a.hand(cmd, fresh)
	if err != nil {
		return err
	}
	defer dir.Close()
	out, err := cmd.CombinedOutput()
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return &ProgramError{Program: "initdb", Err: err, Output: string(out)}
	}
	return os.Rename(fresh, d.data())
}

func (d *directory) removeUnfinished() error {
	left, err := filepath.Glob(d.join("init-*"))
	if err != nil {
		return err
	}
	for _, path := range left {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// openLog opens the server's log for appending.
func (d *directory) openLog() (*os.File, error) {
	path := d.join(logName)
	if info, err := os.Lstat(path); err == nil && info.Size() > maxLog {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	// If root runs somebody's cluster, that user must be able to run it again later.
	owner, err := ownerOf(d.path)
	if err == nil {
		err = f.Chown(owner, -1)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// makeSockets makes the directory for the socket: in the data directory if the path fits and is accessible, otherwise a
// temporary one, with a symbolic link to it in the data directory. again is the directory of the last run of the same
// Server, whose URL must not change.
func (d *directory) makeSockets(ctx context.Context, a account, again string) (string, error) {
	if err := d.removeSockets(); err != nil {
		return "", err
	}
	own := d.join(socketName)
	if fitsSocket(own) && !a.shutOut {
		return own, a.makeDir(own)
	}
	temp := again
	var err error
	if temp == "" {
		temp, err = a.tempDir(ctx, tempSockets)
	} else {
		err = a.makeDir(temp)
	}
	if err != nil {
		return "", err
	}
	return temp, os.Symlink(temp, own)
}

// fitsSocket reports whether a socket in dir can be named in an address, and in a connection URL, where a comma would
// start another host.
func fitsSocket(dir string) bool {
	return len(dir)+len("/.s.PGSQL."+port) <= maxSocketPath && !strings.Contains(dir, ",")
}

// removeSockets removes the socket directory of this or of a crashed run. From a temporary one it removes only sockets.
func (d *directory) removeSockets() error {
	own := d.join(socketName)
	temp, err := os.Readlink(own)
	if err != nil {
		return os.RemoveAll(own)
	}
	if ok, _ := filepath.Match(tempSockets, filepath.Base(temp)); ok {
		for _, name := range []string{".s.PGSQL." + port, ".s.PGSQL." + port + ".lock"} {
			_ = os.Remove(filepath.Join(temp, name))
		}
		_ = os.Remove(temp)
	}
	return os.Remove(own)
}
