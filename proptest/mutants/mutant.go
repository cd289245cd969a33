package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// mutant is a bug that the tests must catch.
type mutant struct {
	name    string // "where: what is wrong"
	changes []change
	tests   []suite // tried in turn until one fails
	hangs   bool    // a test that runs into its timeout has caught it
}

// change replaces a text that occurs exactly once in a file.
type change struct {
	file     string // relative to the module, with slashes
	old, new string
}

// suite is some tests of a package, by the pattern of go test -run.
type suite struct{ pkg, run string }

func (s suite) String() string { return s.pkg + " " + s.run }

// apply returns the files that the mutant changes as they are and as they become.
func (m mutant) apply(root string) (before, after map[string]string, err error) {
	before, after = make(map[string]string), make(map[string]string)
	for _, c := range m.changes {
		if _, ok := after[c.file]; !ok {
			text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(c.file)))
			if err != nil {
				return nil, nil, err
			}
			before[c.file], after[c.file] = string(text), string(text)
		}
		if n := strings.Count(after[c.file], c.old); n != 1 || c.old == c.new {
			return nil, nil, fmt.Errorf("%s: %d times, want once:\n%s", c.file, n, c.old)
		}
		after[c.file] = strings.Replace(after[c.file], c.old, c.new, 1)
	}
	return before, after, nil
}

func writeFiles(root string, files map[string]string) error {
	for file, text := range files {
		if err := os.WriteFile(filepath.Join(root, filepath.FromSlash(file)), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// suitesOf returns the suites that the mutants need, each once.
func suitesOf(mutants []mutant) (suites []suite) {
	for _, m := range mutants {
		for _, s := range m.tests {
			if !slices.Contains(suites, s) {
				suites = append(suites, s)
			}
		}
	}
	return suites
}
