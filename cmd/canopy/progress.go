package main

import (
	"time"

	"github.com/schollz/progressbar/v3"
)

// progress shows the progress of a long task on a terminal. Without one it does nothing.
type progress struct{ bar *progressbar.ProgressBar }

// newProgress begins to show; total -1 stands for not known. End it before anything else is printed.
func newProgress(env *Env, total int64, what string, bytes bool) progress {
	if !env.Terminal {
		return progress{}
	}
	return progress{progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(env.Stderr),
		progressbar.OptionSetDescription(what),
		progressbar.OptionShowBytes(bytes),
		progressbar.OptionShowCount(),
		progressbar.OptionSetWidth(30),
		progressbar.OptionThrottle(65*time.Millisecond),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionSpinnerType(14),
	)}
}

// Bar's errors are those of writing to the terminal: no reason to stop the work.

func (p progress) add(n int64) {
	if p.bar != nil {
		_ = p.bar.Add64(n)
	}
}

// set moves to an absolute position, of a total that may have become known only now.
func (p progress) set(n, total int64) {
	if p.bar != nil {
		if total > 0 {
			p.bar.ChangeMax64(max(n, total))
		}
		_ = p.bar.Set64(n)
	}
}

// Write counts bytes.
func (p progress) Write(b []byte) (int, error) {
	p.add(int64(len(b)))
	return len(b), nil
}

func (p progress) end() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}
