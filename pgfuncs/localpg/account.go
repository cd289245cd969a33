//go:build unix

package localpg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// account is the operating system user that runs the server's programs.
type account struct {
	name     string
	uid, gid int
	drop     bool // this process is root and has to switch to the account
	shutOut  bool // it cannot reach the data directory by its path; see hand
}

// accountFor returns the account for the cluster at data: that of this process, unless it is root.
func accountFor(data string) (account, error) {
	if os.Geteuid() != 0 {
		return account{uid: os.Geteuid(), gid: os.Getegid()}, nil
	}
	owner, err := ownerOf(data)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return unprivileged()
	case err != nil:
		return account{}, err
	case owner == 0:
		return account{}, fmt.Errorf("%s belongs to root: %w", data, ErrForeign)
	}
	u, err := user.LookupId(strconv.Itoa(owner))
	if err != nil {
		return account{}, fmt.Errorf("look up owner of %s: %w", data, err)
	}
	return dropTo(u)
}

// unprivileged picks the account that runs a new cluster for root.
func unprivileged() (account, error) {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		if a, err := dropTo(u); err == nil && a.uid != 0 {
			return a, nil
		}
	}
	return account{}, ErrNoAccount
}

func dropTo(u *user.User) (account, error) {
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return account{}, fmt.Errorf("user id of %s: %w", u.Username, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return account{}, fmt.Errorf("group id of %s: %w", u.Username, err)
	}
	return account{name: u.Username, uid: int(uid), gid: int(gid), drop: true}, nil
}

func ownerOf(path string) (int, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return 0, err
	}
	return int(info.Sys().(*syscall.Stat_t).Uid), nil
}

// command prepares a program to be run by the account, in a directory that is accessible to everybody.
func (a account) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = "/"
	cmd.WaitDelay = patience // initdb's children hold its output a little longer
	cmd.Env = environment(os.Environ())
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if a.drop {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
	return cmd
}

// environment returns env without variables that would change PostgreSQL's behaviour or language.
func environment(env []string) []string {
	env = slices.DeleteFunc(slices.Clone(env), func(v string) bool {
		return strings.HasPrefix(v, "PG") || strings.HasPrefix(v, "LC_") || strings.HasPrefix(v, "LANG")
	})
	return append(env, "LC_ALL=C")
}

// handed is the path at which a program finds the directory that hand passed to it.
const handed = "/proc/self/fd/3"

// nameOf returns the path of a directory in the data directory for a program of the account, to which hand passed it.
func (a account) nameOf(dir string) string {
	if a.shutOut {
		return handed
	}
	return dir
}

// hand passes a directory to a program and its children if the account cannot reach it by path: root often has
// temporary directories that nobody else may enter. A descriptor leads to the directory itself, bypassing its parents,
// and to nothing else. Close the result once the program has started.
func (a account) hand(cmd *exec.Cmd, dir string) (io.Closer, error) {
	if !a.shutOut {
		return io.NopCloser(nil), nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	cmd.ExtraFiles = []*os.File{f} // the first one is number 3
	return f, nil
}

// canHand reports whether the system has paths for open descriptors that bypass inaccessible parents.
func canHand() bool {
	_, err := os.Stat("/proc/self/fd")
	return runtime.GOOS == "linux" && err == nil
}

// makeDir makes a directory that only the account can enter. It refuses an existing one, which may be somebody else's.
func (a account) makeDir(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	return a.takeDir(path)
}

// tempDir makes a short temporary directory that only the account can enter.
func (a account) tempDir(ctx context.Context, pattern string) (string, error) {
	parent := os.TempDir()
	if err := a.reach(ctx, parent); err != nil {
		parent = "/tmp"
	}
	path, err := os.MkdirTemp(parent, pattern)
	if err != nil {
		return "", err
	}
	return path, a.takeDir(path)
}

func (a account) takeDir(path string) error {
	// Owner last: after that, another user could change the mode.
	if err := os.Chmod(path, 0o700); err != nil {
		return err
	}
	if !a.drop {
		return nil
	}
	return os.Lchown(path, a.uid, a.gid)
}

// firstClosed prints the first of its arguments that its user can neither enter nor run.
const firstClosed = `for p do [ -x "$p" ] || { printf %s "$p"; exit 3; }; done`

// reach checks that the account can enter (or run) path and all its parents. It asks the kernel rather than the mode
// bits, because there are access lists and more.
func (a account) reach(ctx context.Context, path string) error {
	if !a.drop {
		return nil
	}
	var way []string
	for p := path; ; p = filepath.Dir(p) {
		way = append(way, p)
		if p == filepath.Dir(p) {
			break
		}
	}
	slices.Reverse(way)
	args := append([]string{"-c", firstClosed, "sh"}, way...)
	out, err := a.command(ctx, "/bin/sh", args...).Output()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == 3:
		return &AccessError{User: a.name, Path: string(out)}
	case err != nil:
		return fmt.Errorf("become user %s: %w", a.name, err)
	}
	return nil
}
