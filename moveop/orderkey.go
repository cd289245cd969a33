package moveop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/big"
	"math/bits"
	"strings"
)

// Order keys
//
// A key is a number in the classic base-62 scheme of fractional indexing (David Greenspan, "Implementing
// Fractional Indexing"): an integer, whose first letter says how many digits follow ('a' one to 'z'
// twenty-six for the integers from 0 up, 'Z' one to 'A' twenty-six for those below), then digits of a
// fraction that does not end in '0'. The digits are 0-9A-Za-z, so byte order is numeric order.
// ValidateOrderKey requires no more, and other implementations' keys have no more in common.
//
// The choice among the many keys between two others decides how fast keys grow. Halving the gap costs one
// bit per insert: a thousand lines typed at one spot would exceed the length limit. So the keys made
// here have a structure inside the fraction too: it is a sequence of components, each an integer in
// the same self-delimiting form. A new key goes to the outermost component that has room, a random step
// beside its neighbour; if none has, it opens a component below its left-hand neighbour. Inserting
// repeatedly at one spot, in either direction, then costs O(log n) digits. Only changing the direction
// all the time still costs bits (about 3 digits for 7 inserts), which is what KeysAfter is for.
//
// A fraction from elsewhere need not have that structure, but it can be read as if it had: a
// component that is cut short is filled up with zeros, and a digit as a head stands for itself,
// below all letters. Read this way, comparing component by component is comparing bytes.
//
// Two replicas that insert at one place keep their runs apart only if each made its run in one go, with
// KeysBetween or KeysAfter. Siblings that they add one by one interleave, though the same everywhere.

// MaxOrderKeyBytes is the length in bytes of the longest order key that replicas and the server accept.
const MaxOrderKeyBytes = 255

// ErrNoRoom is wrapped by the error if no key fits: the neighbours are equal or in the wrong order, or the
// key would be longer than MaxOrderKeyBytes. KeysAfter makes room by re-keying right-hand siblings.
var ErrNoRoom = errors.New("no room between order keys")

const (
	orderDigits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	orderBase   = int64(len(orderDigits))

	// maxHeadDigits is how many digits the heads 'A' and 'z' announce.
	maxHeadDigits = 26
)

// jitter says how the component that tells concurrent keys apart is drawn.
type jitter struct {
	span  int64 // steps are drawn from 1 to span
	least int64 // a gap of fewer integers is too narrow: go one component deeper
}

// Two replicas that insert at the same place at the same time get the same key about once in span
// (at worst, in least/2) times. For one key that is harmless, since siblings are ordered by (key,
// node); for runs it would shuffle them together, so they draw from far more.
var (
	keyJitter = jitter{span: 62 * 62, least: 62}
	runJitter = jitter{span: 62 * 62 * 62 * 62, least: 62 * 62 * 62 * 62}
)

// ValidateOrderKey checks that key is a canonical order key of at most MaxOrderKeyBytes. The error
// wraps ErrInvalidOp.
func ValidateOrderKey(key string) error {
	if key == "" {
		return invalid("the order key is empty")
	}
	if len(key) > MaxOrderKeyBytes {
		return invalid("the order key has %d bytes, the limit is %d", len(key), MaxOrderKeyBytes)
	}
	for i := range len(key) {
		if !isOrderDigit(key[i]) {
			return invalid("the order key %q has a byte that is not in 0-9A-Za-z", key)
		}
	}
	n := 1 + headDigits(key[0])
	switch {
	case n == 1:
		return invalid("the order key %q does not begin with a letter", key)
	case len(key) < n:
		return invalid("the order key %q is shorter than the %d bytes that its head announces", key, n)
	case len(key) > n && key[len(key)-1] == '0':
		return invalid("the fraction of the order key %q ends in 0", key)
	case key[0] == 'A' && strings.Trim(key[1:], "0") == "":
		return invalid("the order key %q is the reserved smallest integer", key)
	}
	return nil
}

