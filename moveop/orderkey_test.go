package moveop_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/canopysync/canopy/moveop"
)

const orderDigits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// randomOrderKey returns any valid key, with plenty of zeros, z's and short heads.
func randomOrderKey(r *rand.Rand) string {
	for {
		var b strings.Builder
		head := orderDigits[10+r.IntN(52)]
		if r.IntN(2) == 0 {
			head = "AYZabz"[r.IntN(6)]
		}
		b.WriteByte(head)
		n := 26
		switch {
		case head >= 'a':
			n = int(head-'a') + 1
		default:
			n = int('Z'-head) + 1
		}
		for n += r.IntN(6) * r.IntN(6); n > 0; n-- {
			b.WriteByte([]byte{'0', 'z', orderDigits[r.IntN(62)]}[r.IntN(3)])
		}
		if moveop.ValidateOrderKey(b.String()) == nil {
			return b.String()
		}
	}
}

// near returns a valid key that shares much with key.
func near(r *rand.Rand, key string) string {
	for {
		cut := 1 + r.IntN(len(key))
		other := key[:cut] + strings.Repeat("0", r.IntN(4)) + string(orderDigits[r.IntN(62)])
		if moveop.ValidateOrderKey(other) == nil {
			return other
		}
		if r.IntN(8) == 0 {
			return randomOrderKey(r)
		}
	}
}

// neighbours returns two keys in order, each one open ("") now and then.
func neighbours(r *rand.Rand) (a, b string) {
	for {
		a = randomOrderKey(r)
		if b = near(r, a); a > b {
			a, b = b, a
		}
		switch r.IntN(8) {
		case 0:
			return "", b
		case 1:
			return a, ""
		}
		if a != b {
			return a, b
		}
	}
}

func checkBetween(t *testing.T, a, b string, keys ...string) {
	t.Helper()
	low := a
	for _, key := range keys {
		if err := moveop.ValidateOrderKey(key); err != nil {
			t.Fatalf("between %q and %q: %v", a, b, err)
		}
		if key <= low || b != "" && key >= b {
			t.Fatalf("%q is not between %q and %q", key, low, b)
		}
		low = key
	}
}

// Whatever the neighbours, also those made elsewhere, keys are between them bytewise.
func TestKeyBetween_anyNeighbours(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	for range 20_000 {
		a, b := neighbours(r)
		key, err := moveop.KeyBetween(a, b, reader{r})
		if err != nil {
			t.Fatalf("between %q and %q: %v", a, b, err)
		}
		checkBetween(t, a, b, key)
		// At worst, a neighbour's last component is filled up, and one more is put below it.
		if limit := max(len(a), len(b)) + 2*27; len(key) > limit {
			t.Fatalf("between %q and %q: %q", a, b, key)
		}
	}
}

func TestKeysBetween_anyNeighbours(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	for range 2000 {
		a, b := neighbours(r)
		n := r.IntN(200)
		keys, err := moveop.KeysBetween(a, b, n, reader{r})
		if err != nil || len(keys) != n {
			t.Fatalf("%d keys between %q and %q: %d keys, %v", n, a, b, len(keys), err)
		}
		checkBetween(t, a, b, keys...)
	}
}

func TestKeysBetween_none(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, -1} {
		if keys, err := moveop.KeysBetween("a0", "a1", n, iotest.ErrReader(io.EOF)); err != nil || len(keys) != 0 {
			t.Errorf("n = %d: %q, %v", n, keys, err)
		}
		keys, rekeyed, err := moveop.KeysAfter("a0", slices.Values([]string{"a0"}), n, iotest.ErrReader(io.EOF))
		if err != nil || len(keys) != 0 || len(rekeyed) != 0 {
			t.Errorf("n = %d: %q, %q, %v", n, keys, rekeyed, err)
		}
	}
}

func TestKeysBetween_noRoom(t *testing.T) {
	t.Parallel()
	r := reader{newRand(t)}
	highest := strings.Repeat("z", moveop.MaxOrderKeyBytes)
	long := "a0" + strings.Repeat("1", moveop.MaxOrderKeyBytes-2)
	for _, tt := range []struct{ a, b string }{
		{"a0", "a0"}, {"a1", "a0"}, {"a0V", "a0"}, {highest, ""}, {long[:254], long},
	} {
		for n := 1; n <= 2; n++ {
			if keys, err := moveop.KeysBetween(tt.a, tt.b, n, r); !errors.Is(err, moveop.ErrNoRoom) {
				t.Errorf("%d between %q and %q: %q, %v", n, tt.a, tt.b, keys, err)
			}
		}
	}
}

