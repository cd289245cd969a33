//go:build unix

package bench

import "syscall"

// openFilesLimit is how many files this process may have open; Go has raised it as far as it may.
func openFilesLimit() (n uint64, ok bool) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, false
	}
	return uint64(limit.Cur), true
}