// KeyBetween returns a random key strictly between a and b; "" stands for an open end. The error wraps
// ErrNoRoom, ErrInvalidOp (a or b is not an order key), or the error of random.
func KeyBetween(a, b string, random io.Reader) (string, error) {
	keys, err := spread(a, b, 1, keyJitter, random)
	if err != nil {
		return "", err
	}
	return keys[0], nil
}

// KeysBetween returns n ascending keys strictly between a and b; "" stands for an open end. They share a
// random prefix of their own, so that a run stays together even if others concurrently insert at the same
// place. Errors are those of KeyBetween.
func KeysBetween(a, b string, n int, random io.Reader) ([]string, error) {
	if n <= 0 {
		return nil, nil
	}
	if n == 1 {
		return spread(a, b, 1, keyJitter, random)
	}
	prefix, err := spread(a, b, 1, runJitter, random)
	if err != nil {
		return nil, err
	}
	keys := run(prefix[0], n)
	if err := checkLength(longest(keys)); err != nil {
		return nil, err
	}
	return keys, nil
}

// KeysAfter returns keys for n new siblings right after left, however little room there is. Right yields
// the order keys of the siblings after them, in sibling order; it is read only as far as needed. If there
// is no room (left and the first of right are equal, or the keys would be too long), the first
// len(rekeyed) of right get new keys too, rekeyed[i] for the i-th: move them in the same batch. Equal
// neighbours cost one move for each equal key. Keys become too long when hundreds of inserts alternate at
// one spot; re-keying then costs about one move per insert, amortized, but hundreds at a time, seldom
// thousands.
//
// Only a key made on purpose ('z' 255 times) has no room after it at all: then the error wraps ErrNoRoom,
// and all siblings need new keys from KeysBetween("", "", n).
func KeysAfter(left string, right iter.Seq[string], n int, random io.Reader) (keys, rekeyed []string, err error) {
	if n <= 0 {
		return nil, nil, nil
	}
	next, stop := iter.Pull(right)
	defer stop()
	bound, more := next()
	keys, err = KeysBetween(left, bound, n, random)
	if !more || !errors.Is(err, ErrNoRoom) {
		return keys, nil, err
	}
	if rekeyed, err = rekey(left, next, random); err != nil {
		return nil, nil, err
	}
	if keys, err = KeysBetween(left, rekeyed[0], n, random); err != nil {
		return nil, nil, err
	}
	return keys, rekeyed, nil
}

// rekey returns new keys behind left for the sibling that was taken from next before, and for as many
// of those still there as have to move too.
func rekey(left string, next func() (string, bool), random io.Reader) ([]string, error) {
	bound, more := "", true
	for moved, want := 0, 1; ; want *= 2 {
		for more && (moved < want || bound <= left) {
			bound, more = next()
			moved++
		}
		keys, err := spread(left, bound, moved, keyJitter, random)
		if !more || err != nil && !errors.Is(err, ErrNoRoom) || err == nil && longest(keys) <= roomyBytes(moved) {
			return keys, err
		}
	}
}

// roomyBytes is how long the keys of moved re-keyed siblings may be. It leaves room, or the next
// insert would have to re-key again; and the more siblings move, the more it leaves, so that each of
// them moves seldom.
func roomyBytes(moved int) int { return MaxOrderKeyBytes - 80 - 8*bits.Len(uint(moved)) }

func longest(keys []string) int {
	n := 0
	for _, key := range keys {
		n = max(n, len(key))
	}
	return n
}

// run returns n keys below prefix: the integers around zero, but for those that end in '0'.
func run(prefix string, n int) []string {
	keys := make([]string, 0, n)
	half := int64(n / 2)
	for v := -half - half/(orderBase-1); len(keys) < n; v++ {
		if text, _ := encodeComponent(big.NewInt(v), false); text[len(text)-1] != '0' {
			keys = append(keys, prefix+text)
		}
	}
	return keys
}

