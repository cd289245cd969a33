//go:build unix && !linux

package localpg

import "syscall"

// dieWithThread does nothing: what this process leaves behind, the next start stops.
func dieWithThread(*syscall.SysProcAttr) {}
