package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

const (
	// testTimeout is what the tests of one suite get; on a quiet machine none takes a quarter of it.
	testTimeout = 3 * time.Minute
	// killAfter is for test processes that do not heed their own timeout.
	killAfter = 30 * time.Second
	// seed makes the random histories those that the gate is known to hold with.
	seed = "CANOPY_SEED=1"
)

func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find module: %w", err)
	}
	file := strings.TrimSpace(string(out))
	if file == "" || file == os.DevNull {
		return "", errors.New("find module: run this inside the module")
	}
	return filepath.Dir(file), nil
}

// copyTree copies the module's files, without what is hidden.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch {
		case relative == ".":
			return nil
		case strings.HasPrefix(entry.Name(), ".") && entry.IsDir():
			return fs.SkipDir
		case entry.IsDir():
			return os.Mkdir(filepath.Join(to, relative), 0o755)
		case !entry.Type().IsRegular():
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, relative), text, 0o644)
	})
}

// judge tries the mutants, a few at a time, each few in a copy of their own.
func judge(ctx context.Context, root string, mutants []mutant, o options, progress io.Writer) ([]verdict, error) {
	work, err := os.MkdirTemp("", "canopy-mutants-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	sandboxes := make(chan *sandbox, o.jobs)
	for i := range o.jobs {
		s := &sandbox{root: filepath.Join(work, fmt.Sprint(i), "tree"), bin: filepath.Join(work, fmt.Sprint(i), "test")}
		if err := os.MkdirAll(s.root, 0o755); err != nil {
			return nil, err
		}
		if err := copyTree(root, s.root); err != nil {
			return nil, fmt.Errorf("copy source tree: %w", err)
		}
		sandboxes <- s
	}
	if !o.trust {
		if err := checkUnchanged(ctx, sandboxes, suitesOf(mutants), progress); err != nil {
			return nil, err
		}
	}
	verdicts := make([]verdict, len(mutants))
	var printing sync.Mutex
	err = each(sandboxes, len(mutants), func(s *sandbox, i int) error {
		v := s.try(ctx, mutants[i])
		verdicts[i] = v
		printing.Lock()
		defer printing.Unlock()
		fmt.Fprintln(progress, v)
		if o.verbose || v.Outcome == broken {
			fmt.Fprintln(progress, indent(v.output))
		}
		return ctx.Err()
	})
	return verdicts, err
}

// each calls fn for 0 … n-1, as many at a time as there are sandboxes.
func each(sandboxes chan *sandbox, n int, fn func(s *sandbox, i int) error) error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		s := <-sandboxes
		all.Go(func() {
			errs[i] = fn(s, i)
			sandboxes <- s
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// checkUnchanged runs the tests on the unchanged tree: a test that fails there catches nothing.
func checkUnchanged(ctx context.Context, sandboxes chan *sandbox, suites []suite, progress io.Writer) error {
	return each(sandboxes, len(suites), func(s *sandbox, i int) error {
		began := time.Now()
		passed, output, err := s.test(ctx, suites[i])
		if err == nil && !passed {
			err = errors.New("fails without a mutant")
		}
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", suites[i], err, indent(output))
		}
		fmt.Fprintf(progress, "%-8s  %-55s %5.1fs\n", "passes", suites[i], time.Since(began).Seconds())
		return nil
	})
}

// sandbox is a copy of the source tree in which one mutant at a time lives.
type sandbox struct {
	root string
	bin  string // the test binary
}

// try plants a mutant, runs its tests and takes it out again.
func (s *sandbox) try(ctx context.Context, m mutant) (v verdict) {
	v = verdict{Name: m.name, Outcome: survived}
	began := time.Now()
	defer func() { v.Seconds = time.Since(began).Seconds() }()
	before, after, err := m.apply(s.root)
	if err == nil {
		err = writeFiles(s.root, after)
	}
	for _, suite := range m.tests {
		if err != nil || v.Outcome != survived {
			break
		}
		var passed bool
		if passed, v.output, err = s.test(ctx, suite); err == nil && !passed {
			v.Outcome, v.By = read(v.output, m.hangs)
		}
	}
	if err == nil {
		err = writeFiles(s.root, before)
	}
	if err != nil {
		v.Outcome, v.By = broken, err.Error()
	}
	return v
}

var (
	failed  = regexp.MustCompile(`(?m)^ *--- FAIL: (\S+)`)
	hung    = regexp.MustCompile(`(?m)^panic: test timed out after`)
	paniced = regexp.MustCompile(`(?m)^(?:panic|fatal error): .*`)
	// notSQL matches what PostgreSQL says to functions that are not valid: such a mutant would fail
	// whatever was tested.
	notSQL = regexp.MustCompile(`SQLSTATE 42[0-9A-Z]{3}`)
)

// read says what the output of a test that did not pass shows, and by which test.
func read(output string, hangs bool) (outcome, string) {
	by := ""
	for _, match := range failed.FindAllStringSubmatch(output, -1) {
		if by == "" || strings.Count(match[1], "/") > strings.Count(by, "/") {
			by = match[1]
		}
	}
	switch {
	case notSQL.MatchString(output):
		return broken, notSQL.FindString(output)
	case hung.MatchString(output) && hangs:
		return caught, "it hangs"
	case hung.MatchString(output):
		return survived, "it hangs"
	case by == "":
		by = paniced.FindString(output)
	}
	if by == "" {
		return broken, "no test failed"
	}
	return caught, by
}

// test builds and runs a suite in the sandbox. The error is why there is no result.
func (s *sandbox) test(ctx context.Context, suite suite) (passed bool, output string, err error) {
	build := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-o", s.bin, suite.pkg)
	build.Dir = s.root
	if out, err := build.CombinedOutput(); err != nil {
		return false, string(out), fmt.Errorf("does not build: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, testTimeout+killAfter)
	defer cancel()
	var out bytes.Buffer
	test := exec.CommandContext(ctx, s.bin, "-test.run="+suite.run, "-test.failfast", "-test.timeout="+testTimeout.String())
	test.Dir = filepath.Join(s.root, filepath.FromSlash(suite.pkg))
	test.Env = append([]string{seed}, os.Environ()...)
	test.Stdout, test.Stderr = &out, &out
	test.WaitDelay = time.Second
	err = test.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); exited && ctx.Err() == nil {
		return false, out.String() + err.Error(), nil
	}
	return err == nil, out.String(), err
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ")
}