func checkNeighbours(a, b string) error {
	for _, key := range []string{a, b} {
		if key == "" {
			continue
		}
		if err := ValidateOrderKey(key); err != nil {
			return err
		}
	}
	if a != "" && b != "" && a >= b {
		return fmt.Errorf("%w: %q and %q", ErrNoRoom, a, b)
	}
	return nil
}

func checkLength(n int) error {
	if n > MaxOrderKeyBytes {
		return fmt.Errorf("%w: the key would have %d bytes, the limit is %d", ErrNoRoom, n, MaxOrderKeyBytes)
	}
	return nil
}

// spread returns n ascending keys between a and b. They differ in their last component, which is
// random; there are as few components as leave enough to draw from.
func spread(a, b string, n int, j jitter, random io.Reader) ([]string, error) {
	if err := checkNeighbours(a, b); err != nil {
		return nil, err
	}
	prefix := make([]byte, 0, MaxOrderKeyBytes+maxHeadDigits)
	for top := true; len(prefix) <= MaxOrderKeyBytes; top = false {
		left, right := splitComponent(a), splitComponent(b)
		if a != "" && left.text == right.text {
			prefix, a, b = append(prefix, left.text...), left.rest, right.rest
			continue
		}
		low, high := left.value(), right.value()
		keys, err := j.draw(prefix, low, high, n, random)
		if err != nil || keys != nil {
			return keys, err
		}
		// Too narrow here: go below a component from [left, right), where the upper end is open …
		if a != "" {
			prefix, a, b = append(prefix, left.text...), left.rest, ""
			continue
		}
		if text, ok := encodeComponent(high.Sub(high, big.NewInt(1)), top); ok {
			prefix, b = append(prefix, text...), ""
			continue
		}
		// … or, where right is the smallest component there is, below right. It never ends a key.
		prefix, b = append(prefix, right.text...), right.rest
	}
	return nil, checkLength(len(prefix))
}

// draw returns n keys, prefix and a random component between left and right, nil standing for an open
// end; nil where there are too few components to draw from.
func (j jitter) draw(prefix []byte, left, right *big.Int, n int, random io.Reader) ([]string, error) {
	first, size := j.choices(left, right, int64(n))
	if size < int64(n) {
		return nil, nil
	}
	keys := make([]string, n)
	cell := size / int64(n)
	for i := range keys {
		r, err := randomBelow(cell, random)
		if err != nil {
			return nil, err
		}
		text, ok := encodeNear(first, r, cell, len(prefix) == 0)
		if !ok { // past the greatest or the smallest integer
			return nil, nil
		}
		keys[i] = string(prefix) + text
		if err := checkLength(len(keys[i])); err != nil {
			return nil, err
		}
		first.Add(first, big.NewInt(cell))
	}
	return keys, nil
}

// encodeNear encodes first+r, or its neighbour within the cell where that would end in '0', which no
// key may. A cell holds at least two integers.
func encodeNear(first *big.Int, r, cell int64, top bool) (string, bool) {
	text, ok := encodeComponent(new(big.Int).Add(first, big.NewInt(r)), top)
	if !ok || text[len(text)-1] != '0' {
		return text, ok
	}
	if r++; r == cell {
		r -= 2
	}
	return encodeComponent(new(big.Int).Add(first, big.NewInt(r)), top)
}

// choices returns the size consecutive integers to draw n from, none where the gap is too narrow.
// They are near zero where possible, because those are short; else right behind left, because that is
// how people type, and right before right where left is open; in a gap narrower than that, its middle
// half.
func (j jitter) choices(left, right *big.Int, n int64) (first *big.Int, size int64) {
	span := big.NewInt(n * j.span)
	minusSpan := new(big.Int).Neg(span)
	if (left == nil || left.Cmp(minusSpan) < 0) && (right == nil || right.Cmp(span) > 0) {
		return minusSpan, 2*n*j.span + 1
	}
	if left == nil {
		return minusSpan.Add(right, minusSpan), n * j.span
	}
	first = new(big.Int).Add(left, big.NewInt(1))
	if right == nil {
		return first, n * j.span
	}
	gap := new(big.Int).Sub(right, first)
	if gap.Cmp(span) > 0 {
		return first, n * j.span
	}
	free := gap.Int64()
	if free < n*j.least {
		return nil, 0
	}
	return first.Add(first, big.NewInt(free/4)), free - free/2
}

