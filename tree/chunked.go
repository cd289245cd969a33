package tree

import (
	"iter"
	"slices"
	"sort"
)

// chunkLen bounds a chunk: small enough that inserting in the middle is a short copy, large enough
// that a million elements make a short list of chunks.
const chunkLen = 256

// chunked is a sorted list in chunks: O(log n) to find, and a copy of at most a chunk (and now and
// then of the list of chunks) to change. Appending in order leaves full chunks behind. No chunk is
// empty. The element order is the business of the functions given to search.
type chunked[E any] struct {
	chunks [][]E
	only   [1][]E // what chunks is in as long as there is one, so that a short list is a hop less away
}

// place is a position in a chunked list; it is valid until the next change.
type place struct{ chunk, index int }

// search returns the place of the first element that is not before the target; before must be true
// for a prefix of the list.
func (c *chunked[E]) search(before func(*E) bool) place {
	k := sort.Search(len(c.chunks), func(i int) bool {
		chunk := c.chunks[i]
		return !before(&chunk[len(chunk)-1])
	})
	if k == len(c.chunks) {
		return place{k, 0}
	}
	chunk := c.chunks[k]
	return place{k, sort.Search(len(chunk), func(i int) bool { return !before(&chunk[i]) })}
}

// at returns the element at p, or nil at the end of the list.
func (c *chunked[E]) at(p place) *E {
	if p.chunk == len(c.chunks) {
		return nil
	}
	return &c.chunks[p.chunk][p.index]
}

// insert puts e before the element at p.
func (c *chunked[E]) insert(p place, e E) {
	if p.chunk == len(c.chunks) {
		c.push(e)
		return
	}
	chunk := c.chunks[p.chunk]
	if len(chunk) < chunkLen {
		c.chunks[p.chunk] = slices.Insert(chunk, p.index, e)
		return
	}
	const half = chunkLen / 2
	right := append(make([]E, 0, chunkLen), chunk[half:]...)
	c.chunks[p.chunk] = chunk[:half]
	c.chunks = slices.Insert(c.chunks, p.chunk+1, right)
	if p.index > half {
		p = place{p.chunk + 1, p.index - half}
	}
	c.chunks[p.chunk] = slices.Insert(c.chunks[p.chunk], p.index, e)
}

// push appends e.
func (c *chunked[E]) push(e E) {
	last := len(c.chunks) - 1
	if last >= 0 && len(c.chunks[last]) < chunkLen {
		c.chunks[last] = append(c.chunks[last], e)
		return
	}
	var chunk []E
	if last >= 0 {
		chunk = make([]E, 0, chunkLen)
	} else {
		c.chunks = c.only[:0]
	}
	c.chunks = append(c.chunks, append(chunk, e))
}

// remove takes out the element at p. A chunk that has become small joins its left neighbour, so
// that many removals do not leave many chunks.
func (c *chunked[E]) remove(p place) {
	chunk := slices.Delete(c.chunks[p.chunk], p.index, p.index+1)
	c.chunks[p.chunk] = chunk
	if p.chunk > 0 && len(chunk)+len(c.chunks[p.chunk-1]) <= chunkLen/2 {
		c.chunks[p.chunk-1] = append(c.chunks[p.chunk-1], chunk...)
		chunk = nil
	}
	if len(chunk) == 0 {
		c.chunks = slices.Delete(c.chunks, p.chunk, p.chunk+1)
	}
}

// from visits the elements from p on.
func (c *chunked[E]) from(p place) iter.Seq[*E] {
	return func(yield func(*E) bool) {
		for k := p.chunk; k < len(c.chunks); k++ {
			chunk := c.chunks[k]
			for i := p.index; i < len(chunk); i++ {
				if !yield(&chunk[i]) {
					return
				}
			}
			p.index = 0
		}
	}
}

// next returns the place after p.
func (c *chunked[E]) next(p place) place {
	if p.index+1 < len(c.chunks[p.chunk]) {
		return place{p.chunk, p.index + 1}
	}
	return place{p.chunk + 1, 0}
}

func (c *chunked[E]) len() (n int) {
	for _, chunk := range c.chunks {
		n += len(chunk)
	}
	return n
}
