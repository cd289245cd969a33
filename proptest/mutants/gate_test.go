package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// module makes a module of one function, whose tests see to half of it.
func module(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	err := writeFiles(root, map[string]string{
		"go.mod": "module example.com/sign\n\ngo 1.26\n",
		"sign.go": `package sign

func Sign(n int) int {
	switch {
	case n > 0:
		return 1
	case n < 0:
		return -1
	}
	return 0
}
`,
		"sign_test.go": `package sign

import "testing"

func TestSign(t *testing.T) {
	t.Run("positive", func(t *testing.T) {
		if Sign(5) != 1 {
			t.Error("want 1")
		}
	})
}
`,
	})
	if err != nil {
		t.Fatal(err)
	}
	return root
}

var sign = suite{".", "TestSign"}

func TestJudge(t *testing.T) {
	t.Parallel()
	root := module(t)
	mutants := []mutant{
		one("caught", "sign.go", "return 1", "return 2", sign),
		one("panics", "sign.go", "return 1", `panic("no")`, sign),
		one("survives", "sign.go", "return -1", "return -2", sign),
		one("does not build", "sign.go", "return 0", "return", sign),
		one("does not apply", "sign.go", "return", "panic", sign),
	}
	var progress bytes.Buffer
	verdicts, err := judge(t.Context(), root, mutants, options{jobs: 2}, &progress)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		outcome outcome
		by      string
	}{{caught, "TestSign/positive"}, {caught, "TestSign/positive"}, {survived, ""}, {broken, ""}, {broken, ""}} {
		got := verdicts[i]
		if got.Outcome != want.outcome || want.by != "" && got.By != want.by {
			t.Errorf("%s: want %s by %s, got %s by %s", got.Name, want.outcome, want.by, got.Outcome, got.By)
		}
	}
	if text, err := os.ReadFile(filepath.Join(root, "sign.go")); err != nil || bytes.Contains(text, []byte("return 2")) {
		t.Errorf("the tree itself was changed: %v\n%s", err, text)
	}
	for exit, chosen := range map[int][]verdict{
		exitCaught: verdicts[:2], exitSurvived: verdicts[:3], exitNoVerdict: verdicts,
	} {
		if got := newReport(chosen, 0).exit(); got != exit {
			t.Errorf("%d mutants: want exit code %d, got %d", len(chosen), exit, got)
		}
	}
}

// What fails without a mutant catches nothing.
func TestJudgeRefusesFailingTests(t *testing.T) {
	t.Parallel()
	root := module(t)
	if err := writeFiles(root, map[string]string{"sign.go": "package sign\n\nfunc Sign(n int) int { return n }\n"}); err != nil {
		t.Fatal(err)
	}
	mutants := []mutant{one("any", "sign.go", "return n", "return -n", sign)}
	if _, err := judge(t.Context(), root, mutants, options{jobs: 1}, new(bytes.Buffer)); err == nil {
		t.Error("tests that fail anyway are taken for good ones")
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	const timeout = "panic: test timed out after 3m0s\n"
	for _, c := range []struct {
		name, output string
		hangs        bool
		want         outcome
		by           string
	}{
		{"the innermost test", "--- FAIL: TestA (0s)\n    --- FAIL: TestA/b (0s)\n        --- FAIL: TestA/b/c (0s)\n", false, caught, "TestA/b/c"},
		{"the first of two", "--- FAIL: TestA (0s)\n--- FAIL: TestB (0s)\n", false, caught, "TestA"},
		{"a hang", timeout, false, survived, "it hangs"},
		{"a hang where one is due", timeout, true, caught, "it hangs"},
		{"a panic outside of tests", "panic: oh no\n\ngoroutine 1 [running]:\n", false, caught, "panic: oh no"},
		{"functions that are not valid", "--- FAIL: TestA (0s)\n  ERROR: no such column (SQLSTATE 42703)\n", false, broken, "SQLSTATE 42703"},
		{"no test", "no such file or directory\n", false, broken, "no test failed"},
	} {
		if got, by := read(c.output, c.hangs); got != c.want || by != c.by {
			t.Errorf("%s: want %s by %s, got %s by %s", c.name, c.want, c.by, got, by)
		}
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		exit int
	}{
		{[]string{"-list"}, exitCaught},
		{[]string{"-list", "-run", "^sql"}, exitCaught},
		{[]string{"-run", "no such mutant"}, exitNoVerdict},
		{[]string{"-run", "("}, exitNoVerdict},
		{[]string{"-j", "0"}, exitNoVerdict},
		{[]string{"-nonsense"}, exitNoVerdict},
		{[]string{"surplus"}, exitNoVerdict},
	} {
		var stdout, stderr bytes.Buffer
		exit, err := run(t.Context(), c.args, &stdout, &stderr)
		if exit != c.exit || (exit == exitCaught) != (err == nil) {
			t.Errorf("%q: want exit code %d, got %d (%v)", c.args, c.exit, exit, err)
		}
		if err == nil && stdout.Len() == 0 {
			t.Errorf("%q lists nothing", c.args)
		}
	}
}

func TestReportJSON(t *testing.T) {
	t.Parallel()
	r := newReport([]verdict{{Name: "a", Outcome: caught, By: "TestA"}, {Name: "b", Outcome: survived}}, 0)
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"caught":1,"survived":1,"broken":0,"seconds":0,"mutants":[` +
		`{"name":"a","outcome":"caught","by":"TestA","seconds":0},{"name":"b","outcome":"survived","seconds":0}]}`
	if string(text) != want {
		t.Errorf("got %s", text)
	}
}
