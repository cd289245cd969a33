//go:build !race

package proptest

// thin is how many times fewer random histories and short lists are tried by default.
const thin = 1
