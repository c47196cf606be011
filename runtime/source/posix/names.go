package posix

import (
	"strings"
	"unicode/utf8"
)

// Names on disk are bytes; names on the wire are UTF-8. A byte b that is not
// part of a valid character is shown as the private character U+F700+b, and so
// are the bytes of a character that would be read as one of these. Names that
// are valid text keep what they are, and every name has exactly one text.
const (
	escapes    = 0xF700
	escapeLow  = escapes + 0x80
	escapeHigh = escapes + 0xFF
)

func isEscape(r rune) bool { return r >= escapeLow && r <= escapeHigh }

func toText(name string) string {
	if utf8.ValidString(name) && !strings.ContainsFunc(name, isEscape) {
		return name
	}
	var b strings.Builder
	for len(name) > 0 {
		r, n := utf8.DecodeRuneInString(name)
		if r == utf8.RuneError && n == 1 || isEscape(r) {
			for _, c := range []byte(name[:n]) {
				b.WriteRune(escapes + rune(c))
			}
		} else {
			b.WriteString(name[:n])
		}
		name = name[n:]
	}
	return b.String()
}

func fromText(text string) string {
	if !strings.ContainsFunc(text, isEscape) {
		return text
	}
	out := make([]byte, 0, len(text))
	for _, r := range text {
		if isEscape(r) {
			out = append(out, byte(r-escapes))
		} else {
			out = utf8.AppendRune(out, r)
		}
	}
	return string(out)
}