func TestKeysBetween_refuses(t *testing.T) {
	t.Parallel()
	r := reader{newRand(t)}
	for n := 1; n <= 2; n++ {
		for _, tt := range []struct{ a, b string }{{"a", ""}, {"", "a00"}, {"0", "a0"}} {
			if _, err := moveop.KeysBetween(tt.a, tt.b, n, r); !errors.Is(err, moveop.ErrInvalidOp) {
				t.Errorf("%d between %q and %q: %v", n, tt.a, tt.b, err)
			}
		}
		broken := errors.New("broken")
		if _, err := moveop.KeysBetween("a0", "a1", n, iotest.ErrReader(broken)); !errors.Is(err, broken) {
			t.Errorf("a broken random source gave %v", err)
		}
	}
}

// Scenario 11: three replicas each insert a run of 100 between the same two, offline.
func TestKeysBetween_runsStayTogether(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	for _, ends := range [][2]string{{"", ""}, {"a0", "a1"}, {"a0", ""}, {"", "a0"}, {"a0", "a0V"}, {"a0V", "a0W"}, {"bK3", "bK7"}} {
		t.Run(fmt.Sprintf("%q to %q", ends[0], ends[1]), func(t *testing.T) {
			type sibling struct {
				key     string
				replica int
			}
			var all []sibling
			for replica := range 3 {
				keys := must(moveop.KeysBetween(ends[0], ends[1], 100, reader{r}))
				checkBetween(t, ends[0], ends[1], keys...)
				if p := commonPrefix(keys); len(p) < 4 {
					t.Fatalf("a run shares only %q", p)
				}
				for _, key := range keys {
					all = append(all, sibling{key, replica})
				}
			}
			slices.SortFunc(all, func(a, b sibling) int { return strings.Compare(a.key, b.key) })
			seen := map[int]int{}
			for i, s := range all {
				if i > 0 && all[i-1].replica != s.replica && seen[s.replica] > 0 {
					t.Fatalf("the run of replica %d is split at %q", s.replica, s.key)
				}
				seen[s.replica]++
			}
		})
	}
}

func commonPrefix(keys []string) string {
	p := keys[0]
	for !strings.HasPrefix(keys[len(keys)-1], p) {
		p = p[:len(p)-1]
	}
	return p
}

// Replicas that insert at the same place at the same time should seldom meet.
func TestKeyBetween_seldomMeets(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	for _, ends := range [][2]string{{"", ""}, {"a0", "a1"}, {"bK3", ""}, {"", "bK3"}, {"a0", "a0V"}} {
		const draws = 2000
		seen := map[string]bool{}
		for range draws {
			seen[must(moveop.KeyBetween(ends[0], ends[1], reader{r}))] = true
		}
		if len(seen) < draws/2 {
			t.Errorf("between %q and %q: %d different keys in %d", ends[0], ends[1], len(seen), draws)
		}
	}
}

// An editor is the siblings around one spot, the next left and the next right at the ends.
type editor struct {
	t           *testing.T
	random      io.Reader
	left, right []string
	longest     int
	rekeyed     int
}

func last(keys []string) string {
	if len(keys) == 0 {
		return ""
	}
	return keys[len(keys)-1]
}

// insert makes one key at the spot, re-keying right-hand siblings where it has to.
func (e *editor) insert() string {
	key, err := moveop.KeyBetween(last(e.left), last(e.right), e.random)
	if errors.Is(err, moveop.ErrNoRoom) {
		key = e.insertRekeying()
	} else if err != nil {
		e.t.Fatal(err)
	}
	e.longest = max(e.longest, len(key))
	return key
}

func (e *editor) insertRekeying() string {
	behind := func(yield func(string) bool) {
		for _, key := range slices.Backward(e.right) {
			if !yield(key) {
				return
			}
		}
	}
	keys, rekeyed, err := moveop.KeysAfter(last(e.left), behind, 1, e.random)
	if err != nil {
		e.t.Fatal(err)
	}
	for i, key := range rekeyed {
		e.right[len(e.right)-1-i] = key
		e.longest = max(e.longest, len(key))
	}
	e.rekeyed += len(rekeyed)
	bound := ""
	if n := len(e.right) - len(rekeyed); n > 0 {
		bound = e.right[n-1]
	}
	checkBetween(e.t, last(e.left), bound, append(keys, rekeyed...)...)
	return keys[0]
}

