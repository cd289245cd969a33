// Command canopy is all of Canopy in one binary: both services, a development server that needs no
// set-up, and the tools around them. README.md in this directory lists commands, flags, environment
// variables and exit codes.
//
// Package main is the only place that wires the other packages together. Each command is a struct with
// its flags and a Run method in a file of its own; run is main without the process around it, so that
// tests can call it with streams, an environment and a context of their own.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"
)

func main() {
	// Then writing to a pipe that nobody reads is an error, and what was begun is cleaned up: a signal with no
	// handler would end the process at once, and an ignored one would be handed on to Postgres.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, stop := untilSignal(context.Background())
	defer stop()
	os.Exit(run(ctx, &Env{
		Stdin: os.Stdin, Stdout: results(os.Stdout), Stderr: os.Stderr,
		LookupEnv: os.LookupEnv,
		Terminal:  term.IsTerminal(int(os.Stderr.Fd())),
	}, os.Args[1:]))
}

// echo is for how long after the first signal another one counts as the same: timeout(1) and many
// supervisors signal a process and then its group, of which it is one.
const echo = 500 * time.Millisecond

// untilSignal returns a context that the first SIGINT or SIGTERM ends. The second one ends the
// process, for which nothing is left to do: a private Postgres goes down with it.
func untilSignal(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		cancel(interrupted{<-signals})
		for first := time.Now(); time.Since(first) < echo; {
			<-signals
		}
		fmt.Fprintln(os.Stderr, "canopy: stopped by force")
		os.Exit(exitInterrupted)
	}()
	return ctx, func() { signal.Stop(signals) }
}

// interrupted is why a context ended: the user wanted it.
type interrupted struct{ signal os.Signal }

func (i interrupted) Error() string { return i.signal.String() }

// Is makes it the same to callers whether a library returns the context's error or its cause.
func (interrupted) Is(target error) bool { return target == context.Canceled }
