package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// writeOutput has write fill path, or standard output for "-". A file appears under its name only when
// it is complete and on disk; what was there before stays there until then, and on any error.
func writeOutput(env *Env, path string, write func(io.Writer) error) error {
	switch path {
	case "-":
		return write(env.Stdout)
	case "":
		return usagef("the name of the file to write is empty")
	}
	path, special, err := target(path)
	if err != nil {
		return err
	}
	if special {
		return writeInPlace(path, write)
	}
	return writeAtomically(path, write)
}

// target follows links, so that the file and not the link to it is replaced, and reports whether it is
// a device or a pipe, which must not be replaced at all.
func target(path string) (resolved string, special bool, err error) {
	resolved, err = filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return path, false, nil
	}
	if err != nil {
		return "", false, err
	}
	info, err := os.Stat(resolved)
	if err != nil {
		return "", false, err
	}
	if info.IsDir() {
		return "", false, usagef("%s is a directory", path)
	}
	return resolved, !info.Mode().IsRegular(), nil
}

func writeInPlace(path string, write func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

func writeAtomically(path string, write func(io.Writer) error) (err error) {
	// Not os.CreateTemp, which lets nobody else read the file, whatever the umask says; and not the name with
	// something added, which may be too long.
	temp := filepath.Join(filepath.Dir(path), ".canopy-"+rand.Text()[:8])
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(temp)
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a rename survive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// openInput opens path, or standard input for "-".
func openInput(ctx context.Context, env *Env, path string) (io.ReadCloser, error) {
	if path == "-" {
		return interruptible(ctx, env.Stdin), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err == nil && info.IsDir() {
		_ = f.Close()
		return nil, fmt.Errorf("%s is a directory", path)
	}
	return f, nil
}

// interruptible makes reading end with ctx even while no input comes, as from a terminal. The goroutine that still
// waits for input ends with the process.
func interruptible(ctx context.Context, src io.Reader) io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		_, err := io.Copy(w, src)
		_ = w.CloseWithError(err) // it has no error
	}()
	context.AfterFunc(ctx, func() { _ = w.CloseWithError(ctx.Err()) })
	return r
}
