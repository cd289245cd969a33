//go:build unix && !linux

package chaos_test

import "syscall"

// dieWithThread does nothing: other systems have no such thing.
func dieWithThread(*syscall.SysProcAttr) {}
