//go:build race

package proptest

// thin is how many times fewer random histories and short lists are tried by default, and how much less deep
// the deep scenario is. Under the race
// detector a replica takes ten times as long for each, and learns nothing from the next one of a kind.
const thin = 10
