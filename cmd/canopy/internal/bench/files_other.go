//go:build !unix

package bench

// openFilesLimit is not known here.
func openFilesLimit() (n uint64, ok bool) { return 0, false }
