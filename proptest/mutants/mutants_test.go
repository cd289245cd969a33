package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../.."

// The list is kept true: every text is where it is to be replaced, once.
func TestMutantsApply(t *testing.T) {
	t.Parallel()
	names := make(map[string]bool)
	for _, m := range mutants {
		if names[m.name] {
			t.Errorf("%s: the name is taken", m.name)
		}
		names[m.name] = true
		if _, _, err := m.apply(root); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
		if len(m.tests) == 0 {
			t.Errorf("%s: no tests", m.name)
		}
	}
}

func TestSuitesExist(t *testing.T) {
	t.Parallel()
	for _, s := range suitesOf(mutants) {
		files, err := filepath.Glob(filepath.Join(root, s.pkg, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		top, _, _ := strings.Cut(s.run, "/")
		for name := range strings.SplitSeq(top, "|") {
			if !definesTest(t, files, name) {
				t.Errorf("%s has no test like %s", s.pkg, name)
			}
		}
	}
}

func definesTest(t *testing.T, files []string, name string) bool {
	t.Helper()
	defines := regexp.MustCompile(`(?m)^func Test\w*` + strings.TrimPrefix(name, "Test") + `\w*\(`)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if defines.Match(text) {
			return true
		}
	}
	return false
}
