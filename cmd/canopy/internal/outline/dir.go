package outline

import (
	"encoding/json"
	"errors"
	"io/fs"
	"strings"
)

// ReadDir reads a directory tree, in the order of names, without the top directory itself. Every file
// and directory is a node with
//
//	name   its name
//	mode   its type and permissions, as in "drwxr-xr-x"
//	size   its size in bytes, of regular files only
//
// Links are not followed. What disappears while it is read is left out. A byte of a name that is not
// UTF-8 becomes U+FFFD.
func ReadDir(fsys fs.FS) Entries {
	return func(yield func(Entry, error) bool) {
		err := fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
			if path == "." || err != nil {
				return gone(path, d, err)
			}
			info, err := d.Info()
			if err != nil {
				return gone(path, d, err)
			}
			e := Entry{Depth: strings.Count(path, "/") + 1, New: true, Props: fileProps(info)}
			if !yield(e, nil) {
				return errStopped
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStopped) {
			yield(Entry{}, err)
		}
	}
}

// errStopped ends a walk that nobody listens to any more.
var errStopped = errors.New("stopped")

// gone decides about an error of the walk: below the top, what is not there any more is passed over.
func gone(path string, d fs.DirEntry, err error) error {
	if path == "." || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if d != nil && d.IsDir() {
		return fs.SkipDir
	}
	return nil
}

func fileProps(info fs.FileInfo) Props {
	p := Props{Name: text(info.Name()), "mode": text(info.Mode().String())}
	if info.Mode().IsRegular() {
		p["size"], _ = json.Marshal(info.Size()) // a number has a JSON form
	}
	return p
}

// text is a string's JSON form; it always has one.
func text(s string) json.RawMessage {
	b, _ := json.Marshal(s)
	return b
}
