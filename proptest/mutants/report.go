package main

import (
	"fmt"
	"time"
)

// outcome is what became of a mutant.
type outcome string

const (
	caught   outcome = "caught"
	survived outcome = "survived"
	broken   outcome = "broken" // it does not apply, build or run, which shows nothing
)

// verdict is the outcome and where it comes from.
type verdict struct {
	Name    string  `json:"name"`
	Outcome outcome `json:"outcome"`
	By      string  `json:"by,omitempty"` // the test that caught it, or what is broken
	Seconds float64 `json:"seconds"`

	output string // of the tests
}

func (v verdict) String() string {
	return fmt.Sprintf("%-8s  %-55s %5.1fs  %s", v.Outcome, v.Name, v.Seconds, v.By)
}

// report is the result of the gate.
type report struct {
	Caught   int       `json:"caught"`
	Survived int       `json:"survived"`
	Broken   int       `json:"broken"`
	Seconds  float64   `json:"seconds"`
	Mutants  []verdict `json:"mutants"`
}

func newReport(verdicts []verdict, took time.Duration) report {
	r := report{Mutants: verdicts, Seconds: took.Seconds()}
	for _, v := range verdicts {
		switch v.Outcome {
		case caught:
			r.Caught++
		case survived:
			r.Survived++
		default:
			r.Broken++
		}
	}
	return r
}

func (r report) exit() int {
	switch {
	case r.Broken > 0:
		return exitNoVerdict
	case r.Survived > 0:
		return exitSurvived
	}
	return exitCaught
}

func (r report) String() string {
	return fmt.Sprintf("%d of %d caught, %d survived, %d broken, in %.0f s",
		r.Caught, len(r.Mutants), r.Survived, r.Broken, r.Seconds)
}
