// Command mutants is the mutation gate: it plants known bugs into a copy of the source tree, one at a
// time, and shows that the tests catch every one. A bug that survives is a hole in the tests.
//
//	go run ./proptest/mutants              all of them
//	go run ./proptest/mutants -run '^sql'  those whose name matches
//	go run ./proptest/mutants -list        their names and where they are planted
//
// Each mutant (see table.go) replaces exact texts, runs the narrowest tests that must catch it, and is
// caught when one of them fails. First the same tests have to pass on the unchanged copy; -trust leaves
// that out where they have just passed. Random histories take a fixed seed, unless CANOPY_SEED says
// otherwise, so that no verdict hangs on luck.
//
// It prints a line for each mutant, to standard error with --json, when the result is one JSON object on
// standard output. Exit codes: 0, all were caught; 1, some survived; 2, no verdict: bad usage, tests that
// fail anyway, or a mutant that no longer applies or does not build.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code, err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
	}
	os.Exit(code)
}

const (
	exitCaught = iota
	exitSurvived
	exitNoVerdict
)

type options struct {
	only          *regexp.Regexp
	list, verbose bool
	json, trust   bool
	jobs          int
}

func parse(args []string, stderr io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("mutants", flag.ContinueOnError)
	flags.SetOutput(stderr)
	only := flags.String("run", "", "only the mutants whose name matches this `regexp`")
	flags.BoolVar(&o.list, "list", false, "list the mutants and plant none")
	flags.BoolVar(&o.verbose, "v", false, "show what the tests said to each")
	flags.BoolVar(&o.json, "json", false, "print the result as JSON")
	flags.BoolVar(&o.trust, "trust", false, "do not run the tests on the unchanged tree first")
	flags.IntVar(&o.jobs, "j", runtime.NumCPU(), "how many `mutants` to try at once")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 || o.jobs < 1 {
		return o, fmt.Errorf("unexpected arguments %q, or -j below 1", flags.Args())
	}
	o.only, err = regexp.Compile(*only)
	return o, err
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (exit int, err error) {
	o, err := parse(args, stderr)
	if err != nil {
		return exitNoVerdict, err
	}
	var chosen []mutant
	for _, m := range mutants {
		if o.only.MatchString(m.name) {
			chosen = append(chosen, m)
		}
	}
	if len(chosen) == 0 {
		return exitNoVerdict, fmt.Errorf("no mutant matches %q", o.only)
	}
	if o.list {
		list(stdout, chosen)
		return exitCaught, nil
	}
	progress := stdout
	if o.json {
		progress = stderr
	}
	root, err := moduleRoot(ctx)
	if err != nil {
		return exitNoVerdict, err
	}
	began := time.Now()
	verdicts, err := judge(ctx, root, chosen, o, progress)
	if err != nil {
		return exitNoVerdict, err
	}
	r := newReport(verdicts, time.Since(began))
	if !o.json {
		fmt.Fprintln(stdout, r)
		return r.exit(), nil
	}
	encoder := json.NewEncoder(stdout)
	encoder.SetIndent("", "  ")
	return r.exit(), encoder.Encode(r)
}

func list(w io.Writer, mutants []mutant) {
	for _, m := range mutants {
		fmt.Fprintf(w, "%-55s %s\n", m.name, m.changes[0].file)
	}
}
