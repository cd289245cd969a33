//go:build !race

package proptest

// thin is how many times fewer random histories and short lists are tried by default, and how much less deep
// the deep scenario is.
const thin = 1
