package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// results is standard output, with a shield if it is a terminal.
func results(stdout *os.File) io.Writer {
	if term.IsTerminal(int(stdout.Fd())) {
		return &shield{to: stdout}
	}
	return stdout
}

// shield removes control characters from output to a terminal: much of it is other people's text.
type shield struct {
	to   io.Writer
	rest []byte // the beginning of a character
}

func (s *shield) Write(p []byte) (int, error) {
	text := append(s.rest, p...)
	whole := len(text) - unfinished(text)
	s.rest = append([]byte(nil), text[whole:]...)
	if _, err := io.WriteString(s.to, inert(string(text[:whole]), lines)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// unfinished is the number of bytes at the end that may be the beginning of a character.
func unfinished(text []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(text); n++ {
		if end := text[len(text)-n:]; utf8.RuneStart(end[0]) {
			if utf8.FullRune(end) {
				return 0
			}
			return n
		}
	}
	return 0
}

// lines are the control characters that a text of several lines may contain.
const lines = "\n\t"

// inert is text without control characters but those to keep.
func inert(text, keep string) string {
	return escape(text, func(r rune) bool { return !unicode.IsControl(r) || strings.ContainsRune(keep, r) })
}

// escape is text with escapes in place of the characters that are not to be shown.
func escape(text string, shown func(rune) bool) string {
	var b strings.Builder
	for _, r := range text {
		if shown(r) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