// Scenario 11: 100,000 inserts at one spot. In one direction, keys stay short without re-keying
// anything; to and fro, they stay under the cap, and few siblings are re-keyed for an insert.
func TestKeyBetween_oneSpot(t *testing.T) {
	t.Parallel()
	const inserts = 100_000
	r := newRand(t)
	for _, tt := range []struct {
		name    string
		toLeft  func(i int) bool // whether the new key becomes the left neighbour
		longest int
		rekeyed int
	}{
		{"behind the one before", func(int) bool { return true }, 12, 0},
		{"in front of it", func(int) bool { return false }, 12, 0},
		{"to and fro", func(i int) bool { return i%2 == 0 }, moveop.MaxOrderKeyBytes, 2 * inserts},
		{"at random", func(int) bool { return r.IntN(2) == 0 }, moveop.MaxOrderKeyBytes, 2 * inserts},
		{"a few here, a few there", func(i int) bool { return i/10%2 == 0 }, moveop.MaxOrderKeyBytes, 2 * inserts},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := &editor{t: t, random: reader{r}, left: []string{"a0"}, right: []string{"a2", "a1"}}
			for i := range inserts {
				if key := e.insert(); tt.toLeft(i) {
					e.left = append(e.left, key)
				} else {
					e.right = append(e.right, key)
				}
			}
			slices.Reverse(e.right)
			checkBetween(t, "", "", append(e.left, e.right...)...)
			if e.longest > tt.longest || e.rekeyed > tt.rekeyed {
				t.Errorf("longest key %d bytes, %d siblings re-keyed; want at most %d and %d",
					e.longest, e.rekeyed, tt.longest, tt.rekeyed)
			}
			t.Logf("longest key %d bytes, %d siblings re-keyed", e.longest, e.rekeyed)
		})
	}
}

// A list that is written in random order needs no re-keying either.
func TestKeyBetween_randomPlaces(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	var keys []string
	longest := 0
	for range 20_000 {
		at := r.IntN(len(keys) + 1)
		right := ""
		if at < len(keys) {
			right = keys[at]
		}
		key := must(moveop.KeyBetween(last(keys[:at]), right, reader{r}))
		keys = slices.Insert(keys, at, key)
		longest = max(longest, len(key))
	}
	checkBetween(t, "", "", keys...)
	if longest > 40 {
		t.Errorf("the longest key has %d bytes", longest)
	}
}

func TestKeysAfter(t *testing.T) {
	t.Parallel()
	// At the limit: a byte or two less would leave room for the shortest components, drawn seldom.
	long := func(tail string) string { return "a0" + strings.Repeat("1", moveop.MaxOrderKeyBytes-3) + tail }
	highest := strings.Repeat("z", moveop.MaxOrderKeyBytes)
	tests := []struct {
		name    string
		left    string
		right   []string
		n       int
		rekeyed int
	}{
		{"the only child", "", nil, 1, 0},
		{"at the end", "a0", nil, 3, 0},
		{"in front", "", []string{"a0"}, 3, 0},
		{"room", "a0", []string{"a1", "a1"}, 3, 0},
		{"equal neighbours", "a0", []string{"a0", "a1"}, 1, 1},
		{"equal neighbours at the end", "a0", []string{"a0"}, 1, 1},
		{"many equal ones", "a0", []string{"a0", "a0", "a0", "a0", "a0", "a1", "a2"}, 5, 5},
		{"neighbours in the wrong order", "a1", []string{"a0", "a2"}, 1, 1},
		{"long ones", long("1"), []string{long("2"), long("3"), "a1"}, 2, 2},
		{"long ones to the end", long("1"), []string{long("2"), long("3"), long("4")}, 1, 4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			read := 0
			right := func(yield func(string) bool) {
				for _, key := range tt.right {
					if read++; !yield(key) {
						return
					}
				}
			}
			keys, rekeyed, err := moveop.KeysAfter(tt.left, right, tt.n, reader{newRand(t)})
			if err != nil || len(keys) != tt.n {
				t.Fatalf("%d keys, %v", len(keys), err)
			}
			if len(rekeyed) > tt.rekeyed || len(rekeyed) == 0 && tt.rekeyed > 0 {
				t.Errorf("%d re-keyed, want %d", len(rekeyed), tt.rekeyed)
			}
			bound := ""
			if len(rekeyed) < len(tt.right) {
				bound = tt.right[len(rekeyed)]
			}
			checkBetween(t, tt.left, bound, append(slices.Clone(keys), rekeyed...)...)
			if want := min(len(rekeyed)+1, len(tt.right)); read != want {
				t.Errorf("%d siblings read, %d needed", read, want)
			}
			_ = append(keys, "x") // must not reach into rekeyed
			if len(rekeyed) > 0 && rekeyed[0] == "x" {
				t.Error("the two slices overlap")
			}
		})
	}
	t.Run("no room up to the end", func(t *testing.T) {
		t.Parallel()
		_, _, err := moveop.KeysAfter(highest, slices.Values([]string{highest, highest}), 1, reader{newRand(t)})
		if !errors.Is(err, moveop.ErrNoRoom) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a key that is none", func(t *testing.T) {
		t.Parallel()
		_, _, err := moveop.KeysAfter("a0", slices.Values([]string{"a0", "~"}), 1, reader{newRand(t)})
		if !errors.Is(err, moveop.ErrInvalidOp) {
			t.Errorf("got %v", err)
		}
	})
}