// randomBelow draws from [0, n). Its bias is below n/2^64.
func randomBelow(n int64, random io.Reader) (int64, error) {
	var b [8]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return 0, fmt.Errorf("draw an order key: %w", err)
	}
	return int64(binary.BigEndian.Uint64(b[:]) % uint64(n)), nil
}

// component is a self-delimiting integer at the beginning of a (part of a) key.
type component struct {
	text string // in full, with zeros where the key is cut short; "" for an open end
	rest string
}

// splitComponent splits off the first component of s, which consists of order digits.
func splitComponent(s string) component {
	if s == "" {
		return component{}
	}
	n := 1 + headDigits(s[0])
	if n > len(s) {
		s += strings.Repeat("0", n-len(s))
	}
	return component{text: s[:n], rest: s[n:]}
}

// value returns the integer, nil for an open end.
func (c component) value() *big.Int {
	if c.text == "" {
		return nil
	}
	return decodeComponent(c.text)
}

// Integers from 0 up are written with heads from 'a' (one digit) to 'z' (twenty-six), shortest first.
// A negative one is the complement of -1 less itself: heads 'Z' down to 'A', all digits complemented.
// Ten more below stand for the heads '9' down to '0', which have no digits.

// decodeComponent returns the integer that text, a full component, stands for.
func decodeComponent(text string) *big.Int {
	negative := text[0] < 'a'
	k := headDigits(text[0])
	v, base, digit := new(big.Int), big.NewInt(orderBase), new(big.Int)
	for i := 1; i <= k; i++ {
		d := int64(digitValue(text[i]))
		if negative {
			d = orderBase - 1 - d
		}
		if i < k {
			d++ // counts the integers with fewer digits
		}
		v.Add(v.Mul(v, base), digit.SetInt64(d))
	}
	if k == 0 {
		v.Add(decodeComponent("z"+strings.Repeat("z", maxHeadDigits)), big.NewInt(1+int64('9'-text[0])))
	}
	if negative {
		v.Not(v)
	}
	return v
}

// encodeComponent is the inverse of decodeComponent; ok is false where v has no component. At the
// top of a key, where a head must be a letter, the lowest ten have none.
func encodeComponent(v *big.Int, top bool) (text string, ok bool) {
	negative := v.Sign() < 0
	rest := new(big.Int).Set(v)
	if negative {
		rest.Not(rest)
	}
	base, count := big.NewInt(orderBase), big.NewInt(orderBase)
	k := 1
	for ; k <= maxHeadDigits && rest.Cmp(count) >= 0; k++ {
		rest.Sub(rest, count)
		count.Mul(count, base)
	}
	if k > maxHeadDigits {
		if !negative || top || rest.Cmp(big.NewInt(9)) > 0 {
			return "", false
		}
		return string(orderDigits[9-rest.Int64()]), true
	}
	out := make([]byte, 1+k)
	out[0] = byte('a' + k - 1)
	if negative {
		out[0] = byte('Z' - k + 1)
	}
	digit := new(big.Int)
	for i := k; i >= 1; i-- {
		rest.QuoRem(rest, base, digit)
		d := digit.Int64()
		if negative {
			d = orderBase - 1 - d
		}
		out[i] = orderDigits[d]
	}
	return string(out), true
}

// headDigits returns how many digits follow a head; a digit as a head stands alone.
func headDigits(head byte) int {
	switch {
	case head >= 'a':
		return int(head-'a') + 1
	case head >= 'A':
		return int('Z'-head) + 1
	}
	return 0
}

func digitValue(c byte) int {
	switch {
	case c >= 'a':
		return int(c-'a') + 36
	case c >= 'A':
		return int(c-'A') + 10
	}
	return int(c - '0')
}

func isOrderDigit(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
}
