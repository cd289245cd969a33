//go:build unix && !linux

package localpg

import "syscall"

// dieWithThread does nothing: the next start stops what this process leaves running.
func dieWithThread(*syscall.SysProcAttr) {}
